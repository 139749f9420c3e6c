"""Recipes are read whole or refused by file and key, and all that they say counts for their hash."""

from pathlib import Path, PurePosixPath

import pytest

from atoll.server.domain.errors import InvalidArgumentError, NotFoundError
from atoll.server.domain.template import StartCommand
from atoll.server.images import recipe as recipe_module
from atoll.server.images.recipe import Recipe, load_recipe, recipe_names, recipes_directory

GOOD = """
suite = "trixie"
packages = ["python3"]
include = ["layer"]
[defaults]
user = "user"
workdir = "/srv"
[limits]
cpus = 1
memory_mib = 64
processes = 20
disk_mib = 100
[env]
A = "b"
"""


START = """
[start]
command = "serve"
ready = "asks"
timeout_s = 7
"""


@pytest.fixture
def recipes(tmp_path: Path) -> Path:
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "recipe.toml").write_text(GOOD)
    (tmp_path / "tiny" / "files" / "etc").mkdir(parents=True)
    (tmp_path / "tiny" / "files" / "etc" / "both").write_text("ours")
    (tmp_path / "layer" / "files" / "etc").mkdir(parents=True)
    (tmp_path / "layer" / "files" / "etc" / "both").write_text("the layer's")
    (tmp_path / "layer" / "files" / "etc" / "one").write_text("one")
    (tmp_path / "layer" / "setup").write_text("true\n")
    return tmp_path


@pytest.mark.parametrize("name", recipe_names(recipes_directory()))
def test_our_own_recipes_are_right(name: str) -> None:
    recipe = load_recipe(recipes_directory(), name)

    assert recipe.suite == "trixie"
    assert recipe.default_user == "user"
    assert recipe.scripts


def test_there_are_base_and_minimal() -> None:
    assert set(recipe_names(recipes_directory())) >= {"base", "minimal"}


def test_a_recipe_is_read(recipes: Path) -> None:
    recipe = load_recipe(recipes, "tiny")

    assert recipe.packages == ("python3",)
    assert recipe.limits.memory_bytes == 64 << 20
    assert recipe.env == (("A", "b"),)
    assert recipe.default_workdir == "/srv"
    assert recipe.scripts == (b"true\n",)
    assert {file.path: file.content for file in recipe.files} == {
        PurePosixPath("etc/both"): b"ours",
        PurePosixPath("etc/one"): b"one",
    }


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"python3"', '"python3 --install evil"', "packages: 'python3 --install evil' is not allowed"),
        ('"python3"', '"--hook"', "packages: '--hook' is not allowed"),
        ('"python3"', '"a1,b1"', "packages: 'a1,b1' is not allowed"),
        ('"python3"', "3", "packages must be a list of texts"),
        ('["layer"]', '["../layer"]', "include: '../layer' is not allowed"),
        ('["layer"]', '["none"]', "include: there is no folder 'none'"),
        ('"trixie"', '"trixie; rm"', "suite: 'trixie; rm' is not allowed"),
        ('"trixie"', '"trixie"\nvariant = "fat"', "variant must be one of"),
        ('"trixie"', '"trixie"\nsweet = 1', "unknown key 'sweet'"),
        ('"trixie"', "", "cannot be read"),
        ("cpus = 1", "cpus = 0", "limits.cpus must be a number of at least"),
        ("cpus = 1", "cpus = true", "limits.cpus must be a number"),
        ("cpus = 1", "cpus = nan", "limits.cpus must be a number"),
        ("memory_mib = 64", "memory_mib = -1", "limits.memory_mib must be a number"),
        ("memory_mib = 64", "memory = 1", "unknown key 'limits.memory'"),
        ('workdir = "/srv"', 'workdir = "srv"', "defaults.workdir must start with '/'"),
        ('user = "user"', 'user = "a b"', "defaults.user: 'a b' is not allowed"),
        ('A = "b"', "A = 1", "env.A must be a text"),
        ('A = "b"', 'A = "b\\nC=d"', "env.A must be a text without"),
        ('A = "b"', '"A B" = "b"', "env: 'A B' is not allowed"),
        ("[env]", "[[env]]", "env must be a table"),
    ],
)
def test_a_wrong_recipe_is_refused_by_file_and_key(recipes: Path, old: str, new: str, message: str) -> None:
    (recipes / "tiny" / "recipe.toml").write_text(GOOD.replace(old, new))

    with pytest.raises(InvalidArgumentError) as caught:
        load_recipe(recipes, "tiny")

    assert message in caught.value.message
    assert "tiny/recipe.toml" in caught.value.message


