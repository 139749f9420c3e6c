"""
What ``atoll dns install`` changed for homes that are gone, and their accounts of it with them.

Each change carries its home's id, so it is found and taken out without any account. Blocks.
"""

import re
import socket
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from atoll.server.domain.errors import FailedPreconditionError
from atoll.server.host import hosts_file, resolv_conf
from atoll.server.host.netlink import Netlink
from atoll.server.host.resolv_conf import ResolvConfError
from atoll.server.main import hosts_names, resolving

_ID = r"([0-9a-f]{6})"
_COMMENT = re.compile(
    re.escape(resolving.comment("ID", "DOMAIN")).replace("ID", _ID).replace("DOMAIN", r"\S+")
)
_MARK = re.compile(hosts_names.mark(_ID))
_LINK = re.compile(resolving.LINK + _ID)


def find(*, resolver: Path = resolv_conf.PATH, hosts: Path = hosts_file.PATH) -> Mapping[str, Sequence[str]]:
    """Tell where something stands of which homes, by their ids, whether they are gone or not."""
    found = defaultdict[str, list[str]](list)
    for _, words in resolv_conf.with_comments(_content(resolver)):
        if line := _COMMENT.fullmatch(words):
            found[line[1]].append(str(resolver))
    for mark in hosts_file.marks(_content(hosts)):
        if block := _MARK.fullmatch(mark):
            found[block[1]].append(str(hosts))
    for _, name in socket.if_nameindex():
        if link := _LINK.fullmatch(name):
            found[link[1]].append(name)
    return found


def take_out(
    home_id: str, *, resolver: Path = resolv_conf.PATH, hosts: Path = hosts_file.PATH
) -> Sequence[str]:
    """
    Take out what stands of a home, of which nothing may run; return where it stood. Again does nothing.

    Raises:
        FailedPreconditionError: a file cannot be changed.
    """
    places = find(resolver=resolver, hosts=hosts).get(home_id, ())
    if str(resolver) in places:
        _out_of_resolver(home_id, resolver)
    if str(hosts) in places:
        hosts_names.take_out(home_id, lambda: None, hosts)
    if (link := resolving.link_name(home_id)) in places:
        with Netlink() as netlink:
            netlink.delete_links([link], group=resolving.group(home_id))
    return places


def _out_of_resolver(home_id: str, path: Path) -> None:
    def edit(content: bytes) -> bytes:
        for address, words in resolv_conf.with_comments(content):
            line = _COMMENT.fullmatch(words)
            if line and line[1] == home_id:
                content = resolv_conf.without(content, address, words)
        return content

    try:
        resolv_conf.change(edit, path)
    except ResolvConfError as error:
        raise FailedPreconditionError(
            f"Lines of home {home_id} stay in {path}: {error}", resolution=error.resolution
        ) from error


def _content(path: Path) -> bytes:
    try:
        # A link is somebody else's file, which we never changed.
        return b"" if path.is_symlink() else path.read_bytes()
    except OSError:
        return b""
