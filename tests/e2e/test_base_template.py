"""The base template is what people expect of a machine in the cloud."""

import pytest
from e2b import Sandbox

SLOW = 240


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("python3 --version", "Python 3.13"),
        ("python --version", "Python 3.13"),
        ("node --version", "v20."),
        ("npm --version", ""),
        ("git --version", "git version"),
        ("gcc --version | head -1", "gcc"),
        ("pip --version", "pip"),
        ("cat /etc/debian_version", "13."),
        ("echo $LANG; date +%Z", "UTC"),
        ("ulimit -n", ""),
    ],
)
def test_a_program_is_there(sandbox: Sandbox, command: str, expected: str) -> None:
    assert expected in sandbox.commands.run(command).stdout


def test_the_identity_is_its_own(sandbox: Sandbox) -> None:
    lines = sandbox.commands.run("cat /etc/machine-id; hostname; getent hosts $(hostname)").stdout.split("\n")

    assert len(lines[0]) == 32
    assert int(lines[0], 16) >= 0
    assert lines[1]
    assert lines[1] in lines[2]


def test_tmp_is_on_the_disk(sandbox: Sandbox) -> None:
    root, tmp = sandbox.commands.run("stat -f -c %i / ; stat -f -c %i /tmp").stdout.split()

    assert root == tmp


def test_memory_shows_what_was_promised(sandbox: Sandbox) -> None:
    kilobytes = int(sandbox.commands.run("grep MemTotal /proc/meminfo").stdout.split()[1])

    assert kilobytes == 1024 * 1024


def test_pip_installs_for_the_user_and_in_a_venv(sandbox: Sandbox) -> None:
    sandbox.commands.run("pip install -q six && python3 -c 'import six'", timeout=SLOW)
    sandbox.commands.run(
        "python3 -m venv v && v/bin/pip install -q requests && "
        "v/bin/python -c \"import requests; requests.get('https://pypi.org/simple/six/').raise_for_status()\"",
        timeout=SLOW,
    )


def test_npm_installs_for_the_user(sandbox: Sandbox) -> None:
    sandbox.commands.run("npm install -g is-number && ls ~/.local/lib/node_modules/is-number", timeout=SLOW)


def test_curl_git_and_apt_reach_the_world(sandbox: Sandbox) -> None:
    sandbox.commands.run("curl -sSf -o /dev/null https://pypi.org/simple/six/", timeout=60)
    sandbox.commands.run(
        "sudo apt-get -qq update && sudo apt-get -qq install -y hello && hello", timeout=SLOW
    )


def test_a_login_shell_starts_nothing_else(sandbox: Sandbox) -> None:
    # Debian's own profile starts id and run-parts; each fork costs milliseconds in every command.
    traced = sandbox.commands.run(
        "bash -lxc true 2>&1 | grep -E '^\\++ (/usr)?(/bin/)?(id|run-parts|dircolors|lesspipe)' || echo none"
    )

    assert traced.stdout == "none\n"
