"""The released command line of E2B signs in with our page in a real browser, and out again."""

import json
import os
import pty
import re
import select
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from support import browser, javascript, matrix
from support.e2b_cli import E2bCli
from support.home import LiveHome


class Terminal:
    """A person's terminal, with a home directory of its own and no key in the environment."""

    def __init__(self, program: E2bCli, directory: Path, exports: dict[str, str]) -> None:
        self.program = program
        self.directory = directory
        kept = {name: value for name, value in os.environ.items() if not name.startswith("E2B_")}
        told = {name: value for name, value in exports.items() if name.startswith("E2B_")}
        del told["E2B_API_KEY"]
        # No browser opens by itself.
        self.env = (
            kept | told | {"HOME": str(directory), "NO_COLOR": "1", "PATH": _path_without_opener(directory)}
        )

    def run(self, *words: str, stdin: str | None = None) -> "subprocess.CompletedProcess[str]":
        command = [*self.program.command, *words]
        done = subprocess.run(command, env=self.env, input=stdin, capture_output=True, text=True, timeout=120)
        self.program.saw(words, done.returncode, done.stdout + done.stderr)
        return done

    def choose(self, *words: str, when: bytes) -> bytes:
        """Run it in a terminal, and take the first choice once something is shown; return all that is."""
        outer, inner = pty.openpty()
        process = subprocess.Popen(
            [*self.program.command, *words], env=self.env, stdin=inner, stdout=inner, stderr=inner
        )
        os.close(inner)
        seen, chosen, limit = b"", False, time.monotonic() + 60
        try:
            while time.monotonic() < limit:
                if select.select([outer], [], [], 0.2)[0]:
                    try:
                        seen += os.read(outer, 65536)
                    except OSError:  # it closed its side
                        break
                if not chosen and when in seen:
                    os.write(outer, b"\r")
                    chosen = True
            code = process.wait(timeout=30)
            self.program.saw(words, code, "")
            assert code == 0, seen
            return seen
        finally:
            process.kill()
            os.close(outer)

    @property
    def config(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.directory / ".e2b" / "config.json").read_text())
        return found


def _path_without_opener(directory: Path) -> str:
    programs = directory / "bin"
    programs.mkdir()
    (programs / "node").symlink_to(javascript.node())
    return str(programs)


@pytest.fixture
def terminal(home: LiveHome, tmp_path: Path, recorder: matrix.Recorder) -> Terminal:
    return Terminal(E2bCli(recorder), tmp_path, home.exports)


@pytest.fixture
def login(terminal: Terminal) -> Iterator["subprocess.Popen[str]"]:
    process = subprocess.Popen(
        [*terminal.program.command, "auth", "login"],
        env=terminal.env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    yield process
    process.kill()
    process.communicate()


def page_of(process: "subprocess.Popen[str]") -> str:
    """Read the address that the program prints where it cannot open a browser."""
    assert process.stdout is not None
    said, limit = "", time.monotonic() + 60
    while time.monotonic() < limit:
        if select.select([process.stdout], [], [], 0.5)[0]:
            said += os.read(process.stdout.fileno(), 65536).decode()
            if found := re.search(r"(http\S+/docs/api/cli\?\S+)\n", said):
                return found[1]
    raise AssertionError(said)


def test_signing_in_with_an_access_token_gives_a_key_that_signing_out_revokes(
    home: LiveHome, terminal: Terminal, login: "subprocess.Popen[str]", tmp_path: Path
) -> None:
    url, headers = home.exports["E2B_API_URL"], {"X-API-Key": home.exports["E2B_API_KEY"]}
    token = httpx.post(f"{url}/access-tokens", headers=headers, json={"name": "me"}).json()["token"]
    with browser.page() as page:
        page.open(page_of(login))
        page.type("#key", "e2b_" + "0" * 40)
        page.click("button")
        page.until("document.querySelector('.problem')")
        page.screenshot(tmp_path / "refused.png")
        refused = page.text()
        page.type("#key", token)
        page.click("button")
        page.until("document.body && document.body.innerText.includes('Go back to the terminal')")
        page.screenshot(tmp_path / "done.png")
        done = page.text()
    said, _ = login.communicate(timeout=60)
    terminal.program.saw(("auth", "login"), login.returncode, said)
    kept = terminal.config
    key = kept["projectApiKey"]
    again = terminal.run("auth", "login")
    info = terminal.run("auth", "info")
    configured = terminal.choose("auth", "configure", when=b"default")
    listed = terminal.run("sandbox", "list")
    terminal_kept = terminal.config
    alive = httpx.get(f"{url}/teams", headers={"X-API-Key": key}).status_code
    out = terminal.run("auth", "logout")
    revoked = httpx.get(f"{url}/teams", headers={"X-API-Key": key}).status_code
    nobody = terminal.run("auth", "info")

    assert "not known" in refused
    assert "Signed in" in done
    assert login.returncode == 0, said
    assert "Logged in as me with selected project default" in said
    assert "Already logged in" in again.stdout
    assert "me" in info.stdout
    assert b"selected" in configured
    assert kept == {**terminal_kept, "last_refresh": kept["last_refresh"]}
    assert listed.returncode == 0, listed.stderr
    assert token not in json.dumps(kept)
    assert (alive, revoked) == (200, 401)
    assert "Logged out" in out.stdout
    assert "Not logged in" in nobody.stdout


def test_a_page_elsewhere_gets_no_key(home: LiveHome) -> None:
    with browser.page() as page:
        page.open(f"{home.exports['E2B_DOCS_BASE']}/api/cli?next=http://evil.example:80")
        assert "does not work" in page.text()
        assert page.ask("document.querySelector('form') === null")
