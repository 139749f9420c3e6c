#!/usr/bin/env python3
"""
Write the SDK's sync twin: src/atoll/sdk/_sync/ from src/atoll/sdk/_async/.

Each rule is a regular expression and what takes its place, in order. A rule that is used nowhere is an error,
and so is a word of asyncio's that is left over: the list says exactly what differs.
Everything that differs by more than words is in sdk/_synchronization.py, in both forms.

    scripts/unasync.py            write
    scripts/unasync.py --check    write nothing, fail when something would change
"""

import argparse
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src/atoll/sdk/_async"
TARGET = ROOT / "src/atoll/sdk/_sync"

Rules = Sequence[tuple[str, str]]

RULES: Rules = (
    (r"asyncio\. Its twin for threads, ``_sync``, is generated from here", "threads, generated"),
    (r"; may be a coroutine function", ""),
    (r"\basync (def|with|for)\b", r"\1"),
    (r"\bawait ", ""),
    (r"\b__a(enter|exit|iter|next)__\b", r"__\1__"),
    (r"\bStopAsyncIteration\b", "StopIteration"),
    (r"\benter_async_context\b", "enter_context"),
    (r"\basynccontextmanager\b", "contextmanager"),
    (r"\ba(iter_bytes|read|close)\b", r"\1"),
    (r"\b(Process|Filesystem)Client\b", r"\1ClientSync"),
    (r"\bimport Client\b", "import SyncClient"),
    (r"\bClient\(", "SyncClient("),
    (r"\basync_(?=[a-z])", ""),
    (r"\bAsync(?=[A-Z])", ""),
    (r"\bsdk\._async\b", "sdk._sync"),
)  # fmt: skip

# What must not be left of asyncio.
LEFT_OVER = re.compile(r"\b(async|await|asyncio)\b|\b_?[aA]sync\w*|\b__a(enter|exit|iter|next)__")
ALLOWED_LEFT_OVER = re.compile(r"``_async``|scripts/unasync\.py|for asyncio")


class UnasyncError(Exception):
    """The rules and the source do not fit."""


def translate(text: str, rules: Rules, unused: set[str]) -> str:
    """Apply every rule, and take those that did something out of ``unused``."""
    for pattern, replacement in rules:
        text, times = re.subn(pattern, replacement, text)
        if times:
            unused.discard(pattern)
    return text


def translate_all(sources: dict[str, str], rules: Rules = RULES) -> dict[str, str]:
    """
    Translate files, by name.

    Raises:
        UnasyncError: a rule that is used nowhere, or a word of asyncio's that is left over.
    """
    unused = {pattern for pattern, _ in rules}
    results = {}
    for name, text in sorted(sources.items()):
        result = translate(text, rules, unused)
        if left := LEFT_OVER.search(ALLOWED_LEFT_OVER.sub("", result)):
            raise UnasyncError(f"{name}: {left[0]!r} is left over; it needs a rule")
        results[name] = f"# Generated from sdk/_async/{name} by scripts/unasync.py. DO NOT EDIT.\n{result}"
    if unused:
        raise UnasyncError(f"rules that are used nowhere: {', '.join(sorted(unused))}")
    return results


def formatted(files: dict[str, str]) -> dict[str, str]:
    """Format as the rest of the repository is: names have other lengths and another order now."""
    with tempfile.TemporaryDirectory(prefix="unasync-") as scratch:
        directory = Path(scratch)
        for name, text in files.items():
            (directory / name).write_text(text)
        ruff = [str(Path(sys.executable).parent / "ruff")]
        config = ["--config", str(ROOT / "pyproject.toml"), "--no-cache", "--quiet"]
        sort = [
            "check",
            "--select",
            "I",
            "--fix",
            *config,
            "--config",
            "lint.isort.known-first-party=['atoll']",
        ]
        subprocess.run([*ruff, *sort, scratch], check=True, timeout=60)
        subprocess.run([*ruff, "format", *config, scratch], check=True, timeout=60)
        return {name: (directory / name).read_text() for name in files}


def main() -> int:
    """Write, or check."""
    parser = argparse.ArgumentParser(description="Write the SDK's sync twin from its async source.")
    parser.add_argument(
        "--check", action="store_true", help="write nothing; fail when something would change"
    )
    check = parser.parse_args().check
    try:
        wanted = formatted(translate_all({path.name: path.read_text() for path in SOURCE.glob("*.py")}))
    except UnasyncError as error:
        print(f"unasync: {error}", file=sys.stderr)
        return 1
    TARGET.mkdir(exist_ok=True)
    there = {path.name: path.read_text() for path in TARGET.glob("*.py")}
    if there == wanted:
        return 0
    if check:
        names = sorted(name for name in there.keys() | wanted.keys() if there.get(name) != wanted.get(name))
        print(f"unasync: differs from its source: {', '.join(names)}; run `make generate`", file=sys.stderr)
        return 1
    for name in there.keys() - wanted.keys():
        (TARGET / name).unlink()
    for name, text in wanted.items():
        if there.get(name) != text:
            (TARGET / name).write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
