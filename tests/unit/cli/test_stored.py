"""Volumes and secrets on the command line; the real control, and fake machines."""

import asyncio
import json
import os
import pty
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from fakes.live_api import KEY, LiveApi, live_api
from fakes.world import SECRET
from structlog.testing import capture_logs
from support.home import ATOLL

from atoll.cli.main import cli
from atoll.server.domain.keys import DEFAULT_TEAM
from atoll.server.stores.secrets import SqliteSecrets

VALUE = "sk-live-t0ps3cret"
Invoke = Callable[..., Result]


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveApi]:
    # The server is a thread of this process: its log must not get between what verbs print.
    with capture_logs(), live_api(Path(tmp_path_factory.mktemp("stored"))) as opened:
        yield opened


@pytest.fixture
def invoke(api: LiveApi, monkeypatch: pytest.MonkeyPatch) -> Invoke:
    monkeypatch.setenv("ATOLL_API_URL", api.url)
    monkeypatch.setenv("ATOLL_API_KEY", KEY)

    def call(*words: str, data: bytes = b"") -> Result:
        return CliRunner().invoke(cli, list(words), input=data)

    return call


def test_a_volume_is_made_listed_shown_and_deleted(invoke: Invoke) -> None:
    volume_id = invoke("volume", "create", "notes").stdout.strip()
    other = json.loads(invoke("volume", "create", "other", "--json").stdout)
    table = invoke("volume", "list").stdout.splitlines()
    listed = json.loads(invoke("volume", "list", "--json").stdout)
    shown = invoke("volume", "info", "notes").stdout
    told = json.loads(invoke("volume", "info", volume_id, "--json").stdout)

    assert table[0].split()[:2] == ["NAME", "ID"]
    # Both were made in the same moment.
    assert ["notes", volume_id] in [line.split()[:2] for line in table[1:]]
    assert sorted(one["name"] for one in listed) == ["notes", "other"]
    assert "token" not in json.dumps([listed, told, other])
    assert f"id         {volume_id}" in shown
    assert "at most    10.0 GiB" in shown
    assert told["size_bytes"] == 10 * 1024**3
    for reference in ("notes", other["id"]):
        assert invoke("volume", "delete", reference).exit_code == 0
    assert json.loads(invoke("volume", "list", "--json").stdout) == []
    assert str(invoke("volume", "delete", "notes").exception).startswith("Volume 'notes' not found")


def test_a_sandbox_gets_its_volumes_and_its_deadline(invoke: Invoke) -> None:
    volume_id = invoke("volume", "create", "data").stdout.strip()
    wishes = ("-v", "data:/data", "--volume", f"{volume_id}:/more")
    made = invoke("sandbox", "create", *wishes, "--on-deadline", "pause-files", "--auto-resume", "--json")
    sandbox = json.loads(made.stdout)
    shown = invoke("sandbox", "info", sandbox["id"]).stdout
    plain = json.loads(invoke("sandbox", "create", "--json").stdout)
    in_use = invoke("volume", "delete", "data")

    assert [(one["name"], one["volume_id"], one["path"]) for one in sandbox["volumes"]] == [
        ("data", volume_id, "/data"),
        ("data", volume_id, "/more"),
    ]
    assert (sandbox["on_deadline"], sandbox["auto_resume"]) == ("pause_files", True)
    assert (plain["on_deadline"], plain["auto_resume"], plain["volumes"]) == ("kill", False, [])
    assert "volumes    data:/data data:/more" in shown
    assert "then       pause-files, a request wakes it" in shown
    assert "in use" in str(in_use.exception)
    assert invoke("sandbox", "kill", sandbox["id"], plain["id"]).exit_code == 0
    assert invoke("volume", "delete", "data").exit_code == 0


def test_a_private_sandbox_tells_its_owner_the_token_of_its_ports(invoke: Invoke) -> None:
    wishes = ("--private", "--mask-host", "localhost:${PORT}", "--https-port", "8443", "--unsecured")
    made = json.loads(invoke("sandbox", "create", *wishes, "--json").stdout)
    shown = invoke("sandbox", "info", made["id"]).stdout
    plain = json.loads(invoke("sandbox", "create", "--json").stdout)
    plain_shown = invoke("sandbox", "info", plain["id"]).stdout

    assert made["incoming"] == {"public": False, "mask_host": "localhost:${PORT}", "https_ports": [8443]}
    assert plain["incoming"] == {"public": True, "mask_host": "", "https_ports": []}
    assert re.search("^header     E2B-Traffic-Access-Token: [0-9a-f]{64}, for its ports$", shown, re.M)
    assert "Token" not in plain_shown
    assert "token" not in json.dumps(made)
    assert invoke("sandbox", "kill", made["id"], plain["id"]).exit_code == 0


