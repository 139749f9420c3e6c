"""A name server put first in a file, and taken out again; files that cannot be changed."""

import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atoll.server.host import resolv_conf
from atoll.server.host.resolv_conf import ResolvConfError

OURS = "127.83.1.2"
LINES = st.lists(
    st.sampled_from(
        [
            b"nameserver 192.0.2.1",
            b"  nameserver\t2001:db8::1",
            b"search a.example",
            b"# nameserver 1.1.1.1",
            b"",
        ]
    )
)


@given(LINES, st.booleans())
def test_ours_comes_first_and_goes_without_a_trace(lines: list[bytes], ended: bool) -> None:
    before = b"\n".join(lines) + (b"\n" if ended else b"")

    after = resolv_conf.with_first(before, OURS, "by us")

    assert resolv_conf.servers(after) == [OURS, *resolv_conf.servers(before)]
    taken_out = resolv_conf.without(after, OURS, "by us")
    # A newline that was missing at the end has to be there; `atoll dns remove` knows the bytes.
    assert taken_out in (before, before + b"\n")


def test_the_file_stays_the_same_file(tmp_path: Path) -> None:
    file = tmp_path / "resolv.conf"
    file.write_bytes(b"nameserver 192.0.2.1\n")
    file.chmod(0o640)
    number = file.stat().st_ino

    resolv_conf.change(lambda content: content + b"# longer\n", file)
    resolv_conf.change(lambda _: b"short\n", file)

    assert file.read_bytes() == b"short\n"
    assert (file.stat().st_ino, file.stat().st_mode & 0o777) == (number, 0o640)


def test_a_link_is_somebody_elses_file(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"nameserver 192.0.2.1\n")
    (tmp_path / "resolv.conf").symlink_to(tmp_path / "real")

    with pytest.raises(ResolvConfError, match=r"is a link to .*, which another program writes"):
        resolv_conf.change(lambda _: b"", tmp_path / "resolv.conf")

    assert (tmp_path / "real").read_bytes() == b"nameserver 192.0.2.1\n"


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(ResolvConfError, match="There is no"):
        resolv_conf.change(lambda _: b"", tmp_path / "resolv.conf")
    assert list(tmp_path.iterdir()) == []


def test_an_immutable_file_is_told(tmp_path: Path) -> None:
    file = tmp_path / "resolv.conf"
    file.write_bytes(b"nameserver 192.0.2.1\n")
    if subprocess.run(["chattr", "+i", file], capture_output=True, timeout=60).returncode != 0:
        pytest.skip("this file system has no immutable files")
    try:
        with pytest.raises(ResolvConfError, match="is immutable"):
            resolv_conf.change(lambda _: b"", file)
    finally:
        subprocess.run(["chattr", "-i", file], check=True, timeout=60)
