"""Which change of a row tells what, and how it is written."""

import uuid
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from contract.test_snapshot_store import making
from contract.test_store import make

from atoll.server.domain.egress import EgressPolicy
from atoll.server.domain.errors import InvalidArgumentError
from atoll.server.domain.events import (
    Event,
    EventType,
    new_event_id,
    parse_type,
    plain,
    told_by,
    told_of_snapshot,
)
from atoll.server.domain.limits import Limits
from atoll.server.domain.sandbox import EndReason, Sandbox, Status
from atoll.server.domain.upkeep import Fall

NOON = datetime(2026, 1, 1, 12, 0, 0, 250_000, tzinfo=UTC)
RUNNING = make(
    metadata={"a": "b"},
    started_at=NOON - timedelta(seconds=90),
    limits=Limits(cpus=2, memory_bytes=512 * 1024**2, processes=1, disk_bytes=1),
)


def told(old: Sandbox, **changes: object) -> Event:
    event = told_by(old, replace(old, **changes), NOON)  # type: ignore[arg-type]
    assert event is not None
    return event


def test_a_sandbox_is_created_when_it_runs() -> None:
    event = told(replace(RUNNING, status=Status.CREATING, started_at=None), status=Status.RUNNING)

    assert event.type is EventType.CREATED
    assert event.data == {"sandbox_metadata": {"a": "b"}}
    assert (event.sandbox_id, event.team_id, event.template_id, event.at) == (
        RUNNING.id,
        RUNNING.team_id,
        RUNNING.template_id,
        NOON,
    )


def test_a_snapshot_of_a_running_sandbox_is_told() -> None:
    snapshot = making(team_id=RUNNING.team_id, sandbox_id=RUNNING.id, generation=3)

    event = told_of_snapshot(snapshot, {"a": "b"}, NOON)

    assert event.type is EventType.CHECKPOINTED
    assert event.data == {"sandbox_metadata": {"a": "b"}, "snapshot_id": snapshot.id}
    assert (event.sandbox_id, event.team_id, event.template_id, event.generation, event.at) == (
        RUNNING.id,
        RUNNING.team_id,
        snapshot.template_id,
        3,
        NOON,
    )
    assert told_of_snapshot(snapshot, {}, NOON).data == {"snapshot_id": snapshot.id}


@pytest.mark.parametrize("status", [Status.KILLING, Status.KILLED, Status.FAILED])
def test_a_sandbox_is_killed_when_it_no_longer_runs(status: Status) -> None:
    event = told(RUNNING, status=status, end_reason=EndReason.DEADLINE, metadata={})

    assert event.type is EventType.KILLED
    assert event.data == {
        "execution": {
            "started_at": "2026-01-01T11:58:30.250000Z",
            "vcpu_count": 2,
            "memory_mb": 512,
            "execution_time": 90_000,
        },
        "reason": "deadline",
    }


@pytest.mark.parametrize("status", [Status.PAUSED, Status.RESUMING])
def test_who_did_not_run_when_it_was_killed_is_told_apart(status: Status) -> None:
    event = told(replace(RUNNING, status=status), status=Status.KILLING)

    assert event.data is not None
    assert event.data["state"] == "paused"


FALL = Fall(reason="taken_down", at=NOON)


@pytest.mark.parametrize(
    ("old", "fell", "new", "falls", "data"),
    [
        (Status.PAUSING, None, Status.PAUSED, None, {}),
        # Written down before its machine goes.
        (Status.PAUSING, FALL, Status.PAUSED, FALL, {"reason": "taken_down"}),
        # Its machine ended: while it ran, and while it was written down.
        (Status.RUNNING, None, Status.PAUSED, FALL, {"reason": "taken_down"}),
        (Status.PAUSING, None, Status.PAUSED, FALL, {"reason": "taken_down"}),
        # It is back from a fall, and paused as any other.
        (Status.PAUSING, replace(FALL, back_at=NOON), Status.PAUSED, replace(FALL, back_at=NOON), {}),
    ],
)
def test_a_sandbox_is_paused_when_its_machine_is_gone(
    old: Status, fell: Fall | None, new: Status, falls: Fall | None, data: dict[str, str]
) -> None:
    event = told(replace(RUNNING, status=old, fall=fell), status=new, fall=falls)

    assert event.type is EventType.PAUSED
    assert event.data == {"sandbox_metadata": {"a": "b"}, **data}


