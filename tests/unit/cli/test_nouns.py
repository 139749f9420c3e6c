"""Listings, files and errors of the command line."""

import contextlib
import json
import os
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from click.testing import Result
from fakes.live_cloud import LiveCloud

from atoll import FailedPreconditionError, InvalidArgumentError
from atoll.cli import copying, exports, files, main, options, output
from atoll.cli.up import last_words, need_address, open_to_a_network
from atoll.server.domain.ids import SandboxId
from atoll.server.domain.upkeep import Restart

Invoke = Callable[..., Result]
Atoll = Callable[..., "subprocess.CompletedProcess[bytes]"]


@pytest.fixture
def sandbox_id(invoke: Invoke) -> str:
    return invoke("sandbox", "create", "-m", "job=a b").stdout.strip()


def test_create_list_info_kill(invoke: Invoke, sandbox_id: str) -> None:
    listed = json.loads(invoke("sandbox", "list", "--json").stdout)
    table = invoke("sandbox", "list").stdout.splitlines()
    info = json.loads(invoke("sandbox", "info", sandbox_id, "--json").stdout)
    text = invoke("sandbox", "info", sandbox_id).stdout
    killed = invoke("sandbox", "kill", sandbox_id)

    assert [one["id"] for one in listed] == [sandbox_id]
    assert table[0].split()[:3] == ["ID", "TEMPLATE", "STATUS"]
    assert table[1].split()[:3] == [sandbox_id, "base", "running"]
    assert info["sandbox"]["metadata"] == {"job": "a b"}
    assert f"id         {sandbox_id}" in text
    assert killed.stdout.strip() == sandbox_id
    assert json.loads(invoke("sandbox", "list", "--json").stdout) == []
    ended = invoke("sandbox", "info", sandbox_id).stdout.splitlines()
    assert "status     killed" in ended
    assert "ports      -" in ended


def test_a_paused_sandbox_has_no_deadline(invoke: Invoke, sandbox_id: str) -> None:
    assert invoke("sandbox", "pause", sandbox_id).exit_code == 0

    (line,) = [one for one in invoke("sandbox", "list").stdout.splitlines() if sandbox_id in one]
    assert (line.split()[2], line.split()[5]) == ("paused", "-")
    assert "deadline   -" in invoke("sandbox", "info", sandbox_id).stdout.splitlines()


def test_network_options_of_a_create(
    invoke: Invoke, cloud: LiveCloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ATOLL_PROXY_PASSWORD", "hush")
    words = (
        "--allow a.example --allow 1.1.1.1 --dns 9.9.9.9 --proxy me@p:1080 --proxy-tls "
        "--header a.example:X-A=b=c --header a.example:X-B=${e2b.secrets.d}"
    )
    made = invoke("sandbox", "create", "-t", "base", *words.split())
    plain = invoke("sandbox", "create", "-t", "base", "--deny", "8.8.8.8")
    first, second = (cloud.control.rows[done.stdout.strip()].egress for done in (made, plain))

    assert (first.allow_out, first.deny_out) == (("a.example", "1.1.1.1"), ("0.0.0.0/0",))
    assert first.dns_servers == ("9.9.9.9",)
    assert [rule.headers for rule in first.rules] == [(("X-A", "b=c"), ("X-B", "${e2b.secrets.d}"))]
    assert first.proxy is not None
    assert (first.proxy.address, first.proxy.username, first.proxy.password) == ("p:1080", "me", "hush")
    assert first.proxy.tls is not None
    assert (second.allow_out, second.deny_out, second.proxy) == ((), ("8.8.8.8",), None)


def test_how_a_new_sandbox_is_kept(invoke: Invoke, cloud: LiveCloud) -> None:
    words = "--persistent --snapshot-every 600 --keep-snapshots 5 --idle-timeout 90"
    lasting = invoke("sandbox", "create", "-t", "base", *words.split()).stdout.strip()
    never = invoke("sandbox", "create", "--persistent", "--restart", "never").stdout.strip()

    upkeep = cloud.control.rows[SandboxId(lasting)].upkeep
    assert (upkeep.persistent, upkeep.restart) == (True, Restart.FROM_SNAPSHOT)
    assert (upkeep.snapshot_every, upkeep.keep_snapshots) == (timedelta(minutes=10), 5)
    assert upkeep.idle_timeout == timedelta(seconds=90)
    assert cloud.control.rows[SandboxId(never)].upkeep.restart is Restart.NEVER
    shown = invoke("sandbox", "info", lasting).stdout.splitlines()
    assert "deadline   none: it is persistent" in shown
    (line,) = [one for one in invoke("sandbox", "list").stdout.splitlines() if lasting in one]
    assert line.endswith(" never")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--header", "X-A=hush"), "DOMAIN:NAME=VALUE"),
        (("--header", "a.example:hush"), "DOMAIN:NAME=VALUE"),
        (("--proxy", "me:hush@p:1080"), "ATOLL_PROXY_PASSWORD"),
        (("--proxy-tls",), "needs --proxy"),
        (("--allow", "a b"), "invalid allowed entry"),
    ],
)
def test_wrong_network_options_are_said(invoke: Invoke, words: tuple[str, ...], says: str) -> None:
    done = invoke("sandbox", "create", "-t", "base", *words)

    assert done.exit_code != 0
    assert says in done.output + done.stderr + str(done.exception)
    assert "hush" not in done.output + done.stderr


