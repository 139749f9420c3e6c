"""The script that writes the sync twin, and the twin itself."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

import atoll

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def unasync() -> ModuleType:
    spec = importlib.util.spec_from_file_location("unasync", ROOT / "scripts/unasync.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_twin_is_what_the_script_writes(unasync: ModuleType) -> None:
    sources = {path.name: path.read_text() for path in unasync.SOURCE.glob("*.py")}

    wanted = unasync.formatted(unasync.translate_all(sources))

    assert {path.name: path.read_text() for path in unasync.TARGET.glob("*.py")} == wanted


def test_a_rule_that_is_used_nowhere_fails(unasync: ModuleType) -> None:
    with pytest.raises(unasync.UnasyncError, match="used nowhere: never-there"):
        unasync.translate_all({"a.py": "await x\n"}, (("await ", ""), ("never-there", "")))


@pytest.mark.parametrize("left", ["import asyncio", "async def f(): ...", "x = AsyncThing", "async_close(x)"])
def test_a_word_of_asyncio_that_is_left_over_fails(unasync: ModuleType, left: str) -> None:
    with pytest.raises(unasync.UnasyncError, match="left over"):
        unasync.translate_all({"a.py": f"await x\n{left}\n"}, (("await ", ""),))


def test_every_public_name_is_there_and_sorted() -> None:
    assert list(atoll.__all__) == sorted({name for names in atoll._MODULES.values() for name in names})
    assert dir(atoll) == list(atoll.__all__)
    for name in atoll.__all__:
        assert getattr(atoll, name).__module__.startswith("atoll.sdk"), name
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = atoll.Nothing


def test_both_twins_have_the_same_methods() -> None:
    for name in ("Sandbox", "Commands", "Files", "Pty", "CommandHandle", "FileStream", "Watch"):
        one = {word for word in dir(getattr(atoll, f"Async{name}")) if not word.startswith("_")}
        other = {word for word in dir(getattr(atoll, name)) if not word.startswith("_")}
        assert one == other, name
