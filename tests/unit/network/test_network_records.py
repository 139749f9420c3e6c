"""Who holds which slot, on disk."""

from pathlib import Path

from atoll.server.domain.egress import EgressPolicy
from atoll.server.domain.ids import new_sandbox_id
from atoll.server.network.records import Record, Records


def test_a_new_object_reads_what_an_old_one_wrote(tmp_path: Path) -> None:
    sandbox_id, record = new_sandbox_id(), Record(number=7, egress=EgressPolicy(internet=False))
    old = Records(tmp_path / "slots")
    old.read()
    old.write(sandbox_id, record)
    old.set_next_number(12)

    new = Records(tmp_path / "slots")

    assert new.read() == {sandbox_id: record}
    assert new.next_number() == 12


def test_a_record_of_the_first_version_is_read(tmp_path: Path) -> None:
    sandbox_id = new_sandbox_id()
    (tmp_path / f"{sandbox_id}.json").write_text('{"number": 3, "internet": false}')

    assert Records(tmp_path).read() == {sandbox_id: Record(number=3, egress=EgressPolicy(internet=False))}


def test_a_damaged_record_holds_nothing(tmp_path: Path) -> None:
    (tmp_path / f"{new_sandbox_id()}.json").write_text("{")
    (tmp_path / f"{new_sandbox_id()}.json").write_text("{}")
    (tmp_path / f"{new_sandbox_id()}.json").write_text('{"number": null, "internet": true}')
    (tmp_path / f"{new_sandbox_id()}.json").write_text('{"number": 3, "egress": {"internet": 1}}')
    (tmp_path / f"{new_sandbox_id()}.json").write_text('{"number": 3, "egress": []}')
    (tmp_path / "next").write_text("x")

    records = Records(tmp_path)

    assert records.read() == {}
    assert records.next_number() == 1
    assert [file.name for file in tmp_path.iterdir()] == ["next"]


def test_removing_and_clearing_may_be_done_again(tmp_path: Path) -> None:
    records, sandbox_id = Records(tmp_path / "slots"), new_sandbox_id()
    records.read()
    records.write(sandbox_id, Record(number=1, egress=EgressPolicy()))

    records.remove(sandbox_id)
    records.remove(sandbox_id)
    records.clear()
    records.clear()

    assert not (tmp_path / "slots").exists()
