"""What pauses, resumes, links and removals do while it is looked which programs are needed."""

import itertools
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from atoll.server.domain.checkpoint import Checkpoint, CheckpointKind
from atoll.server.domain.ids import SandboxId, TemplateId
from atoll.server.domain.storage import Collected, Needed
from atoll.server.host.runsc import Runsc
from atoll.server.runtimes import images
from atoll.server.runtimes.gvisor import needs
from atoll.server.runtimes.gvisor.guestds import Guestds
from atoll.server.runtimes.gvisor.old_programs import OldPrograms
from atoll.server.runtimes.gvisor.places import Places
from atoll.server.runtimes.gvisor.programs import Programs
from atoll.server.runtimes.gvisor.record import Record

SANDBOX = SandboxId("i" + "a" * 20)
CHECKPOINT = Checkpoint(
    kind=CheckpointKind.MEMORY,
    runtime="gvisor",
    runtime_version="1",
    cpu_features=(),
    guestd="old",
    template_id=TemplateId("minimal-1"),
    disk_bytes=1,
    memory_bytes=1,
    shm_bytes=1,
    address="10.0.0.2",
    volume_paths=(),
)
# Before each look at the disk a few of them happen, or none; more looks than that find nothing new.
MOST_LOOKS = 7

Step = Callable[[], None]


class Ground:
    """A home with one old guestd, which one thing needs at every moment."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.places = Places(
            home_id="abcdef",
            sandboxes=path / "sandboxes",
            volume_mounts=path / "mounts",
            runsc_state=path / "state",
            runsc=path / "runsc",
            guestd=path / "atoll-guestd",
            guestds=path / "guestd",
        )
        self.checkpoints = path / "checkpoints"
        self.places.guestd.write_bytes(b"today")
        self.model = path / "model"
        half = images.Half(self.model)
        half.make()
        half.publish(CHECKPOINT)

    def reset(self) -> None:
        for folder in (self.places.sandboxes, self.checkpoints, self.places.guestds):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
        (self.places.guestds / "old").write_bytes(b"old")

    def begun(self, sandbox_id: SandboxId = SANDBOX) -> None:
        (self.places.sandboxes / sandbox_id).mkdir()

    def recorded(self, sandbox_id: SandboxId = SANDBOX, guestd: str = "old") -> None:
        record = Record(sandbox_id=sandbox_id, boot_id="b", runsc="/runsc", memory_bytes=1, guestd=guestd)
        record.write(self.places.sandboxes / sandbox_id)

    def unrecorded(self) -> None:
        (self.places.sandboxes / SANDBOX / "machine.json").unlink()

    def gone(self) -> None:
        shutil.rmtree(self.places.sandboxes / SANDBOX)

    def written(self, name: str) -> None:
        # Published as a whole, as all are, but without waiting for the disk each time.
        half = self.checkpoints / f"{images.HALF}{name}"
        shutil.copytree(self.model, half)
        half.rename(self.checkpoints / name)

    def removed(self, name: str) -> None:
        # As the store of checkpoints does it: first the name.
        half = self.checkpoints / f"{images.HALF}{name}"
        shutil.rmtree((self.checkpoints / name).rename(half))

    async def collected(self) -> Collected:
        runsc = Runsc(self.places.runsc, self.places.runsc_state, flags=())
        guestds = Guestds(self.places.guestds, self.places.guestd)
        programs = Programs(runsc=runsc, runscs=None, guestds=guestds, timeout_s=1)
        collector = OldPrograms(
            places=self.places, programs=programs, checkpoints=self.checkpoints, shared=True
        )
        return await collector.collect(nothing, dry=False)


async def nothing() -> Needed:
    return Needed()


@pytest.fixture
def ground() -> Iterator[Ground]:
    # In memory: it is made a thousand times.
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="atoll-test-") as path:
        made = Ground(Path(path))
        made.reset()
        yield made


def before(monkeypatch: pytest.MonkeyPatch, act: Callable[[], None]) -> None:
    """Have something happen before each manifest is read."""
    read = images.read_manifest

    def reading(directory: Path) -> Checkpoint:
        act()
        return read(directory)

    monkeypatch.setattr(images, "read_manifest", reading)


async def test_what_is_linked_while_its_origin_goes_keeps_its_program(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    ground.written("snapshot")
    steps = iter([lambda: ground.written("second"), lambda: ground.removed("snapshot")])
    before(monkeypatch, lambda: [step() for step in steps] and None)

    found = await ground.collected()

    assert (found.leftovers, found.problems) == ((), ())
    assert (ground.places.guestds / "old").exists()


async def test_what_is_resumed_and_paused_meanwhile_keeps_its_program(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    ground.written("first")
    steps = iter(
        [
            ground.begun,
            ground.recorded,
            lambda: ground.removed("first"),
            lambda: ground.written("second"),
            ground.gone,
        ]
    )
    before(monkeypatch, lambda: [step() for step in steps] and None)

    found = await ground.collected()

    assert (found.leftovers, found.problems) == ((), ())
    assert (ground.places.guestds / "old").exists()


async def test_a_program_that_nothing_needs_goes(ground: Ground) -> None:
    ground.begun()
    ground.recorded(guestd="other")

    found = await ground.collected()

    assert [one.name for one in found.leftovers] == ["old"]
    assert not (ground.places.guestds / "old").exists()


async def test_a_machine_that_begins_or_goes_holds_a_collection_up_for_a_moment_only(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    ground.begun()
    steps = iter([ground.gone])
    read = Record.read

    def reading(directory: Path) -> Record | None:
        found = read(directory)
        for step in steps:
            step()
        return found

    monkeypatch.setattr(Record, "read", reading)

    found = await ground.collected()

    assert [one.name for one in found.leftovers] == ["old"]
    assert found.problems == ()


async def test_a_machine_that_never_says_what_it_needs_keeps_all(ground: Ground) -> None:
    ground.begun()

    found = await ground.collected()

    assert found.leftovers == ()
    (problem,) = found.problems
    assert "does not say what it needs" in problem


class Looks:
    """Has steps happen before looks at the disk."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.due: list[tuple[int, Step]] = []
        self._number = 0
        self._acting = False
        for owner, name in (
            (needs, "directories"),
            (images, "read_manifest"),
            (Record, "read"),
            (Path, "iterdir"),
            (Path, "exists"),
        ):
            self._watch(monkeypatch, owner, name)

    def begin(self, due: Sequence[tuple[int, Step]]) -> None:
        self.due, self._number = list(due), 0

    def finish(self) -> None:
        self._act(lambda _: True)

    def _watch(self, monkeypatch: pytest.MonkeyPatch, owner: object, name: str) -> None:
        look = getattr(owner, name)

        def looking(*args: object) -> object:
            if not self._acting:
                self._number += 1
                self._act(lambda at: at <= self._number)
            found = look(*args)
            # A listing is made when its first name is asked for.
            return list(found) if isinstance(found, Iterator) else found

        monkeypatch.setattr(owner, name, looking)

    def _act(self, is_due: Callable[[int], bool]) -> None:
        self._acting = True
        while self.due and is_due(self.due[0][0]):
            self.due.pop(0)[1]()
        self._acting = False


