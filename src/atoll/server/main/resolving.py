"""
``atoll dns``: has this machine ask a home for names of its domain, and undoes that.

What is changed is written down in the home before it is, so that it is undone whatever happens between.
Everything here blocks, and none of it needs a running server.
"""

import base64
import json
from dataclasses import asdict, dataclass
from ipaddress import IPv4Interface
from pathlib import Path

from atoll.server.domain.errors import FailedPreconditionError, InternalError
from atoll.server.host import hosts_file, resolv_conf, resolvectl
from atoll.server.host.netlink import Netlink, NetlinkError
from atoll.server.host.resolv_conf import ResolvConfError
from atoll.server.host.resolvectl import ResolvectlError
from atoll.server.main import hosts_names
from atoll.server.settings.home import Home

# Nothing but our own questions goes through the link.
_MTU = 1500
# Not those that slots use; a link's group has 32 bits, and a home's id 24.
_GROUPS = 0x41000000
# Before the home's id; an interface's name has 15 characters.
LINK = "atdns"


@dataclass(frozen=True, kw_only=True)
class Installed:
    """
    What was changed.

    Attributes:
        way: "resolv.conf" or "resolved", or "hosts": then the server changes that file.
        address: of our name server, or the file that has the names.
        domain: whose names it knows.
        before: the file as it was, in base64; empty for resolved.
        after: the file as it was left, in base64; empty for resolved.
    """

    way: str
    address: str
    domain: str
    before: str = ""
    after: str = ""


def installed(home: Home) -> Installed | None:
    """
    Read what was changed for a home; None when nothing was.

    Raises:
        InternalError: somebody changed what was written down.
    """
    try:
        return Installed(**json.loads(_record(home).read_text()))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise InternalError(
            f"{_record(home)} does not say what was changed",
            details=str(error),
            resolution=f"Look for lines of Atoll in {resolv_conf.PATH}, take them out, and remove that file.",
        ) from error


def install(home: Home, *, address: str, domain: str, path: Path = resolv_conf.PATH) -> str:
    """
    Have this machine ask the address for names of the domain; again is the same. Return what was done.

    Raises:
        FailedPreconditionError: this machine's resolver cannot be changed.
    """
    before = installed(home)
    if before is not None and (before.address, before.domain) != (address, domain):
        remove(home, path=path)
    try:
        if resolvectl.in_use(path, _servers(path)):
            return _install_resolved(home, address, domain)
        return _install_file(home, address, domain, path)
    except ResolvConfError as error:
        raise _cannot(str(error), error.resolution) from error
    except (ResolvectlError, NetlinkError) as error:
        raise _cannot(str(error), "Is systemd-resolved running? `resolvectl status` says.") from error


def install_hosts(home: Home, *, domain: str, path: Path = resolv_conf.PATH) -> None:
    """
    Have the server keep names in /etc/hosts from its next look on; nothing else stays installed.

    Raises:
        FailedPreconditionError: what was installed before cannot be undone.
    """
    before = installed(home)
    if before is not None and before.way != "hosts":
        remove(home, path=path)
    _write(home, Installed(way="hosts", address=str(hosts_file.PATH), domain=domain))


def wants_hosts(home: Home) -> bool:
    """Say whether names are to be kept in /etc/hosts; takes microseconds."""
    if not _record(home).exists():
        return False
    try:
        done = installed(home)
    except InternalError:
        # `atoll dns` says so.
        return False
    return done is not None and done.way == "hosts"