def test_list_filters(invoke: Invoke, sandbox_id: str) -> None:
    assert len(json.loads(invoke("sandbox", "list", "-m", "job=a b", "--json").stdout)) == 1
    assert json.loads(invoke("sandbox", "list", "-m", "job=other", "--json").stdout) == []
    assert invoke("sandbox", "list", "-m", "nonsense").exit_code == 2


def test_templates_are_listed(invoke: Invoke) -> None:
    assert json.loads(invoke("template", "list", "--json").stdout)[0]["name"] == "base"
    assert invoke("template", "list").stdout.splitlines()[1].split()[0] == "base"


def test_a_directory_goes_in_and_comes_out_as_it_was(
    invoke: Invoke, sandbox_id: str, tmp_path: Path, cloud: LiveCloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "source"
    (source / "sub").mkdir(parents=True)
    (source / "data").write_bytes(os.urandom(100_000))
    (source / "sub" / "deep").write_text("x")
    (source / "link").symlink_to("/etc/passwd")

    into = invoke("cp", str(source), f"{sandbox_id}:/there")
    out = invoke("cp", f"{sandbox_id}:/there", str(tmp_path / "back"))

    assert into.exit_code == out.exit_code == 0
    assert "not copied, a link" in into.stderr
    assert "2 files copied" in out.stderr
    back = tmp_path / "back"
    assert sorted(str(path.relative_to(back)) for path in back.rglob("*")) == ["data", "sub", "sub/deep"]
    assert (back / "data").read_bytes() == (source / "data").read_bytes()


def test_a_file_goes_into_a_directory_that_is_there(
    invoke: Invoke, sandbox_id: str, tmp_path: Path, cloud: LiveCloud
) -> None:
    (cloud.daemon.root / "dir").mkdir()
    one = tmp_path / "one"
    one.write_text("1")

    invoke("cp", str(one), f"{sandbox_id}:/dir")
    invoke("cp", f"{sandbox_id}:/dir/one", str(tmp_path / "two"))
    listed = invoke("ls", f"{sandbox_id}:/dir")
    long = invoke("ls", "-l", f"{sandbox_id}:/dir/one")

    assert (cloud.daemon.root / "dir" / "one").read_text() == "1"
    assert (tmp_path / "two").read_text() == "1"
    assert listed.stdout == "one\n"
    assert " 1 " in long.stdout
    assert json.loads(invoke("ls", "--json", f"{sandbox_id}:/dir").stdout)[0]["name"] == "one"


def test_a_copy_keeps_no_setuid_and_leaves_no_half_file(
    invoke: Invoke, sandbox_id: str, tmp_path: Path, cloud: LiveCloud
) -> None:
    there = cloud.daemon.root / "program"
    there.write_bytes(b"x" * 100_000)
    there.chmod(0o755)
    invoke("cp", f"{sandbox_id}:/program", str(tmp_path / "whole"))
    cloud.daemon.cut_after = 100

    cut = invoke("cp", f"{sandbox_id}:/program", str(tmp_path / "half"))

    assert stat.S_IMODE((tmp_path / "whole").stat().st_mode) == 0o755
    assert isinstance(cut.exception, Exception)
    # The other one is the fake sandbox's own.
    assert sorted(path.name for path in tmp_path.iterdir()) == ["inside", "whole"]


def test_a_copy_touches_no_other_file_and_takes_the_longest_name(
    invoke: Invoke, sandbox_id: str, tmp_path: Path
) -> None:
    source, mine, long = tmp_path / "source", tmp_path / ".back.part", tmp_path / ("n" * 255)
    source.write_text("theirs")
    mine.write_text("mine")
    invoke("cp", str(source), f"{sandbox_id}:/there")

    assert invoke("cp", f"{sandbox_id}:/there", str(tmp_path / "back")).exit_code == 0
    assert invoke("cp", f"{sandbox_id}:/there", str(long)).exit_code == 0

    assert (mine.read_text(), long.read_text()) == ("mine", "theirs")
    assert {path.name for path in tmp_path.iterdir() if path.name.startswith(".")} == {mine.name}


@pytest.mark.parametrize("args", [("cp", "a", "b"), ("cp", "i1:a", "i2:b"), ("ls",), ("cp", "a")])
def test_wrong_usage_is_said(invoke: Invoke, args: tuple[str, ...]) -> None:
    assert invoke(*args).exit_code == 2


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "a\0"])
def test_a_name_from_a_sandbox_cannot_lead_elsewhere(name: str) -> None:
    with pytest.raises(InvalidArgumentError):
        copying.safe_name(name)


