"""Recipes are read whole or refused by file and key, and their builds are named by all that goes in."""

from pathlib import Path

import pytest

from atoll.server.domain.errors import InvalidArgumentError, NotFoundError
from atoll.server.images.library import recipes_directory
from atoll.server.images.recipe import load_recipe, recipe_names

GOOD = """
name = "tiny"
suite = "trixie"
packages = ["python3"]
overlays = ["layer"]
[limits]
cpus = 1
memory_mib = 64
processes = 10
disk_mib = 100
[env]
A = "b"
"""


@pytest.fixture
def recipes(tmp_path: Path) -> Path:
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "recipe.toml").write_text(GOOD)
    (tmp_path / "layer" / "files").mkdir(parents=True)
    (tmp_path / "layer" / "setup").write_text("#!/bin/sh\n")
    return tmp_path


def test_our_own_recipes_are_right() -> None:
    for name in recipe_names(recipes_directory()):
        assert load_recipe(recipes_directory(), name).name == name
    assert set(recipe_names(recipes_directory())) >= {"base", "minimal"}


def test_a_recipe_is_read(recipes: Path) -> None:
    recipe = load_recipe(recipes, "tiny")

    assert recipe.packages == ("python3",)
    assert recipe.limits.memory_bytes == 64 << 20
    assert recipe.env == (("A", "b"),)
    assert recipe.default_user == "user"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"tiny"', '"other"', "name is 'other'"),
        ('"python3"', '"python3 --install evil"', "no name of a Debian package"),
        ('"python3"', "3", "packages must be a list of texts"),
        ('["layer"]', '["../layer"]', "no folder '../layer'"),
        ("cpus = 1", "cpus = 0", "limits.cpus must be a number above 0"),
        ("cpus = 1", "cpus = true", "limits.cpus must be a number above 0"),
        ("cpus = 1\n", "", "limits must have exactly"),
        ('A = "b"', "A = 1", "env must be a table of texts"),
        ('suite = "trixie"', 'suite = "trixie"\nsweet = 1', "unknown key 'sweet'"),
        ('suite = "trixie"', "suite = ", "Invalid value"),
    ],
)
def test_a_wrong_recipe_is_refused_by_key(recipes: Path, old: str, new: str, message: str) -> None:
    (recipes / "tiny" / "recipe.toml").write_text(GOOD.replace(old, new))

    with pytest.raises(InvalidArgumentError, match=message):
        load_recipe(recipes, "tiny")


@pytest.mark.parametrize("name", ["none", "../tiny", "", "Tiny", "tiny\x00"])
def test_an_unknown_recipe_is_not_found(recipes: Path, name: str) -> None:
    with pytest.raises(NotFoundError):
        load_recipe(recipes, name)


def test_every_ingredient_changes_the_id(recipes: Path) -> None:
    first = load_recipe(recipes, "tiny").template_id()
    seen = {first, load_recipe(recipes, "tiny").template_id("authority")}
    (recipes / "layer" / "setup").write_text("#!/bin/sh\ntrue\n")
    seen.add(load_recipe(recipes, "tiny").template_id())
    (recipes / "layer" / "setup").chmod(0o755)
    seen.add(load_recipe(recipes, "tiny").template_id())
    (recipes / "layer" / "files" / "new").touch()
    seen.add(load_recipe(recipes, "tiny").template_id())
    (recipes / "tiny" / "recipe.toml").write_text(GOOD.replace("trixie", "bookworm"))
    seen.add(load_recipe(recipes, "tiny").template_id())

    assert len(seen) == 6
    assert all(template_id.startswith("tiny-") for template_id in seen)
