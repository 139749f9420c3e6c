"""``atoll doctor``: looks at all that a server needs of this machine, and says what to do about it."""

import asyncio
import os
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from pathlib import Path

import click

from atoll.cli import certificate, dns, exports, machine, options, output
from atoll.cli.machine import Check, fail, ok, warn
from atoll.cli.server_here import need_server, quieten
from atoll.cli.up import missing_packages
from atoll.sdk.errors import AtollError

_MARKS = {"ok": "✓", "warn": "!", "fail": "✗"}
_COLORS = {"ok": "green", "warn": "yellow", "fail": "red"}
# Controllers that limit sandboxes, as each version of cgroups calls them.
_CONTROLLERS_V1 = ("cpu", "memory", "pids", "freezer")
_CONTROLLERS_V2 = ("cpu", "memory", "pids")


@click.command()
@options.home
@options.as_json
def doctor(home: Path, as_json: bool) -> int:
    """
    Check this machine: can it run Atoll, and what stands in the way?

    Exit codes: 0 nothing fails; 1 something does.
    """
    quieten()
    checks = [check for look in _looks(home) for check in _guarded(look)]
    if as_json:
        output.show_json(checks)
    else:
        for check in checks:
            mark = click.style(_MARKS[check.status], fg=_COLORS[check.status])
            click.echo(f"{mark} {check.name:12} {output.safe(check.message)}")
            if check.resolution:
                click.echo(f"  {'':12} → {output.safe(check.resolution)}")
    return 1 if any(check.status == "fail" for check in checks) else 0


def _looks(home: Path) -> list[Callable[[], Iterator[Check]]]:
    return [
        machine.kernel,
        machine.container,
        _rights,
        _server,
        _packages,
        _control_groups,
        _network,
        lambda: _homes(home),
        _settings,
        lambda: _runsc(home),
        lambda: machine.disk(home),
        machine.memory,
        machine.resolver,
        _authorities,
        machine.proxies,
        machine.kvm,
        lambda: _up(home),
        lambda: certificate.look(home),
        lambda: _names(home),
    ]


def _guarded(look: Callable[[], Iterator[Check]]) -> Iterator[Check]:
    """One look that fails must not hide the others."""
    try:
        yield from look()
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("atoll"):
            raise
        # Only SDK and command line are installed: `_server` has said so.
    except Exception as error:
        if not output.is_told(error):
            raise
        told = error if isinstance(error, AtollError) else None
        text = str(error).splitlines()[0]
        yield warn(getattr(look, "__name__", "check").strip("_<>"), text, (told and told.resolution) or "")


def _rights() -> Iterator[Check]:
    if os.geteuid() == 0:
        yield ok("rights", "root")
    else:
        yield warn("rights", "not root: not everything can be looked at", "sudo atoll doctor")


def _server() -> Iterator[Check]:
    need_server()
    from atoll.server.main.gvisor_host import program

    for name in ("atoll-guestd", "atoll-edge", "atoll-blobs"):
        yield ok("programs", str(program(name)))


def _packages() -> Iterator[Check]:
    missing = missing_packages()
    if missing:
        yield fail("packages", f"missing: {' '.join(missing)}", f"apt-get install --yes {' '.join(missing)}")
    else:
        yield ok("packages", "all there")


def _control_groups() -> Iterator[Check]:
    from atoll.server.host import cgroup, cgroup_base

    version = cgroup.version()
    if version == 1:
        missing = [name for name in _CONTROLLERS_V1 if not (cgroup_base.MOUNT / name).is_dir()]
    else:
        there = (cgroup_base.MOUNT / "cgroup.controllers").read_text().split()
        missing = [name for name in _CONTROLLERS_V2 if name not in there]
    if missing:
        yield fail(
            "cgroups",
            f"version {version}, without {', '.join(missing)}",
            "Limits do not hold without; the kernel's command line may switch them off (cgroup_disable=).",
        )
    else:
        yield ok("cgroups", f"version {version}, all controllers")


def _network() -> Iterator[Check]:
    from atoll.server.network import findings

    if os.geteuid() != 0:
        yield warn("network", "not looked at: needs root", "sudo atoll doctor")
        return
    found = findings.look()
    for one in found:
        make = fail if one.serious else warn
        yield make("network", f"{one.message}: {one.effect}", one.resolution)
    if not found:
        yield ok("network", "nftables works, and nothing stands in the way")