@pytest.mark.parametrize("fall", [None, FALL])
@pytest.mark.parametrize(
    ("old", "new"),
    [
        (Status.RUNNING, Status.PAUSING),
        (Status.PAUSING, Status.RUNNING),
        (Status.PAUSED, Status.RESUMING),
        (Status.RESUMING, Status.PAUSED),
    ],
)
def test_what_is_begun_and_what_fails_of_a_pause_or_a_resume_is_not_told(
    old: Status, new: Status, fall: Fall | None
) -> None:
    begins = old is Status.RUNNING
    row = replace(RUNNING, status=old, fall=None if begins else fall)

    assert told_by(row, replace(row, status=new, fall=fall if begins else row.fall), NOON) is None


def test_what_an_owner_changes_is_told() -> None:
    assert told(RUNNING, deadline=NOON).data == {"set_timeout": "2026-01-01T12:00:00.250000Z"}
    event = told(RUNNING, egress=EgressPolicy(internet=True))
    assert (event.type, event.data) == (EventType.UPDATED, {"set_network": True})


@pytest.mark.parametrize(
    ("old", "new"),
    [
        # It never ran: for its owner it never was.
        (Status.CREATING, Status.KILLING),
        (Status.CREATING, Status.FAILED),
        (Status.KILLING, Status.KILLED),
        (Status.KILLING, Status.FAILED),
    ],
)
def test_steps_in_between_are_nobodys_business(old: Status, new: Status) -> None:
    row = replace(RUNNING, status=old, started_at=None)

    assert told_by(row, replace(row, status=new, deadline=NOON), NOON) is None
    assert told_by(RUNNING, replace(RUNNING, address="10.0.0.9"), NOON) is None


def test_events_are_written_as_e2b_has_them() -> None:
    event = told(replace(RUNNING, metadata={}, status=Status.CREATING), status=Status.RUNNING)
    written = plain(event)

    assert set(written) == {
        "version", "id", "type", "eventData", "sandboxBuildId", "sandboxExecutionId", "sandboxId",
        "sandboxTeamId", "sandboxTemplateId", "timestamp",
    }  # fmt: skip
    assert (written["version"], written["type"]) == ("v1", "sandbox.lifecycle.created")
    assert written["eventData"] is None
    assert written["timestamp"] == "2026-01-01T12:00:00.250000Z"
    uuid.UUID(written["sandboxExecutionId"])
    killed = told(RUNNING, status=Status.KILLING)
    assert plain(killed)["sandboxExecutionId"] == written["sandboxExecutionId"]
    later = plain(replace(killed, generation=killed.generation + 1))
    assert later["sandboxExecutionId"] != written["sandboxExecutionId"]


def test_ids_are_uuids_and_sort_as_their_times_do() -> None:
    moments = [NOON + timedelta(microseconds=step) for step in (0, 1, 2, 999, 1000, 1_000_000, 10**12)]

    ids = [new_event_id(moment) for moment in moments]

    assert ids == sorted(ids)
    assert {(uuid.UUID(one).version, uuid.UUID(one).variant) for one in ids} == {(7, uuid.RFC_4122)}
    assert len({new_event_id(NOON) for _ in range(1000)}) == 1000


@pytest.mark.parametrize("text", ["", "created", "sandbox.lifecycle.CREATED", "x" * 10_000, "\0"])
def test_unknown_types_are_refused_and_not_repeated_at_length(text: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        parse_type(text)

    assert len(caught.value.message) < 500
