"""What is asked of the kernel's interfaces without a socket of pyroute2's."""

import errno
import os
import socket

import pytest

from atoll.server.host.netlink import Netlink, NetlinkError

# It asks nobody here.
UNOPENED = Netlink.__new__(Netlink)


def test_an_interface_is_found_by_its_name_and_one_that_is_not_there_is_none() -> None:
    index = socket.if_nametoindex("lo")

    assert UNOPENED.index("lo") == index
    assert UNOPENED.names()[index] == "lo"
    assert UNOPENED.index("none") is None


def test_an_interface_that_cannot_be_looked_for_is_not_taken_for_one_that_is_not_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def no_descriptor(*_: object) -> object:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    def no_number(*_: object) -> object:
        # So it says, whatever the reason is.
        raise OSError("no interface with this name")

    monkeypatch.setattr(socket, "if_nametoindex", no_number)
    monkeypatch.setattr(socket, "if_nameindex", no_descriptor)

    with pytest.raises(NetlinkError, match="Too many open files"):
        UNOPENED.index("lo")
