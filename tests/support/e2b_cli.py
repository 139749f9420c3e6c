"""The released command line of E2B: where it is, and what docs/compatibility.md learns of its calls."""

import re
import subprocess
from collections.abc import Iterator, Sequence

from support import javascript, matrix

PROGRAM = javascript.FOLDER / "node_modules" / "@e2b" / "cli" / "dist" / "index.js"
_GROUPS = ("auth", "template", "sandbox", "sandbox snapshot")


class E2bCli:
    """Its command, and the record of its calls."""

    def __init__(self, recorder: matrix.Recorder) -> None:
        """
        Install it, and note what calls it has.

        Args:
            recorder: learns how they end.
        """
        node = javascript.node()
        javascript.install()
        self.command = [node, str(PROGRAM)]
        self._recorder = recorder
        self._client = f"@e2b/cli {javascript.version('@e2b/cli')}"
        recorder.knows(self._client, self._verbs())

    def saw(self, words: Sequence[str], code: int, told: str) -> None:
        """Note how a call ended: with which exit code, and what it printed."""
        named = " ".join(words[: 3 if words[1] == "snapshot" else 2])
        if code == 0:
            self._recorder.saw(self._client, named, matrix.WORKS)
        elif "501" in told and "not available" in told:
            self._recorder.saw(self._client, named, matrix.REFUSED)
        else:
            self._recorder.saw(self._client, named, matrix.FAILED)

    def _verbs(self) -> Iterator[str]:
        """Read what there is from the help of each group."""
        for group in _GROUPS:
            told = subprocess.run(
                [*self.command, *group.split(), "--help"], capture_output=True, text=True, timeout=60
            ).stdout
            for verb in re.findall(r"^  ([a-z-]+)(?:\|[a-z]+)? ", told.partition("Commands:")[2], re.M):
                if verb not in ("help", "snapshot"):
                    yield f"{group} {verb}"
