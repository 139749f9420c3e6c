"""The base template is what people expect of a machine in the cloud."""

import statistics

import pytest
from e2b import Sandbox

SLOW = 240
# Behind a company's proxy these fail unless its authority is trusted inside.
REQUEST = "import requests; requests.get('https://pypi.org/simple/six/').raise_for_status()"


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
        ("id", "uid=1000(user) gid=1000(user)"),
        ("pwd", "/home/user"),
        ("echo $LANG", "C.UTF-8"),
        ("date +%Z", "UTC"),
        ("locale -a", "en_US.utf8"),
        ("python3 -c 'import zoneinfo; print(zoneinfo.ZoneInfo(\"Europe/Paris\"))'", "Europe/Paris"),
        ("echo $PATH", "/home/user/.local/bin:"),
        ("cat /etc/resolv.conf", "nameserver 169.254.1.1"),
    ],
)
def test_a_program_or_setting_is_there(sandbox: Sandbox, command: str, expected: str) -> None:
    assert expected in sandbox.commands.run(command).stdout


def test_files_can_be_opened_by_the_thousand(sandbox: Sandbox) -> None:
    assert int(sandbox.commands.run("ulimit -Hn").stdout) >= 4096


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


def test_pip_installs_for_the_user_for_root_and_in_a_venv(sandbox: Sandbox) -> None:
    sandbox.commands.run("pip install -q six && python3 -c 'import six'", timeout=SLOW)
    sandbox.commands.run("sudo pip install -q toolz && sudo python3 -c 'import toolz'", timeout=SLOW)
    sandbox.commands.run(
        f'python3 -m venv v && v/bin/pip install -q requests && v/bin/python -c "{REQUEST}"', timeout=SLOW
    )


def test_pip_goes_on_after_it_has_replaced_itself(sandbox: Sandbox) -> None:
    sandbox.commands.run(
        "pip install -q -U pip && pip install -q idna && python3 -c 'import idna'", timeout=SLOW
    )
    sandbox.commands.run(
        "python3 -m venv w && w/bin/pip install -q -U pip && w/bin/pip install -q idna", timeout=SLOW
    )


def test_npm_installs_for_a_project_and_for_all(sandbox: Sandbox) -> None:
    sandbox.commands.run("mkdir p && cd p && npm init -y >/dev/null && npm install is-number", timeout=SLOW)
    sandbox.commands.run("npm install -g cowsay && cowsay moo", timeout=SLOW)


def test_node_trusts_what_the_host_trusts(sandbox: Sandbox) -> None:
    code = "fetch('https://registry.npmjs.org/is-number').then(answer => console.log(answer.status))"

    assert sandbox.commands.run(f'node -e "{code}"', timeout=60).stdout == "200\n"


def test_curl_and_apt_reach_the_world(sandbox: Sandbox) -> None:
    sandbox.commands.run("curl -sSf -o /dev/null https://pypi.org/simple/six/", timeout=60)
    sandbox.commands.run(
        "sudo apt-get -qq update && sudo apt-get -qq install -y hello && hello", timeout=SLOW
    )


def test_a_login_shell_starts_nothing_else(sandbox: Sandbox) -> None:
    # Debian's own profile starts id and run-parts; each fork costs milliseconds in every command.
    before, after = sandbox.commands.run(
        "bash -c 'echo $$'; bash -l -c true; bash -i -l -c true 2>/dev/null; bash -c 'echo $$'; true"
    ).stdout.split()

    assert int(after) - int(before) == 3


def test_sudo_answers_quickly_without_a_network(client_options: dict[str, object]) -> None:
    alone = Sandbox.create("base", timeout=300, allow_internet_access=False, **client_options)
    try:
        output = alone.commands.run(
            "for i in $(seq 15); do a=${EPOCHREALTIME/./}; sudo -n true; "
            "echo $((${EPOCHREALTIME/./} - a)); done"
        )
        who = alone.commands.run("sudo id -un && sudo -u user id -un").stdout
    finally:
        alone.kill()

    assert who == "root\nuser\n"
    assert statistics.median(int(line) for line in output.stdout.split()) < 100_000


def test_sudo_keeps_what_programs_need(sandbox: Sandbox) -> None:
    assert sandbox.commands.run("sudo printenv LANG").stdout == "C.UTF-8\n"
