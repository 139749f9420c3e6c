"""What a user gets who installs Atoll today: the newest versions that our ranges allow, not our pins."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.home import CACHE, free_address

ROOT = Path(__file__).parents[2]


@pytest.mark.heavy
def test_an_install_without_pins_works(tmp_path_factory: pytest.TempPathFactory) -> None:
    directory = tmp_path_factory.mktemp("f")
    venv, home = directory / "venv", directory / "home"
    atoll = venv / "bin" / "atoll"
    environment = {**os.environ, "ATOLL_CACHE_DIR": str(CACHE)}

    def run(*words: str | Path) -> str:
        done = subprocess.run(words, capture_output=True, text=True, env=environment, timeout=900)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run(sys.executable, "-m", "venv", venv)
    run(venv / "bin" / "pip", "install", "--quiet", f"{ROOT}[server]")
    try:
        run(atoll, "up", "--home", home, "--listen", free_address(), "--detach")
        for line in run(atoll, "env", "--home", home).splitlines():
            name, _, value = line.removeprefix("export ").partition("=")
            environment[name] = value
        assert run(atoll, "run", "-c", "print(6 * 7)") == "42\n"
        assert run(atoll, "run", "--", "cat", "/etc/os-release").startswith("PRETTY_NAME")
        run(venv / "bin" / "pip", "install", "--quiet", "e2b")
        client = (
            "from e2b import Sandbox\n"
            "sandbox = Sandbox.create()\n"
            "print(sandbox.commands.run('echo hi').stdout)\n"
            "sandbox.kill()\n"
        )
        assert "hi" in run(venv / "bin" / "python", "-c", client)
    finally:
        run(atoll, "down", "--home", home)
