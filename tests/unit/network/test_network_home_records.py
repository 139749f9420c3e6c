"""Where a home says it is, and when it is certainly not there any more."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from atoll.server.host.pidfd import ProcessId
from atoll.server.network.home_records import DIRECTORY, HomeRecord, HomeRecords

HOME_ID = "abc123"


@pytest.fixture
def record(tmp_path: Path) -> HomeRecord:
    directory = tmp_path / "home"
    directory.mkdir()
    (directory / "home.json").write_text(json.dumps({"id": HOME_ID}))
    return HomeRecord.by_this_process(
        identity=directory / "home.json",
        public=tmp_path / "public",
        mounts=(directory / "mounts", directory / "volumes"),
        cgroup="/atoll-abc123",
    )


def test_a_record_is_read_back_until_it_is_removed(record: HomeRecord, tmp_path: Path) -> None:
    records = HomeRecords(tmp_path / "run")
    before = records.read_all()
    records.write(HOME_ID, record)
    during = HomeRecords(tmp_path / "run").read_all()
    records.remove(HOME_ID)
    records.remove(HOME_ID)

    assert before == records.read_all() == {}
    assert during == {HOME_ID: record}


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"identity": 3}'])
def test_a_damaged_record_is_as_none(tmp_path: Path, content: str) -> None:
    (tmp_path / DIRECTORY).mkdir()
    (tmp_path / DIRECTORY / f"{HOME_ID}.json").write_text(content)

    assert HomeRecords(tmp_path).read_all() == {}


def test_a_home_is_gone_with_its_identity(record: HomeRecord) -> None:
    before = record.is_gone(HOME_ID)
    record.identity.unlink()

    assert not before
    assert record.is_gone(HOME_ID)


def test_a_home_is_gone_with_its_directory(record: HomeRecord) -> None:
    record.identity.unlink()
    record.directory.rmdir()

    assert record.is_gone(HOME_ID)


def test_a_home_is_gone_where_another_one_is(record: HomeRecord) -> None:
    record.identity.write_text(json.dumps({"id": "abc124"}))

    assert record.is_gone(HOME_ID)
    assert record.home_there() == "abc124"


@pytest.mark.parametrize("content", ["", "{", "[]", '{"id": 3}', '{"id": "abc1234"}'])
def test_a_home_with_a_damaged_identity_may_be_there(record: HomeRecord, content: str) -> None:
    record.identity.write_text(content)

    assert not record.is_gone(HOME_ID)


def test_a_home_that_cannot_be_looked_at_may_be_there(record: HomeRecord) -> None:
    """As on a file system that answers with errors: a directory in the file's place is not read either."""
    record.identity.unlink()
    record.identity.mkdir()

    assert not record.is_gone(HOME_ID)


@pytest.mark.timeout(10)
def test_nobody_waits_for_a_pipe_in_a_homes_place(record: HomeRecord) -> None:
    record.identity.unlink()
    os.mkfifo(record.identity)

    assert not record.is_gone(HOME_ID)


def test_places_of_mounts_are_written_down_without_links(tmp_path: Path) -> None:
    (tmp_path / "true").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "true")
    record = HomeRecord.by_this_process(
        identity=tmp_path / "link" / "home.json",
        public=tmp_path / "public",
        mounts=(tmp_path / "link" / "mounts",),
        cgroup="/atoll-abc123",
    )

    assert record.mounts == (tmp_path / "true" / "mounts",)
    assert record.directory == tmp_path / "link"


def test_the_server_runs_for_as_long_as_its_process_does(record: HomeRecord) -> None:
    held = record.running_server()
    assert held is not None
    held.close()

    assert held.identity == record.server
    assert record.server.pid == os.getpid()


def test_another_process_with_the_servers_number_is_not_the_server(record: HomeRecord) -> None:
    other = ProcessId(pid=record.server.pid, start_time=record.server.start_time - 1)
    old = HomeRecord(
        identity=record.identity, public=record.public, mounts=(), cgroup=record.cgroup, server=other
    )

    assert old.running_server() is None


def test_a_server_that_nobody_waited_for_does_not_run(record: HomeRecord) -> None:
    with subprocess.Popen(["true"]) as process:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        start_time = int(Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[19])
        ended = HomeRecord(
            identity=record.identity,
            public=record.public,
            mounts=(),
            cgroup=record.cgroup,
            server=ProcessId(pid=process.pid, start_time=start_time),
        )

        assert ended.running_server() is None
