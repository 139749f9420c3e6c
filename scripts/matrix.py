"""
Write docs/compatibility.md from what the tests saw: build/compatibility/*.json, a file a process of theirs.

Run the tests in tests/e2e first; nothing in that page is written by hand.
"""

import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
SIGNS = {"works": "✓", "refused": "refused", "untried": "-"}
HEAD = """# Which calls of E2B's clients work

Written by `scripts/matrix.py` from what the tests in tests/e2e saw: every public method of PyPI
`e2b` {version}, sync and async, then of the JavaScript client and the command line, against a real server.

- ✓: a test that passed made the call, and it returned.
- refused: the server answers that it does not have this yet, with status 501.
- -: no test makes the call yet; it may work or not.
"""


def main() -> int:
    """Write the page; return the exit code."""
    directory = ROOT / "build" / "compatibility"
    found = [json.loads(path.read_text()) for path in sorted(directory.glob("*.json"))]
    if not found:
        print(f"{directory} is empty: run the tests in tests/e2e first", file=sys.stderr)
        return 1
    seen = merged(found)
    nouns: dict[str, list[str]] = defaultdict(list)
    for call, clients in seen["calls"].items():
        noun, _, name = call.rpartition(".")
        cells = [SIGNS[clients[client]] if client in clients else "" for client in ("sync", "async")]
        nouns[noun].append(f"| `{name}` | {cells[0]} | {cells[1]} |")
    text = HEAD.format(version=seen["e2b"])
    for noun, rows in nouns.items():
        text += "\n".join([f"\n## {noun}\n", "| call | sync | async |", "|---|---|---|", *rows, ""])
    for client, calls in seen["others"].items():
        text += f"\n# {client}\n\n| call | |\n|---|---|\n"
        text += "".join(f"| `{call}` | {SIGNS[verdict]} |\n" for call, verdict in calls.items())
    (ROOT / "docs" / "compatibility.md").write_text(text)
    return 0


def merged(found: list[dict[str, Any]]) -> dict[str, Any]:
    """Take for each call the best that any process saw."""
    best = found[0]
    for other in found[1:]:
        for part in ("calls", "others"):
            for name, verdicts in other[part].items():
                mine = best[part].setdefault(name, verdicts)
                for key, verdict in verdicts.items():
                    mine[key] = min(mine.get(key, verdict), verdict, key=list(SIGNS).index)
    return best


if __name__ == "__main__":
    sys.exit(main())
