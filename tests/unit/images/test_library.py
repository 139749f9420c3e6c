"""The library finds what is built, whole builds only."""

import fcntl
import json
import os
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import pytest

from atoll.server.domain.errors import InternalError, NotFoundError
from atoll.server.domain.ids import TemplateId
from atoll.server.domain.limits import Limits
from atoll.server.domain.template import Template
from atoll.server.images.library import TemplateLibrary

RECIPE = """
name = "tiny"
suite = "trixie"
packages = []
overlays = []
[limits]
cpus = 1
memory_mib = 64
processes = 10
disk_mib = 100
"""


@pytest.fixture
def recipes(tmp_path: Path) -> Path:
    (tmp_path / "recipes" / "tiny").mkdir(parents=True)
    (tmp_path / "recipes" / "tiny" / "recipe.toml").write_text(RECIPE)
    return tmp_path / "recipes"


@pytest.fixture
def builds(tmp_path: Path) -> Path:
    (tmp_path / "builds").mkdir()
    return tmp_path / "builds"


@pytest.fixture
def library(builds: Path, recipes: Path) -> TemplateLibrary:
    return TemplateLibrary(builds, recipes=recipes, guest_ca=False)


def put(builds: Path, template_id: str, day: int) -> Template:
    template = Template(
        id=TemplateId(template_id),
        name="tiny",
        built_at=datetime(2026, 1, day, tzinfo=UTC),
        limits=Limits(cpus=1.0, memory_bytes=1, processes=1, disk_bytes=1),
        env=(("A", "b"),),
    )
    (builds / template_id / "rootfs").mkdir(parents=True)
    facts = asdict(template) | {"built_at": template.built_at.isoformat()}
    (builds / template_id / "template.json").write_text(json.dumps(facts))
    return template


async def test_a_build_is_found_by_name_and_by_id(library: TemplateLibrary, builds: Path) -> None:
    template = put(builds, "tiny-000000000001", 1)

    assert await library.get("tiny") == template
    assert await library.get("tiny-000000000001") == template
    assert await library.list() == [template]
    assert await library.rootfs(template.id) == builds / template.id / "rootfs"


async def test_the_recipe_as_it_is_now_wins_over_a_newer_build(
    library: TemplateLibrary, builds: Path, recipes: Path
) -> None:
    from atoll.server.images.recipe import load_recipe

    current = put(builds, load_recipe(recipes, "tiny").template_id(), 1)
    put(builds, "tiny-000000000009", 9)

    assert await library.get("tiny") == current


async def test_the_newest_build_wins_without_a_recipe(library: TemplateLibrary, builds: Path) -> None:
    put(builds, "tiny-000000000001", 1)
    newer = put(builds, "tiny-000000000002", 2)

    assert await library.get("tiny") == newer


@pytest.mark.parametrize("name", ["none", "", "../tiny", "tiny/../tiny", ".building-tiny-1"])
async def test_what_is_not_built_is_not_found(library: TemplateLibrary, builds: Path, name: str) -> None:
    put(builds, "tiny-000000000001", 1)

    with pytest.raises(NotFoundError, match="not found"):
        await library.get(name)
    with pytest.raises(NotFoundError):
        await library.rootfs(TemplateId(name))


@pytest.mark.parametrize("damage", ["{", "{}", '{"name": "tiny", "limits": 3}'])
async def test_a_damaged_build_is_refused_and_hides_no_other(
    library: TemplateLibrary, builds: Path, recipes: Path, damage: str
) -> None:
    from atoll.server.images.recipe import load_recipe

    good = put(builds, "tiny-000000000001", 1)
    bad = load_recipe(recipes, "tiny").template_id()
    put(builds, bad, 2)
    (builds / bad / "template.json").write_text(damage)

    assert await library.list() == [good]
    with pytest.raises(InternalError, match=f"The template {bad} is damaged"):
        await library.ensure("tiny")


async def test_interrupted_builds_are_removed_unless_somebody_builds(
    library: TemplateLibrary, builds: Path
) -> None:
    (builds / ".building-tiny-000000000001-abcd" / "rootfs").mkdir(parents=True)
    (builds / ".building-tiny-000000000002-abcd" / "rootfs").mkdir(parents=True)
    busy = os.open(builds / ".lock-tiny-000000000002", os.O_RDWR | os.O_CREAT)
    fcntl.flock(busy, fcntl.LOCK_EX)
    try:
        await library.refresh()
    finally:
        os.close(busy)

    assert [path.name for path in builds.glob(".building-*")] == [".building-tiny-000000000002-abcd"]


async def test_a_removed_build_is_gone(library: TemplateLibrary, builds: Path) -> None:
    template = put(builds, "tiny-000000000001", 1)

    await library.remove(template.id)
    await library.remove(template.id)

    assert await library.list() == []
    assert not (builds / template.id).exists()
