"""What ``atoll park`` says of what it did."""

import pytest
from click.testing import CliRunner

from atoll.cli.park import park
from atoll.server.control.upkeep.parking import Parked
from atoll.server.domain.checkpoint import CheckpointKind
from atoll.server.domain.ids import SandboxId
from atoll.server.main import stopping
from atoll.server.settings.home import open_home

MEMORY, FILES = CheckpointKind.MEMORY, CheckpointKind.FILES


@pytest.mark.parametrize(
    ("kinds", "said"),
    [
        ([], "Persistent sandboxes written down: 0."),
        ([MEMORY, MEMORY], "Persistent sandboxes written down: 2."),
        ([MEMORY, FILES, MEMORY], "Persistent sandboxes written down: 3; without their memory: 1."),
    ],
)
def test_who_parks_is_told_how_many_were_written_down(
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    kinds: list[CheckpointKind],
    said: str,
) -> None:
    async def parked(*_: object) -> Parked:
        kept = {SandboxId(f"sandbox{number}"): kind for number, kind in enumerate(kinds)}
        return Parked(kept=kept, left={})

    monkeypatch.setattr(stopping, "park", parked)
    monkeypatch.setattr("os.geteuid", lambda: 0)
    # Its path must be short: sockets are in it.
    home = open_home(tmp_path_factory.mktemp("h"))

    result = CliRunner().invoke(park, ["--home", str(home.path)])

    assert result.exit_code == 0, result.output
    assert said in result.output.splitlines()