@pytest.mark.parametrize(
    "words",
    [
        ("sandbox", "create", "--https-port", "0"),
        ("volume", "chmod", "notes:/a", "rwx"),
        ("volume", "chmod", "notes", "0644"),
        ("volume", "chown", "notes:/a", "root"),
        ("volume", "chown", "notes:/a", "1:2:3"),
        ("volume", "chown", "notes:/a", "1:"),
        ("sandbox", "create", "--volume", "data"),
        ("sandbox", "create", "--volume", ":/data"),
        ("sandbox", "create", "--volume", "data:"),
        ("sandbox", "create", "-v", "a:/data", "-v", "b:/data"),
        ("sandbox", "create", "--on-deadline", "sleep"),
        ("run", "-v", "data", "-c", "1"),
        ("volume", "cp", "a", "b"),
        ("volume", "cp", "v:a", "w:b"),
        ("volume", "cp", "-", "v:b"),
        ("volume", "rm", "notes"),
        ("volume", "rm", "notes:"),
        ("secret", "create"),
        ("secret", "create", "name", VALUE),
        ("secret", "create", "name", "--metadata", "none"),
    ],
)
def test_wrong_usage_is_said(invoke: Invoke, words: tuple[str, ...]) -> None:
    assert invoke(*words).exit_code == 2


def test_a_secret_is_kept_listed_changed_and_deleted(invoke: Invoke, tmp_path: Path) -> None:
    file = tmp_path / "value"
    file.write_bytes(VALUE.encode() + b"\r\n")

    made = invoke("secret", "create", "From-Stdin", "-m", "for=tests", data=VALUE.encode() + b"\n")
    other = invoke("secret", "create", "from-file", "--file", str(file))
    third = invoke("secret", "create", "from-dash", "--file", "-", data=VALUE.encode())
    changed = invoke("secret", "update", "from-stdin", "--file", str(file))
    table = invoke("secret", "list")
    listed = json.loads(invoke("secret", "list", "--json").stdout)

    assert made.stdout == "${e2b.secrets.from-stdin}\n"
    assert [(one["name"], one["version"]) for one in listed] == [
        ("from-dash", 1), ("from-file", 1), ("from-stdin", 2),
    ]  # fmt: skip
    assert listed[2]["metadata"] == {"for": "tests"}
    assert "for=tests" in table.stdout
    for result in (made, other, third, changed, table):
        assert result.exit_code == 0
        assert VALUE not in result.output
    for name in ("From-Stdin", "from-file", listed[0]["id"]):
        assert invoke("secret", "delete", name).exit_code == 0
    assert json.loads(invoke("secret", "list", "--json").stdout) == []


def test_the_line_end_of_a_value_is_not_a_part_of_it_and_others_are(invoke: Invoke, api: LiveApi) -> None:
    invoke("secret", "create", "lines", data=b" one\ntwo\n\n")

    assert kept_values(api) == {"lines": " one\ntwo\n"}
    invoke("secret", "delete", "lines")


@pytest.mark.parametrize(
    ("data", "says"),
    [(b"\xff" + VALUE.encode(), "not text"), (b"x" * 1_100_000, "too long"), (b"", "1 to 65536")],
)
def test_what_is_no_value_is_refused_and_not_repeated(invoke: Invoke, data: bytes, says: str) -> None:
    result = invoke("secret", "create", "none", data=data)

    told = f"{result.output}{result.exception}"
    assert result.exit_code != 0
    assert says in told
    assert VALUE not in told


def test_at_a_terminal_a_value_is_asked_for_and_not_shown(api: LiveApi) -> None:
    ours, theirs = pty.openpty()
    env = {**os.environ, "ATOLL_API_URL": api.url, "ATOLL_API_KEY": KEY}
    process = subprocess.Popen(
        [ATOLL, "secret", "create", "asked"],
        stdin=theirs, stdout=subprocess.PIPE, stderr=theirs, env=env, start_new_session=True,
    )  # fmt: skip
    os.close(theirs)
    seen = b""
    while b"Value:" not in seen:
        seen += os.read(ours, 1000)
    os.write(ours, VALUE.encode() + b"\n")
    printed, _ = process.communicate(timeout=60)
    try:
        while piece := os.read(ours, 1000):
            seen += piece
    except OSError:
        pass  # the other end is closed
    os.close(ours)

    assert process.returncode == 0, seen
    assert printed == b"${e2b.secrets.asked}\n"
    assert VALUE.encode() not in seen
    assert kept_values(api) == {"asked": VALUE}


def kept_values(api: LiveApi) -> dict[str, str]:
    """Read what is kept, as the edge would for a sandbox."""

    async def read() -> dict[str, str]:
        store = SqliteSecrets(api.world.database, secret=SECRET)
        names = [one.name for one in await store.list_secrets(DEFAULT_TEAM, after="", limit=100)]
        return dict(await store.secret_values(DEFAULT_TEAM, names))

    return asyncio.run_coroutine_threadsafe(read(), api.loop).result(30)