def _homes(own: Path) -> Iterator[Check]:
    """Look for homes that were deleted without `atoll down`."""
    from atoll.server.main import deleted_homes
    from atoll.server.settings.home import find_home

    if os.geteuid() != 0:
        yield warn("homes", "not looked at: needs root", "sudo atoll doctor")
        return
    found = deleted_homes.look()
    odd = 0
    for home in found:
        end = f"sudo atoll down --home-id {home.id}"
        if home.is_gone and home.life:
            odd += 1
            yield warn(
                "homes",
                f"home {home.id} at {home.directory} was deleted, and of it run on: {home.life}",
                f"{end}{' --force' if home.life.sandboxes else ''}, unless its disk is only not mounted",
            )
        elif home.record is None and not home.life:
            odd += 1
            yield warn(
                "homes",
                f"home {home.id} of an older version has {home.claimed}, and its directory is not known",
                f"If it was deleted: {end}. Else its next start says where it is.",
            )
    # After a restart of the machine nobody says yet where its own is.
    mine = find_home(own)
    here = {home.id for home in found if not home.is_gone} | ({mine.id} if mine is not None else set())
    for home_id, places in _names_left(here).items():
        odd += 1
        yield warn(
            "homes",
            f"home {home_id} is deleted or not up, and `atoll dns install` was called for it: its lines "
            f"are in {', '.join(places)}",
            f"If it was deleted: sudo atoll down --home-id {home_id} takes them out.",
        )
    if not odd:
        yield ok("homes", f"{len(found)} with an address range, and none of them was deleted while it ran")


def _names_left(here: Container[str]) -> Mapping[str, Sequence[str]]:
    from atoll.server.main import left_names

    return {home_id: places for home_id, places in left_names.find().items() if home_id not in here}


def _settings() -> Iterator[Check]:
    for name in ("vm.max_map_count", "net.ipv4.ip_forward"):
        value = Path("/proc/sys", *name.split(".")).read_text().strip()
        yield ok("settings", f"{name} = {value} (`atoll up` sets what it needs, `atoll down` puts it back)")


def _runsc(home: Path) -> Iterator[Check]:
    """Try the runsc that `atoll up` would take: what it is called proves nothing."""
    from atoll.server.main.gvisor_host import program
    from atoll.server.runtimes.gvisor.release import VERSION, RunscRelease

    if os.geteuid() != 0:
        yield warn("runsc", "not tried: needs root", "sudo atoll doctor")
        return
    cache = Path(os.environ.get("ATOLL_CACHE_DIR") or home)
    found, failures = asyncio.run(RunscRelease(cache / "runsc", probe=program("atoll-guestd")).find())
    for failure in failures:
        yield warn("runsc", failure.splitlines()[0], f"`atoll up` takes another one, or gets {VERSION}.")
    if found is not None:
        yield ok("runsc", f"{found} runs a sandbox with a network")
    elif not failures:
        yield ok("runsc", f"not installed yet; `atoll up` gets {VERSION} and tries it")


def _authorities() -> Iterator[Check]:
    from atoll.server.images.authorities import host_extras

    count = len(host_extras())
    if count:
        yield ok(
            "ca", f"{count} beyond the usual ones; sandboxes trust them too (--no-guest-ca: they do not)"
        )
    else:
        yield ok("ca", "the usual ones")


def _names(home: Path) -> Iterator[Check]:
    """Look whether names of the home's domain resolve, and go to it."""
    from atoll.server.main import resolving
    from atoll.server.settings.home import find_home

    try:
        flags = exports.edge_status(home)["flags"]
    except AtollError:
        flags = {}
    found = find_home(home)
    changed = resolving.installed(found) if found else None
    if not flags.get("domain"):
        if changed:
            yield warn(
                "dns",
                f"{changed.address} is asked for {changed.domain}, and nobody answers",
                "atoll dns remove",
            )
        return
    domain = flags["domain"]
    if dns.resolves(domain):
        yield ok("dns", f"names of {domain} resolve" + (f", by way of {changed.way}" if changed else ""))
    elif changed:
        yield fail(
            "dns",
            f"names of {domain} do not resolve, though `atoll dns install` was called",
            "Somebody else has changed the resolver since: call it again.",
        )
    else:
        yield warn("dns", f"names of {domain} do not resolve on this machine", "sudo atoll dns install")


def _up(home: Path) -> Iterator[Check]:
    try:
        url = exports.api_url(home)
    except AtollError as error:
        yield ok("server", error.message)
        return
    if _has_server(home):
        yield ok("server", f"up at {url}")
    else:
        # The edge outlives the server.
        yield warn(
            "server",
            f"ended; sandboxes live on, and the edge still listens at {url}",
            f"sudo atoll up{options.home_words(home)}",
        )


def _has_server(home: Path) -> bool:
    from atoll.server.settings.home import find_home

    found = find_home(home)
    return found is not None and found.server_pid() is not None
