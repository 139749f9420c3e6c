"""The released E2B clients for JavaScript against a real home; what they do is in tests/clients/js."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from support import javascript, matrix

TESTS = sorted(javascript.FOLDER.glob("*.test.mjs"))


@pytest.mark.parametrize("file", TESTS, ids=lambda path: path.name)
def test_the_javascript_client_is_content(
    file: Path, client_options: dict[str, Any], recorder: matrix.Recorder
) -> None:
    done = javascript.examine(file.name, client_options, recorder)

    counts = {name: int(number) for name, number in re.findall(r"^# (\w+) (\d+)$", done.stdout, re.M)}
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert counts["pass"] == counts["tests"] >= 8
    assert counts["skipped"] == 0


def test_every_test_file_is_tried() -> None:
    assert {file.name for file in TESTS} == {
        "commands.test.mjs", "files.test.mjs", "lifecycle.test.mjs", "more.test.mjs", "volumes.test.mjs",
    }  # fmt: skip


def test_the_lock_names_versions_and_sums_and_no_place_but_the_public_registry() -> None:
    packages = json.loads((javascript.FOLDER / "package-lock.json").read_text())["packages"]
    wanted = json.loads((javascript.FOLDER / "package.json").read_text())["dependencies"]
    installed = {name.removeprefix("node_modules/"): one for name, one in packages.items() if name}

    assert all(one["integrity"].startswith("sha512-") for one in installed.values())
    places = {one.get("resolved", "https://registry.npmjs.org/") for one in installed.values()}
    assert all(place.startswith("https://registry.npmjs.org/") for place in places)
    assert {name: installed[name]["version"] for name in wanted} == wanted
