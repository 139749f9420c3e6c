"""Settings: where they come from, what is refused, and that all are documented."""

import dataclasses
from datetime import timedelta
from pathlib import Path

import pytest

from atoll.server.domain.errors import InvalidArgumentError
from atoll.server.settings import Settings
from atoll.server.settings.fields import groups, settings, shown
from atoll.server.settings.loading import load
from atoll.server.settings.page import page

ROOT = Path(__file__).parents[3]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "settings.toml"


def test_the_docs_page_is_what_the_code_says() -> None:
    assert (ROOT / "docs" / "settings.md").read_text() == page(), (
        "run: python -m atoll.server.settings.page > docs/settings.md"
    )


def test_every_setting_has_a_doc_and_every_doc_a_setting() -> None:
    undocumented = [f"{setting.group}.{setting.name}" for setting in settings() if not setting.doc]

    assert undocumented == []
    for _, group, about in groups():
        assert about
        assert dataclasses.is_dataclass(group)


def test_no_two_settings_share_a_variable() -> None:
    variables = [setting.variable for setting in settings()]

    assert len(set(variables)) == len(variables)
    assert "ATOLL_CACHE_DIR" in variables


def test_without_a_file_everything_is_as_the_code_says(file: Path) -> None:
    assert load(file, {}) == Settings()


def test_the_file_changes_defaults_and_the_environment_changes_the_file(file: Path) -> None:
    file.write_text('[sandboxes]\nmax_sandboxes = 7\nmax_timeout = "2h"\n[server]\nlisten = "0.0.0.0:80"\n')

    loaded = load(file, {"ATOLL_SANDBOXES_MAX_SANDBOXES": "9", "ATOLL_CACHE_DIR": "/x", "PATH": "/bin"})

    assert loaded.sandboxes.max_sandboxes == 9
    assert loaded.sandboxes.max_timeout == timedelta(hours=2)
    assert loaded.server.listen == "0.0.0.0:80"
    assert loaded.server.cache_dir == "/x"
    assert loaded.gvisor == Settings().gvisor


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("90", timedelta(seconds=90)),
        ("1.5", timedelta(seconds=1.5)),
        ('"250ms"', timedelta(milliseconds=250)),
        ('"30s"', timedelta(seconds=30)),
        ('"5m"', timedelta(minutes=5)),
        ('"1d"', timedelta(days=1)),
    ],
)
def test_durations_are_seconds_or_say_their_unit(file: Path, text: str, value: timedelta) -> None:
    file.write_text(f"[sandboxes]\nmax_timeout = {text}\n")

    assert load(file, {}).sandboxes.max_timeout == value
    assert load(file, {"ATOLL_SANDBOXES_MAX_TIMEOUT": text.strip('"')}).sandboxes.max_timeout == value


def test_what_is_shown_as_default_can_be_written_into_the_file(file: Path) -> None:
    for setting in settings():
        file.write_text(f"[{setting.group}]\n{setting.name} = {shown(setting.default)}\n")

        assert load(file, {}) == Settings(), setting


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("no toml", "no TOML"),
        ("\x00", "no TOML"),
        ("[sandboxes]\nmax_sandbox = 1\n", "Did you mean sandboxes.max_sandboxes?"),
        ("[sandbox]\nmax_sandboxes = 1\n", "there is no setting"),
        ("x = 1\n", "there is no setting 'x'"),
        ("[sandboxes]\nmax_sandboxes = 'many'\n", "does not fit"),
        ("[sandboxes]\nmax_sandboxes = true\n", "does not fit"),
        ("[sandboxes]\nmax_sandboxes = 1.5\n", "does not fit"),
        ("[sandboxes]\nmax_sandboxes = -1\n", "negative"),
        ("[sandboxes]\nmax_cpus = nan\n", "no number"),
        ("[sandboxes]\nmax_cpus = inf\n", "no number"),
        ("[sandboxes]\nmax_timeout = '5 hours'\n", "does not fit"),
        ("[sandboxes]\nmax_timeout = -1\n", "does not fit"),
        ("[sandboxes]\nmax_timeout = 1e300\n", "does not fit"),
        ("[sandboxes]\nmax_timeout = '99999999999d'\n", "hundred years"),
        ("[server]\nlisten = 1\n", "does not fit"),
    ],
)
def test_what_does_not_fit_is_named(file: Path, text: str, word: str) -> None:
    file.write_text(text)

    with pytest.raises(InvalidArgumentError) as caught:
        load(file, {})

    assert word in str(caught.value)
    assert str(file) in str(caught.value)


@pytest.mark.parametrize(("text", "value"), [("true", True), ("FALSE", False), ("1", True), ("0", False)])
def test_a_variable_says_yes_or_no(file: Path, text: str, value: bool) -> None:
    assert load(file, {"ATOLL_TEMPLATES_GUEST_CA": text}).templates.guest_ca is value
    with pytest.raises(InvalidArgumentError, match="ATOLL_TEMPLATES_GUEST_CA"):
        load(file, {"ATOLL_TEMPLATES_GUEST_CA": "maybe"})


@pytest.mark.parametrize("text", ["", "x", "1.5", "-3", "true"])
def test_a_variable_that_does_not_fit_is_named(file: Path, text: str) -> None:
    with pytest.raises(InvalidArgumentError, match="ATOLL_SANDBOXES_MAX_SANDBOXES"):
        load(file, {"ATOLL_SANDBOXES_MAX_SANDBOXES": text})
