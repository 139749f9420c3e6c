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
# From the best.
SIGNS = {"works": "✓", "refused": "refused", "failed": "✗", "untried": "-"}
HEAD = """# Which calls of E2B's clients work

Written by `scripts/matrix.py` from what the tests in tests/e2e saw: every public method of PyPI
`e2b` {versions[e2b]} and `e2b-code-interpreter` {versions[e2b-code-interpreter]}, sync and async, then of the
JavaScript clients and the command line, against a real server. What the code interpreter's clients inherit
from `e2b` is listed there.

- ✓: a test that passed made the call, and it returned.
- refused: the server answers that it does not have this yet, with status 501.
- ✗: tests make the call, but it returned in none that passed: it is to fail there, or it does not work.
- -: no test makes the call yet; it may work or not.
"""


def main() -> int:
    """Write the page; return the exit code."""
    directory = ROOT / "build" / "compatibility"
    found = [json.loads(path.read_text()) for path in sorted(directory.glob("*.json"))]
    if not found:
        print(f"{directory} is empty: run the tests in tests/e2e first", file=sys.stderr)
        return 1
    (ROOT / "docs" / "compatibility.md").write_text(page(merged(found)))
    return 0


def page(seen: dict[str, Any]) -> str:
    """Write the page's text from what was seen."""
    nouns: dict[str, list[str]] = defaultdict(list)
    for call, clients in seen["calls"].items():
        noun, _, name = call.rpartition(".")
        cells = [SIGNS[clients[client]] if client in clients else "" for client in ("sync", "async")]
        nouns[noun].append(f"| `{name}` | {cells[0]} | {cells[1]} |")
    text = HEAD.format(versions=seen["versions"])
    for noun, rows in nouns.items():
        text += "\n".join([f"\n## {noun}\n", "| call | sync | async |", "|---|---|---|", *rows, ""])
    for client, calls in seen["others"].items():
        text += f"\n# {client}\n\n| call | |\n|---|---|\n"
        text += "".join(f"| `{call}` | {SIGNS[verdict]} |\n" for call, verdict in calls.items())
    return text


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
