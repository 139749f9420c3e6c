"""The library finds what is built, whole builds only; names mean the recipe as it is now."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from atoll.server.domain.errors import FailedPreconditionError, NotFoundError
from atoll.server.domain.ids import TemplateId
from atoll.server.domain.limits import Limits
from atoll.server.domain.template import Template
from atoll.server.images.authorities import Authority
from atoll.server.images.library import TemplateLibrary, make_order
from atoll.server.images.manifest import write_manifest
from atoll.server.images.recipe import load_recipe

RECIPE = 'packages = []\n[env]\nA = "b"\n'


@pytest.fixture
def recipes(tmp_path: Path) -> Path:
    (tmp_path / "recipes" / "tiny").mkdir(parents=True)
    (tmp_path / "recipes" / "tiny" / "recipe.toml").write_text(RECIPE)
    return tmp_path / "recipes"


@pytest.fixture
def builds(tmp_path: Path) -> Path:
    return tmp_path / "builds"


@pytest.fixture
def library(builds: Path, recipes: Path) -> TemplateLibrary:
    return TemplateLibrary(builds, recipes=recipes, guest_ca=False)


def current_id(recipes: Path) -> str:
    return make_order(load_recipe(recipes, "tiny"), ()).template.id


def put(builds: Path, template_id: str, day: int, name: str = "tiny") -> Template:
    """Write what a build would have left."""
    template = Template(
        id=TemplateId(template_id),
        name=name,
        built_at=datetime(2026, 1, day, tzinfo=UTC),
        limits=Limits(cpus=1.0, memory_bytes=1, processes=1, disk_bytes=1),
        default_workdir="/srv",
        env=(("A", "b"),),
    )
    (builds / template_id / "rootfs" / "usr").mkdir(parents=True)
    write_manifest(builds / template_id, template, "0" * 64)
    return template


async def test_a_build_is_found_by_name_and_by_id(
    library: TemplateLibrary, builds: Path, recipes: Path
) -> None:
    template = put(builds, current_id(recipes), 1)

    assert await library.get("tiny") == template
    assert await library.get(template.id) == template
    assert await library.list() == [template]
    assert await library.rootfs(template.id) == builds / template.id / "rootfs"
    assert await library.ensure("tiny") == template


async def test_the_recipe_as_it_is_now_wins_over_a_newer_build(
    library: TemplateLibrary, builds: Path, recipes: Path
) -> None:
    current = put(builds, current_id(recipes), 1)
    put(builds, "tiny-000000000009", 9)

    assert await library.get("tiny") == current
    assert await library.list() == [current]


async def test_the_newest_build_serves_while_the_recipe_has_none(
    library: TemplateLibrary, builds: Path
) -> None:
    put(builds, "tiny-000000000001", 1)
    newer = put(builds, "tiny-000000000002", 2)

    assert await library.get("tiny") == newer
    assert await library.list() == [newer]


async def test_a_build_whose_recipe_is_gone_is_listed_and_found_by_id(
    library: TemplateLibrary, builds: Path
) -> None:
    old = put(builds, "old-000000000001", 1, name="old")

    assert await library.list() == [old]
    assert await library.get(old.id) == old


@pytest.mark.parametrize(
    "name", ["none", "", "../tiny", "tiny/../tiny", ".building-1", "a\x00b", "x" * 5000, "."]
)
async def test_what_is_not_built_is_not_found(library: TemplateLibrary, builds: Path, name: str) -> None:
    put(builds, "tiny-000000000001", 1)

    with pytest.raises(NotFoundError, match="not found"):
        await library.get(name)
    with pytest.raises(NotFoundError, match="not found"):
        await library.rootfs(TemplateId(name))


async def test_nothing_is_built_yet(library: TemplateLibrary) -> None:
    assert await library.list() == []
    with pytest.raises(NotFoundError) as caught:
        await library.get("tiny")
    assert caught.value.message == (
        "template 'tiny' not found: its recipe exists, but it is not built on this server;"
        " `atoll template build tiny` there builds it"
    )
    with pytest.raises(NotFoundError) as unknown:
        await library.get("no-recipe")
    assert unknown.value.message == "template 'no-recipe' not found"


@pytest.mark.parametrize(
    "damage", ["", "{", "[]", "{}", '{"format": 2}', '{"format": 1, "id": "x", "name": "tiny", "limits": 3}']
)
async def test_a_damaged_build_is_refused_by_name_and_hides_no_other(
    library: TemplateLibrary, builds: Path, recipes: Path, damage: str
) -> None:
    good = put(builds, "tiny-000000000001", 1)
    bad = put(builds, current_id(recipes), 2)
    (builds / bad.id / "template.json").write_text(damage)

    assert await library.list() == [good]
    for ask in (library.get("tiny"), library.get(bad.id), library.rootfs(bad.id), library.ensure("tiny")):
        with pytest.raises(FailedPreconditionError, match=f"template '{bad.id}' is damaged"):
            await ask


async def test_half_a_build_is_refused_by_name(library: TemplateLibrary, builds: Path, recipes: Path) -> None:
    bad = put(builds, current_id(recipes), 2)
    (builds / bad.id / "rootfs" / "usr").rmdir()

    with pytest.raises(FailedPreconditionError, match=f"template '{bad.id}' is damaged"):
        await library.get("tiny")


async def test_a_build_under_another_name_is_refused(library: TemplateLibrary, builds: Path) -> None:
    put(builds, "tiny-000000000001", 1)
    (builds / "tiny-000000000001").rename(builds / "tiny-000000000002")

    with pytest.raises(FailedPreconditionError, match="template 'tiny-000000000002' is damaged"):
        await library.get("tiny-000000000002")


async def test_a_build_that_was_removed_is_not_found_any_more(
    library: TemplateLibrary, builds: Path, recipes: Path
) -> None:
    template = put(builds, current_id(recipes), 1)
    await library.get("tiny")
    (builds / template.id).rename(builds / ".elsewhere")

    with pytest.raises(NotFoundError):
        await library.rootfs(template.id)


def test_extra_authorities_make_another_template_and_tell_programs_where_they_are(recipes: Path) -> None:
    recipe = load_recipe(recipes, "tiny")
    plain = make_order(recipe, ()).template
    trusting = make_order(recipe, (Authority("00", "pem"),)).template

    assert plain.id != trusting.id
    assert plain.env == (("A", "b"),)
    assert {"SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "NODE_EXTRA_CA_CERTS"} < {key for key, _ in trusting.env}


def test_a_recipe_may_say_where_authorities_are(recipes: Path) -> None:
    (recipes / "tiny" / "recipe.toml").write_text('[env]\nSSL_CERT_FILE = "/mine"\n')

    order = make_order(load_recipe(recipes, "tiny"), (Authority("00", "pem"),))

    assert dict(order.template.env)["SSL_CERT_FILE"] == "/mine"