def test_a_place_is_told_from_a_path() -> None:
    assert files.parse_place("iabc:/x") == files.Place("iabc", "/x")
    assert files.parse_place("iabc:") == files.Place("iabc", ".")
    assert files.parse_place("./a:b") is None
    assert files.parse_place("a.txt:b") is None
    assert files.parse_place("plain") is None


def test_names_of_strangers_do_not_reach_the_terminal_as_they_are() -> None:
    assert output.safe("a\x1b[31mb\nc\x00") == "a\\x1b[31mb\\nc\\x00"
    assert output.safe("grüße 漢字") == "grüße 漢字"


def test_errors_have_three_parts_and_a_code(atoll: Atoll) -> None:
    done = atoll("sandbox", "info", "i" + "a" * 20)

    assert done.returncode == 1
    assert done.stdout == b""
    assert done.stderr.startswith(b"atoll: Sandbox")
    assert b"Traceback" not in done.stderr


def test_without_a_server_named_the_error_says_what_to_do(
    atoll: Atoll, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ATOLL_API_URL")

    done = atoll("sandbox", "list")

    assert done.returncode == 1
    assert b"atoll env" in done.stderr


def test_a_fault_of_ours_is_said_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr("atoll.cli.exports.lines", fail)

    assert main.run(["env"]) == 70
    words = capfd.readouterr().err
    assert "ZeroDivisionError" in words
    assert "Traceback" not in words


def test_env_without_a_home_says_so(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main.run(["env", "--home", str(tmp_path / "none")]) == 1
    assert "There is no home of Atoll" in capfd.readouterr().err


def test_env_of_a_home_that_is_not_up_says_so(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "home.json").write_text("{}")

    assert main.run(["env", "--home", str(tmp_path)]) == 1
    assert "is not up" in capfd.readouterr().err


def test_down_without_a_home_has_nothing_to_do(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main.run(["down", "--home", str(tmp_path / "none")]) == 0
    assert "nothing to do" in capfd.readouterr().err
    assert not (tmp_path / "none").exists()


def test_up_needs_root(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)

    for verb in ("up", "down"):
        assert main.run([verb, "--home", str(tmp_path / "none")]) == 1
        assert f"sudo atoll {verb}" in capfd.readouterr().err
    assert not (tmp_path / "none").exists()


def test_up_names_missing_packages_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("atoll.cli.up._program", lambda name: None)
    monkeypatch.setattr("atoll.cli.up._FILES", {})

    # A home's path is short: sockets are in it. pytest's is not.
    with tempfile.TemporaryDirectory(prefix="atoll-test-") as home:
        assert main.run(["up", "--home", home]) == 1

    words = capfd.readouterr().err.splitlines()
    assert words[0] == "atoll: Missing Debian packages: mmdebstrap nftables util-linux."


def test_up_refuses_a_home_whose_path_is_too_long(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main.run(["up", "--home", str(tmp_path / ("x" * 100))]) == 1
    assert "too long" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("listen", "address"),
    [
        ("127.0.0.1:1", "127.0.0.1:1"),
        ("0.0.0.0:2", "127.0.0.1:2"),
        (":3", "127.0.0.1:3"),
        ("[::]:4", "[::1]:4"),
    ],
)
def test_an_address_to_listen_on_becomes_one_to_connect_to(listen: str, address: str) -> None:
    assert exports.reachable(listen) == address


def test_variables_take_their_value_from_here_when_they_have_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HERE", "value")

    assert options.environment(("A=", "HERE", "B=c=d")) == {"A": "", "HERE": "value", "B": "c=d"}


def test_a_dash_is_not_taken_for_the_name_of_a_file(
    invoke: Invoke, sandbox_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    for words in ((f"{sandbox_id}:/etc/passwd", "-"), ("-", f"{sandbox_id}:/tmp/x")):
        refused = invoke("cp", *words)
        assert refused.exit_code == 2
        assert "atoll sandbox exec ID -- cat PATH" in refused.stderr
    assert list(tmp_path.glob("-")) == []


def test_every_verb_has_help() -> None:
    for name in main.cli.list_commands(None):  # type: ignore[arg-type]
        command = main.cli.get_command(None, name)  # type: ignore[arg-type]
        assert command is not None
        assert command.help, name
        for sub in getattr(command, "commands", {}).values():
            assert sub.help, f"{name} {sub.name}"


def test_up_says_at_once_that_its_address_is_taken(tmp_path_factory: pytest.TempPathFactory) -> None:
    tmp_path = tmp_path_factory.mktemp("s")  # short, for a socket
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = f"127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(FailedPreconditionError, match="in use by another program") as caught:
            need_address(taken, tmp_path / "edge.sock")
        assert "--listen" in str(caught.value.resolution)

        with socket.socket(socket.AF_UNIX) as edge:
            edge.bind(str(tmp_path / "edge.sock"))
            edge.listen()
            # The home's own edge has it: it is taken over.
            need_address(taken, tmp_path / "edge.sock")
    need_address(taken, tmp_path / "none.sock")


@pytest.mark.parametrize("listen", ["192.0.2.1:80", "no-such-host.invalid:80"])
def test_up_refuses_an_address_that_is_not_of_this_machine(tmp_path: Path, listen: str) -> None:
    with pytest.raises(FailedPreconditionError):
        need_address(listen, tmp_path / "edge.sock")


def test_a_wrong_key_says_where_the_right_one_is(atoll: Atoll, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATOLL_API_KEY", "wrong")

    done = atoll("sandbox", "list")

    assert done.returncode == 1
    assert b'eval "$(sudo atoll env)"' in done.stderr


@pytest.mark.parametrize("listen", ["0.0.0.0:80", ":80", "[::]:80", "192.0.2.1:80", "some.host:80"])
def test_up_warns_of_an_address_that_others_reach(listen: str) -> None:
    assert f"{listen} is open to a network" in open_to_a_network(listen)


@pytest.mark.parametrize("listen", ["127.0.0.1:80", "127.1.2.3:80", "[::1]:80", "localhost:80"])
def test_up_does_not_warn_of_loopback(listen: str) -> None:
    assert open_to_a_network(listen) == ""


def test_a_server_that_did_not_start_is_quoted_without_its_log(tmp_path: Path) -> None:
    words = tmp_path / "server.err"
    words.write_text("2026-11-23 [warning ] no edge\natoll: the edge does not start\nport taken\n")

    assert last_words(words) == "the edge does not start\nport taken"


def test_a_server_that_said_no_error_is_quoted_from_its_end(tmp_path: Path) -> None:
    words = tmp_path / "server.err"
    words.write_text("\n".join(map(str, range(100))))

    assert last_words(words).splitlines() == [str(number) for number in range(85, 100)]
    assert last_words(tmp_path / "none") == ""


@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_colours_are_left_out_where_they_are_not_wanted(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    colored = on_terminal("doctor")
    monkeypatch.setenv(name, value)

    plain = on_terminal("doctor")

    assert "\x1b[32m" in colored
    assert "\x1b" not in plain
    assert "✓" in plain


def on_terminal(*words: str) -> str:
    """Run a verb on a terminal of its own; return what it showed."""
    program = "from atoll.cli.main import main; main()"
    leader, follower = os.openpty()
    with os.fdopen(leader, "rb", buffering=0) as screen:
        running = subprocess.Popen(
            [sys.executable, "-c", program, *words], stdin=follower, stdout=follower, stderr=follower
        )
        os.close(follower)
        shown = b""
        # The kernel says EIO when the last one has left the terminal.
        with contextlib.suppress(OSError):
            while piece := screen.read(65536):
                shown += piece
        running.wait(timeout=60)
    return shown.decode()


def test_who_is_not_root_is_told_to_use_sudo(capsys: pytest.CaptureFixture[str]) -> None:
    main.cli.get_command(None, "env")  # type: ignore[arg-type]  nobody may be unable to import it
    with tempfile.TemporaryDirectory() as home, as_nobody():
        code = main.run(["env", "--home", home])

    assert code == 1
    assert capsys.readouterr().err == f"atoll: {home} is for root only.\n  → Use sudo.\n"


@contextlib.contextmanager
def as_nobody() -> Iterator[None]:
    nobody = 65534
    os.setresuid(nobody, nobody, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)