def test_a_link_among_the_files_is_refused(recipes: Path) -> None:
    (recipes / "tiny" / "files" / "link").symlink_to("/etc/shadow")

    with pytest.raises(InvalidArgumentError, match="is a link"):
        load_recipe(recipes, "tiny")


def test_too_many_bytes_are_refused(recipes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipe_module, "MOST_BYTES", 5)

    with pytest.raises(InvalidArgumentError, match="more than"):
        load_recipe(recipes, "tiny")


@pytest.mark.parametrize("name", ["none", "../tiny", "", "Tiny", "tiny\x00", "layer", "-x"])
def test_an_unknown_recipe_is_not_found(recipes: Path, name: str) -> None:
    with pytest.raises(NotFoundError, match="not found"):
        load_recipe(recipes, name)


def test_everything_that_matters_changes_the_hash(recipes: Path) -> None:
    def read() -> Recipe:
        return load_recipe(recipes, "tiny")

    first = read().digest()
    seen = [first, read().digest("authority")]
    for old, new in (
        ("trixie", "bookworm"), ("python3", "python3-minimal"), ("cpus = 1", "cpus = 2"), ('"b"', '"c"'),
        ("/srv", "/tmp"), ('["layer"]', "[]"),
    ):  # fmt: skip
        (recipes / "tiny" / "recipe.toml").write_text(GOOD.replace(old, new))
        seen.append(read().digest())
    (recipes / "tiny" / "recipe.toml").write_text(GOOD)
    (recipes / "layer" / "files" / "etc" / "one").write_text("two")
    seen.append(read().digest())
    (recipes / "layer" / "setup").write_text("false\n")
    seen.append(read().digest())

    assert len(set(seen)) == len(seen)


def test_what_python_leaves_beside_its_files_is_no_part_of_a_recipe(recipes: Path) -> None:
    before = load_recipe(recipes, "tiny").digest()
    (recipes / "tiny" / "files" / "__pycache__").mkdir()
    (recipes / "tiny" / "files" / "__pycache__" / "a.pyc").write_bytes(b"x")

    assert load_recipe(recipes, "tiny").digest() == before


def test_what_does_not_matter_leaves_the_hash_alone(recipes: Path) -> None:
    first = load_recipe(recipes, "tiny").digest()
    (recipes / "tiny" / "recipe.toml").write_text("# a remark\n" + GOOD)
    (recipes / "layer" / "files" / "etc" / "one").chmod(0o600)

    assert load_recipe(recipes, "tiny").digest() == first


def test_the_start_command_is_read_and_changes_the_hash(recipes: Path) -> None:
    without = load_recipe(recipes, "tiny")
    recipe = recipes / "tiny" / "recipe.toml"
    recipe.write_text(GOOD + START)

    started = load_recipe(recipes, "tiny")

    assert without.start is None
    assert started.start == StartCommand(command="serve", ready="asks", timeout_s=7)
    recipe.write_text(GOOD + START.replace("asks", "asks-twice"))
    assert len({without.digest(), started.digest(), load_recipe(recipes, "tiny").digest()}) == 3


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('command = "serve"', "", "start.command"),
        ('"asks"', '""', "start.ready"),
        ('"asks"', "7", "ready must be a text"),
        ('"serve"', '"' + "x" * 5000 + '"', "start.command"),
        ('"serve"', '"a\\u0000b"', "start.command"),
        ("= 7", "= 0", "start.timeout_s"),
        ("= 7", "= 1.5", "start.timeout_s"),
        ("= 7", "= 51", "start.timeout_s"),
        ("= 7", "= true", "start.timeout_s"),
        ("timeout_s", "patience", "start.patience"),
    ],
)
def test_a_wrong_start_command_is_refused(recipes: Path, old: str, new: str, message: str) -> None:
    assert old in START
    (recipes / "tiny" / "recipe.toml").write_text(GOOD + START.replace(old, new))

    with pytest.raises(InvalidArgumentError, match=message):
        load_recipe(recipes, "tiny")


def test_packages_of_included_recipes_come_first(recipes: Path) -> None:
    (recipes / "layer" / "recipe.toml").write_text('packages = ["git", "curl"]\n[env]\nB = "not taken"\n')

    recipe = load_recipe(recipes, "tiny")

    assert recipe.packages == ("git", "curl", "python3")
    assert recipe.env == (("A", "b"),)


def test_an_included_recipe_that_is_wrong_is_named(recipes: Path) -> None:
    (recipes / "layer" / "recipe.toml").write_text("packages = [")

    with pytest.raises(InvalidArgumentError, match=r"include: layer/recipe\.toml"):
        load_recipe(recipes, "tiny")
