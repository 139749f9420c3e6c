"""Ports for programs that listen later, and again."""

import socket
from pathlib import Path

import pytest

from atoll.server.host import ports


@pytest.fixture
def ephemeral(tmp_path: Path) -> Path:
    """Say that outgoing connections have what they have by default."""
    file = tmp_path / "range"
    file.write_text("32768\t60999\n")
    return file


def drawn(monkeypatch: pytest.MonkeyPatch, *numbers: int) -> None:
    """Have these drawn, the last one over and over."""
    left = list(numbers)
    monkeypatch.setattr("random.SystemRandom.randrange", lambda *_: left.pop(0) if len(left) > 1 else left[0])


def test_no_outgoing_connection_can_have_it(ephemeral: Path) -> None:
    found = {ports.free_port(ephemeral) for _ in range(100)}

    assert len(found) > 50
    assert min(found) >= ports.LOWEST
    assert max(found) < 32768


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_one_that_is_taken_at_any_address_is_passed_over(
    ephemeral: Path, monkeypatch: pytest.MonkeyPatch, kind: socket.SocketKind
) -> None:
    with socket.socket(type=kind) as other:
        other.bind(("127.0.0.2", 0))
        number, free = int(other.getsockname()[1]), ports.free_port(ephemeral)
        drawn(monkeypatch, number, free)

        assert ports.free_port(ephemeral) == free


def test_where_nothing_is_free_that_is_said(ephemeral: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.2", 0))
        drawn(monkeypatch, int(other.getsockname()[1]))

        with pytest.raises(OSError, match="ports from 10000 to 32767 are taken"):
            ports.free_port(ephemeral)


def test_where_outgoing_connections_have_all_any_is_given(tmp_path: Path) -> None:
    (tmp_path / "range").write_text("1024 65535\n")

    assert ports.free_port(tmp_path / "range") >= ports.LOWEST