# How the old program's need begins, and what happens then, step by step.
SCRIPTS: dict[str, tuple[str, Callable[[Ground], list[Step]]]] = {
    "pause": ("machine", lambda on: [lambda: on.written("first"), on.unrecorded, on.gone]),
    "resume": ("checkpoint", lambda on: [on.begun, on.recorded, lambda: on.removed("first")]),
    "resume and pause": (
        "checkpoint",
        lambda on: [
            on.begun,
            on.recorded,
            lambda: on.removed("first"),
            lambda: on.written("second"),
            on.gone,
        ],
    ),
    "link": ("checkpoint", lambda on: [lambda: on.written("second"), lambda: on.removed("first")]),
    "snapshot, then another machine": (
        "machine",
        lambda on: [
            lambda: on.written("snapshot"),
            on.gone,
            on.begun,
            lambda: on.recorded(guestd="other"),
        ],
    ),
}


@pytest.mark.parametrize("script", SCRIPTS)
def test_whenever_things_happen_no_need_is_overlooked(
    ground: Ground, monkeypatch: pytest.MonkeyPatch, script: str
) -> None:
    monkeypatch.setattr(needs, "_AGAIN_S", 0)
    looks = Looks(monkeypatch)
    first, make = SCRIPTS[script]
    steps = make(ground)
    for plan in itertools.combinations_with_replacement(range(1, MOST_LOOKS + 2), len(steps)):
        looks.begin([])
        ground.reset()
        if first == "machine":
            ground.begun()
            ground.recorded()
        else:
            ground.written("first")
        looks.begin(list(zip(plan, steps, strict=True)))

        found = needs.needs(ground.places, ground.checkpoints)
        looks.finish()

        assert "old" in found.guestds, plan
        assert found.problems == [], plan
