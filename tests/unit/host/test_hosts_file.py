"""A block of names in a file, kept and taken out again; files that somebody else changed, or a crash."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atoll.server.host import hosts_file
from atoll.server.host.hosts_file import HostsFileError, with_block, without_block

MARK = "Atoll 0a1b2c"
OTHERS = st.lists(
    st.sampled_from(
        [
            b"127.0.0.1 localhost",
            b"",
            b"# from somebody",
            b"# Atoll ffffff ends 0123456789abcdef",
            b"::1 ip6\r",
            b"\xff",
        ]
    )
)


def names(count: int) -> list[str]:
    return [f"127.0.0.1 3000-i{number:020}.sbx.test" for number in range(count)]


@given(OTHERS, st.booleans(), st.integers(0, 5))
def test_a_block_goes_without_a_trace(lines: list[bytes], ended: bool, count: int) -> None:
    before = b"\n".join(lines) + (b"\n" if ended else b"")

    after = with_block(before, MARK, "sbx.test", names(count))

    assert all(name.encode() in after.split(b"\n") for name in names(count))
    taken = without_block(after, MARK)
    assert (taken.content, taken.found, taken.changed) == (before, count > 0, False)


@given(OTHERS, st.booleans(), st.integers(1, 5))
def test_what_others_add_behind_the_block_stays(lines: list[bytes], ended: bool, count: int) -> None:
    before = b"\n".join(lines) + (b"\n" if ended else b"")
    after = with_block(before, MARK, "sbx.test", names(count)) + b"192.0.2.7 late\n"

    taken = without_block(after, MARK)

    assert not taken.changed
    assert (
        taken.content
        == before + (b"\n" if before and not before.endswith(b"\n") else b"") + b"192.0.2.7 late\n"
    )


def test_what_others_write_inside_stays_and_is_told() -> None:
    before = b"127.0.0.1 localhost\n"
    after = with_block(before, MARK, "sbx.test", names(3))
    line = names(3)[1].encode()

    taken = without_block(after.replace(line, line + b"\n192.0.2.7 mine"), MARK)

    assert taken.changed
    assert taken.content == before + b"192.0.2.7 mine\n"


def test_a_line_that_others_took_out_is_told() -> None:
    after = with_block(b"a\n", MARK, "sbx.test", names(3))

    taken = without_block(after.replace(names(3)[1].encode() + b"\n", b""), MARK)

    assert (taken.content, taken.changed) == (b"a\n", True)


@pytest.mark.parametrize("ended", [True, False])
def test_a_block_that_was_cut_off_goes_whole(ended: bool) -> None:
    before = b"127.0.0.1 localhost" + (b"\n" if ended else b"")
    after = with_block(before, MARK, "sbx.test", names(3))
    begun = after.index(b"dns remove` takes it out") + 40

    for length in range(begun, len(after) - 1):
        assert without_block(after[:length], MARK).content == before


def test_two_homes_do_not_touch_each_other() -> None:
    one = with_block(b"a\n", "Atoll 000001", "one.test", ["127.0.0.1 api.one.test"])
    both = with_block(one, "Atoll 000002", "two.test", ["127.0.0.1 api.two.test"])

    second = without_block(both, "Atoll 000002").content
    first = without_block(both, "Atoll 000001").content

    assert second == one
    assert without_block(first, "Atoll 000002").content == b"a\n"


@given(st.integers(1, 6), st.integers(1, 6), st.data())
def test_whatever_a_crash_leaves_of_a_write_in_place_is_mended(
    old: int, new: int, data: st.DataObject
) -> None:
    base = b"127.0.0.1 localhost\n"
    before = with_block(base, MARK, "sbx.test", names(old))
    after = with_block(base, MARK, "sbx.test", names(6)[-new:])
    # So much of it got there; the file was not cut yet.
    written = data.draw(st.integers(0, len(after)))
    torn = after[:written] + before[written:]

    taken = without_block(torn, MARK)

    # All that is left of ours, if anything, is less than a line that leads nowhere.
    rest = taken.content.removeprefix(base)
    assert taken.content.startswith(base)
    assert b"sbx.test" not in rest
    if written in (0, len(after)):
        assert rest == b""


def test_the_file_keeps_owner_mode_and_attributes(tmp_path: Path) -> None:
    file = tmp_path / "hosts"
    file.write_bytes(b"a\n")
    file.chmod(0o640)
    os.chown(file, 1234, 2345)
    attributes = True
    try:
        os.setxattr(file, "user.kept", b"yes")
    except OSError:
        attributes = False

    hosts_file.change(lambda content: content + b"b\n", tmp_path / "lock", file)

    status = file.stat()
    assert file.read_bytes() == b"a\nb\n"
    assert (status.st_mode & 0o7777, status.st_uid, status.st_gid) == (0o640, 1234, 2345)
    assert not attributes or os.getxattr(file, "user.kept") == b"yes"
    assert sorted(one.name for one in tmp_path.iterdir()) == ["hosts", "lock"]


def test_a_file_that_is_a_mount_is_written_in_place(tmp_path: Path) -> None:
    file, real = tmp_path / "hosts", tmp_path / "real"
    file.touch()
    real.write_bytes(b"a\n" * 5000)
    code = (
        "import sys; from pathlib import Path; from atoll.server.host import hosts_file\n"
        "for text in (b'longer\\n' * 3000, b'', b'short\\n'):\n"
        f"  hosts_file.change(lambda c: b'a\\n' * 5000 + text, Path('{tmp_path}/lock'), Path('{file}'))\n"
    )
    number = real.stat().st_ino
    script = f'mount --bind {real} {file} && exec "$0" -c "$1"'
    command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script]
    done = subprocess.run([*command, sys.executable, code], capture_output=True, text=True, timeout=60)

    assert done.returncode == 0, done.stderr
    assert real.read_bytes() == b"a\n" * 5000 + b"short\n"
    assert real.stat().st_ino == number
    assert file.read_bytes() == b""
    assert sorted(one.name for one in tmp_path.iterdir()) == ["hosts", "lock", "real"]


def test_a_link_a_missing_and_a_very_long_file_are_told(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "long").write_bytes(b"#" * (17 << 20))
    for name, told in (("link", "is a link to"), ("none", "No such file"), ("long", "has 17825792 bytes")):
        with pytest.raises(HostsFileError, match=told):
            hosts_file.change(lambda _: b"", tmp_path / "lock", tmp_path / name)
