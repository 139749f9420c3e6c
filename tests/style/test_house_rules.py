"""House rules that no linter has: the size of a file, and a docstring for each module."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MOST_LINES = 600
SOURCES = sorted(
    path for path in (ROOT / "src").rglob("*.py") if "_gen" not in path.parts and "_sync" not in path.parts
)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_file_is_short_and_says_what_it_is_for(path: Path) -> None:
    text = path.read_text()

    assert text.count("\n") <= MOST_LINES
    if text.strip():
        assert ast.get_docstring(ast.parse(text)), "module docstring missing"


@pytest.mark.parametrize(
    "path",
    sorted(path for path in (ROOT / "dataplane").rglob("*.go") if "gen" not in path.parts),
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_go_file_is_short(path: Path) -> None:
    assert path.read_text().count("\n") <= MOST_LINES
