"""What the command line keeps of real sandboxes, and what it says of those it cannot."""

import json
from collections.abc import Iterator

import pytest
from support.home import Atoll


@pytest.fixture(scope="module")
def sandbox_id(atoll: Atoll) -> Iterator[str]:
    made = said(atoll, "sandbox", "create", "-t", "minimal", "--timeout", "900")
    yield made
    atoll("sandbox", "kill", made)


def said(atoll: Atoll, *words: str) -> str:
    """Return what a verb prints that succeeds."""
    done = atoll(*words)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode().strip()


def refused(atoll: Atoll, *words: str) -> tuple[int, str]:
    """Return the exit code of a verb that fails and prints nothing else, and the last line of why."""
    done = atoll(*words)
    assert done.stdout == b""
    assert b"Traceback" not in done.stderr
    return done.returncode, done.stderr.decode().strip().splitlines()[-1]


def inside(atoll: Atoll, sandbox_id: str, script: str) -> str:
    return said(atoll, "sandbox", "exec", sandbox_id, "--", "sh", "-c", script)


@pytest.mark.heavy
def test_what_is_paused_goes_on_with_its_memory_or_boots_with_its_files(
    atoll: Atoll, sandbox_id: str
) -> None:
    inside(atoll, sandbox_id, "echo held | tee /dev/shm/held > /home/user/held")

    assert said(atoll, "sandbox", "pause", sandbox_id) == sandbox_id
    assert said(atoll, "sandbox", "resume", sandbox_id, "--timeout", "900") == sandbox_id
    assert inside(atoll, sandbox_id, "cat /dev/shm/held /home/user/held") == "held\nheld"

    said(atoll, "sandbox", "pause", sandbox_id, "--files-only")
    said(atoll, "sandbox", "resume", sandbox_id, "--timeout", "900")
    assert inside(atoll, sandbox_id, "cat /dev/shm/held /home/user/held; true") == "held"


def test_forks_go_on_from_where_it_is(atoll: Atoll, sandbox_id: str) -> None:
    inside(atoll, sandbox_id, "echo mine > /dev/shm/held")

    children = said(atoll, "sandbox", "fork", sandbox_id, "-n", "2", "--timeout", "300").splitlines()

    assert len({sandbox_id, *children}) == 3
    for child in children:
        assert inside(atoll, child, "cat /dev/shm/held; hostname").split() == ["mine", child]
    said(atoll, "sandbox", "kill", *children)
    # What they were made from was theirs only.
    assert said(atoll, "snapshot", "list", "--sandbox", sandbox_id, "--json") == "[]"


@pytest.mark.heavy
def test_of_snapshots_with_one_name_the_newest_has_it(atoll: Atoll, sandbox_id: str) -> None:
    taken = []
    for text in ("first", "second"):
        inside(atoll, sandbox_id, f"echo {text} > /dev/shm/held")
        taken.append(said(atoll, "sandbox", "snapshot", sandbox_id, "--name", "kept"))
    taken.append(said(atoll, "sandbox", "snapshot", sandbox_id, "--files-only"))

    listed = json.loads(said(atoll, "snapshot", "list", "--sandbox", sandbox_id, "--json"))
    table = said(atoll, "snapshot", "list").splitlines()
    made = said(atoll, "sandbox", "create", "-t", "kept", "--timeout", "300")

    assert [(one["id"], one["name"], one["memory"]) for one in listed] == [
        (taken[2], None, False),
        (taken[1], "kept", True),
        (taken[0], None, True),
    ]
    assert {line.split()[0] for line in table[1:]} >= set(taken)
    assert inside(atoll, made, "cat /dev/shm/held") == "second"
    said(atoll, "sandbox", "kill", made)
    for reference in ("kept", taken[0], taken[2]):
        assert said(atoll, "snapshot", "delete", reference) == ""
    assert refused(atoll, "snapshot", "delete", "kept") == (1, "atoll: Snapshot 'kept' not found")


@pytest.mark.parametrize("verb", ["pause", "resume", "fork", "snapshot"])
def test_a_sandbox_that_is_not_there_is_named(atoll: Atoll, verb: str) -> None:
    stranger = "i" + "0" * 20

    code, why = refused(atoll, "sandbox", verb, stranger)

    assert (code, stranger in why, "doesn't exist" in why) == (1, True, True)


@pytest.mark.heavy
def test_what_cannot_be_is_said(atoll: Atoll, sandbox_id: str) -> None:
    assert refused(atoll, "sandbox", "fork", sandbox_id, "-n", "21") == (1, "atoll: count must be 1 to 20")
    code, why = refused(atoll, "sandbox", "fork", sandbox_id, "-n", "0")
    assert (code, "0 is not in the range" in why) == (2, True)
    code, why = refused(atoll, "sandbox", "snapshot", sandbox_id, "--name", "No Name")
    assert (code, "1 to 64 of a-z" in why) == (1, True)
    taken = refused(atoll, "sandbox", "snapshot", sandbox_id, "--name", "minimal")
    assert taken == (1, "atoll: A template is called 'minimal'")

    said(atoll, "sandbox", "pause", sandbox_id)
    for verb in ("fork", "snapshot", "pause"):
        told = refused(atoll, "sandbox", verb, sandbox_id)
        assert told == (1, f"atoll: Sandbox {sandbox_id} is paused, not running")
    said(atoll, "sandbox", "resume", sandbox_id, "--timeout", "900")
    assert said(atoll, "snapshot", "list", "--sandbox", sandbox_id, "--json") == "[]"