def remove(home: Home, *, path: Path = resolv_conf.PATH) -> str | None:
    """
    Undo ``install``: the file is as it was, byte for byte; None when there is nothing to undo.

    Where somebody else has changed the file since, our own lines are taken out and theirs are left; what is
    returned says so.

    Raises:
        FailedPreconditionError: the file cannot be changed.
    """
    done = installed(home)
    if done is None:
        return None
    if done.way == "hosts":
        return hosts_names.take_out(home.id, lambda: _record(home).unlink(missing_ok=True))
    if done.way == "resolved":
        with Netlink() as netlink:
            netlink.delete_links([link_name(home.id)], group=group(home.id))
        _record(home).unlink()
        return "systemd-resolved is as it was."
    was, left = base64.b64decode(done.before), base64.b64decode(done.after)
    said = f"{path} is as it was."

    def undo(content: bytes) -> bytes:
        nonlocal said
        if content in (left, was):
            return was
        shorter = resolv_conf.without(content, done.address, comment(home.id, done.domain))
        if shorter != content:
            said = f"Somebody else has changed {path} since: our lines are out, the rest is as they left it."
        else:
            said = f"Somebody else has changed {path} since, and our lines are not in it: left as it is."
        return shorter

    try:
        resolv_conf.change(undo, path)
    except ResolvConfError as error:
        if path.exists() and not path.is_symlink():
            raise _cannot(str(error), error.resolution) from error
        said = f"Somebody else has replaced {path} since: left as it is."
    _record(home).unlink()
    return said


def link_name(home_id: str) -> str:
    """Name the link that carries our address for systemd-resolved."""
    return f"{LINK}{home_id}"


def _install_file(home: Home, address: str, domain: str, path: Path) -> str:
    words = comment(home.id, domain)

    def edit(content: bytes) -> bytes:
        if address in resolv_conf.servers(content):
            return content
        after = resolv_conf.with_first(content, address, words)
        record = Installed(
            way="resolv.conf",
            address=address,
            domain=domain,
            before=base64.b64encode(content).decode(),
            after=base64.b64encode(after).decode(),
        )
        # Before the file: what is written down and not done is nothing to undo.
        _write(home, record)
        return after

    resolv_conf.change(edit, path)
    behind = [server for server in resolv_conf.servers(resolv_conf.read(path)) if server != address]
    return f"{address} is first in {path}; behind it: {', '.join(behind) or 'nobody'}."


def _install_resolved(home: Home, address: str, domain: str) -> str:
    link = link_name(home.id)
    _write(home, Installed(way="resolved", address=address, domain=domain))
    with Netlink() as netlink:
        # What an earlier try left is of no use: resolved forgets it when it restarts.
        netlink.delete_links([link], group=group(home.id))
        with Path("/proc/self/ns/net").open() as here:
            mac, peer_mac = (f"02:61:{home.id[:2]}:{home.id[2:4]}:{home.id[4:]}:0{n}" for n in (1, 2))
            index = netlink.add_veth(
                link,
                mac=mac,
                peer=f"{link}p",
                peer_mac=peer_mac,
                peer_index=0,
                peer_netns=here.fileno(),
                mtu=_MTU,
            )
            other = netlink.index(f"{link}p")
        assert other is not None
        # resolved sends a link's questions through the link, and the kernel loops them back only to an
        # address that this very link has. No hardware addresses: nothing is ever sent.
        netlink.add_address(index, IPv4Interface(f"{address}/32"))
        netlink.set_up(other, arp=False)
        netlink.set_up(index, arp=False)
    resolvectl.route(link, address, domain)
    return f"systemd-resolved asks {address} for names of {domain}."


def group(home_id: str) -> int:
    """Number the link's group: the home's own; slots go by other numbers."""
    return _GROUPS + int(home_id, 16)


def _servers(path: Path) -> list[str]:
    try:
        return resolv_conf.servers(path.read_bytes())
    except OSError:
        return []


def comment(home_id: str, domain: str) -> str:
    """Say in the file whose line it is."""
    return f"Atoll {home_id}, names of {domain}: `atoll dns remove` takes this out"


def _record(home: Home) -> Path:
    return home.path / "dns.json"


def _write(home: Home, record: Installed) -> None:
    file = _record(home)
    beside = file.with_suffix(".new")
    beside.write_text(json.dumps(asdict(record), indent=1) + "\n")
    beside.replace(file)


def _cannot(message: str, resolution: str) -> FailedPreconditionError:
    return FailedPreconditionError(
        f"This machine's resolver cannot be pointed at Atoll: {message}", resolution=resolution
    )
