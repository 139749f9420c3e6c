"""Released clients that know nothing but a domain; the machine's resolver, before and after."""

import contextlib
import dataclasses
import os
import shutil
import signal
import socket
import ssl
import stat
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from importlib.metadata import version as installed
from pathlib import Path

import pytest
from cryptography.x509 import load_der_x509_certificate, load_pem_x509_certificate
from e2e.test_e2b_older import FLOW, OLDER, environment_with
from support import e2b_cli, javascript
from support.home import free_address, new_directory
from support.name_server import ADDRESS, name_server
from support.own_resolver import DomainHome, domain_home, own_resolver

from atoll.server.edge.authority import make_authority, make_certificate

# The last of its line: it knows no other way than a domain.
FIRST_LINE = "1.11.1"
PORTS = Path(__file__).with_name("domain_ports.py")


@pytest.fixture(scope="module")
def home() -> Iterator[DomainHome]:
    with domain_home() as live:
        done = live.dns("install")
        assert done.returncode == 0, done.stderr
        yield live


def test_names_of_the_domain_and_all_others_resolve(home: DomainHome) -> None:
    assert home.resolver.resolve("api.sbx.test") == ["127.0.0.1"]
    assert home.resolver.resolve("3000-i0123456789abcdefghij.sbx.test") == ["127.0.0.1"]
    assert home.resolver.resolve("a.b.sbx.test") == []
    assert home.resolver.resolve("localhost") != []


# The older one without a domain: test_e2b_older.py.
@pytest.mark.parametrize(
    "version", [None, pytest.param(OLDER, marks=pytest.mark.heavy)], ids=["the installed one", OLDER]
)
def test_python_clients_are_content(home: DomainHome, version: str | None) -> None:
    python = environment_with(version) if version else sys.executable

    done = home.resolver.run(python, str(FLOW), env=home.client_environment, timeout=200)

    assert done.returncode == 0, done.stderr
    assert done.stdout == f"e2b {version or installed('e2b')} is content\n"


def test_a_client_that_knows_domains_only_reaches_ports_and_the_daemon(home: DomainHome) -> None:
    for python in (environment_with(FIRST_LINE), sys.executable):
        done = home.resolver.run(python, str(PORTS), env=home.client_environment, timeout=200)

        assert done.returncode == 0, done.stderr
        assert done.stdout.endswith("is content\n")


def test_the_javascript_client_is_content(home: DomainHome) -> None:
    node = javascript.node()
    javascript.install()
    environment = home.client_environment | {"NO_COLOR": "1"}

    done = home.resolver.run(
        node, "--test", str(javascript.FOLDER / "files.test.mjs"), env=environment, timeout=250
    )

    assert done.returncode == 0, done.stdout + done.stderr


def test_the_command_line_is_content(home: DomainHome) -> None:
    command = [javascript.node(), str(e2b_cli.PROGRAM), "sandbox"]
    javascript.install()

    def run(*words: str) -> str:
        done = home.resolver.run(*command, *words, env=home.client_environment | {"NO_COLOR": "1"})
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    sandbox_id = run("create", "minimal", "--detach").strip()
    said = run("exec", sandbox_id, "--", "echo", "here")
    run("kill", sandbox_id)

    assert said == "here\n"


@pytest.mark.usefixtures("interpreter_template")
def test_code_interpreters_are_content(home: DomainHome) -> None:
    """One client makes the sandbox, the other finds it."""
    environment = home.client_environment | {"NO_COLOR": "1"}
    python = (
        "from e2b_code_interpreter import Sandbox; live = Sandbox.create(timeout=300)\n"
        "assert live.run_code('x = 40; x + 2').text == '42'; print(live.sandbox_id)"
    )
    made = home.resolver.run(sys.executable, "-c", python, env=environment)
    assert made.returncode == 0, made.stderr
    script = (
        "const { Sandbox } = await import('@e2b/code-interpreter')\n"
        f"const live = await Sandbox.connect('{made.stdout.strip()}')\n"
        "console.log((await live.runCode('x + 2')).text, await live.kill())"
    )
    javascript.install()
    words = [javascript.node(), "--input-type=module", "--eval", script]
    found = home.resolver.run("env", f"--chdir={javascript.FOLDER}", *words, env=environment)

    assert found.stdout == "42 true\n", found.stderr


def test_exports_name_the_domain_instead_of_addresses(home: DomainHome) -> None:
    assert home.exports["E2B_DOMAIN"] == f"sbx.test:{home.tls_listen.rpartition(':')[2]}"
    assert not {"E2B_API_URL", "E2B_SANDBOX_URL"} & home.exports.keys()


def test_doctor_knows_that_names_resolve(home: DomainHome) -> None:
    told = home.atoll("doctor", "--home", str(home.path)).stdout

    assert "names of sbx.test resolve, by way of resolv.conf" in told


def test_what_others_need_is_readable_and_the_rest_is_not(home: DomainHome) -> None:
    bundle = Path(home.exports["SSL_CERT_FILE"])

    assert stat.S_IMODE(bundle.stat().st_mode) == 0o644
    assert b"PRIVATE" not in bundle.read_bytes()
    secret = [file for file in (home.path / "tls").rglob("*") if file.is_file()]
    assert {stat.S_IMODE(file.stat().st_mode) for file in secret} == {0o600}


@contextlib.contextmanager
def removed(home: DomainHome) -> Iterator[Path]:
    """Take our lines out for a while; the file is as it was afterwards."""
    assert home.dns("remove").returncode == 0
    file = home.resolver.resolv_conf
    before = file.read_bytes()
    try:
        yield file
    finally:
        home.dns("remove")
        file.write_bytes(before)
        assert home.dns("install").returncode == 0


def test_the_resolver_is_put_back_byte_for_byte(home: DomainHome) -> None:
    with removed(home) as file:
        # No newline at its end, as some programs write it.
        file.write_bytes(b"# ours\nsearch example.org\n" + file.read_bytes().rstrip(b"\n"))
        before, mode = file.read_bytes(), file.stat().st_mode

        for _ in range(2):
            assert home.dns("install").returncode == 0
        assert home.resolver.resolve("api.sbx.test") == ["127.0.0.1"]
        assert home.dns("remove").returncode == 0

        assert (file.read_bytes(), file.stat().st_mode) == (before, mode)
        assert home.resolver.resolve("api.sbx.test") == []
        assert "nothing to undo" in home.dns("remove").stderr


def test_what_somebody_else_changed_is_left_and_told(home: DomainHome) -> None:
    with removed(home) as file:
        before = file.read_bytes()
        assert home.dns("install").returncode == 0
        file.write_bytes(file.read_bytes() + b"# from somebody else\n")

        done = home.dns("remove")

        assert done.returncode == 0
        assert "Somebody else has changed" in done.stderr
        assert file.read_bytes() == before + b"# from somebody else\n"


def test_other_names_resolve_through_us_and_without_us() -> None:
    with name_server("127.99.7.53") as asked, domain_home() as home:
        home.resolver.resolv_conf.write_text("nameserver 127.99.7.53\n")
        assert home.dns("install").returncode == 0
        assert home.resolver.resolve("up.example.org") == [ADDRESS]
        # Ours was before theirs, or it would have been asked for our names, too.
        assert home.resolver.resolve("api.sbx.test") == ["127.0.0.1"]
        assert set(asked) == {"up.example.org"}

        for pid in (home.server_pid(), home.edge_pid()):
            os.kill(pid, signal.SIGKILL)
        assert home.resolver.resolve("down.example.org") == [ADDRESS]
        told = home.atoll("doctor", "--home", str(home.path)).stdout
        assert "is asked for sbx.test, and nobody answers" in told

        home.start()
        assert home.resolver.resolve("api.sbx.test") == ["127.0.0.1"]
        public = Path(home.exports["SSL_CERT_FILE"]).parent
        # A file that cannot be put back keeps nothing alive.
        assert home.resolver.run("mount", "-o", "remount,bind,ro", "/etc/resolv.conf").returncode == 0
        done = home.atoll("down", "--home", str(home.path))
        assert done.returncode == 1
        assert "read-only" in done.stderr
        assert not home.living()
        assert home.resolver.run("mount", "-o", "remount,bind,rw", "/etc/resolv.conf").returncode == 0
        home.down()
        assert home.resolver.resolv_conf.read_text() == "nameserver 127.99.7.53\n"
        assert not public.exists()


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda file: file.write_text("nameserver 192.0.2.1\noptions rotate\n"), "options rotate"),
        (lambda file: file.write_bytes(b"#" * (70 << 10)), "no file for a resolver"),
    ],
)
def test_a_resolver_that_cannot_be_pointed_at_us_is_left_alone(
    home: DomainHome, spoil: Callable[[Path], object], told: str
) -> None:
    with removed(home) as file:
        spoil(file)
        spoilt = file.read_bytes()

        done = home.dns("install")

        assert done.returncode == 1
        assert told in done.stderr
        assert file.read_bytes() == spoilt


def test_a_certificate_of_the_operators_own_is_served_and_followed(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    authority = make_authority("own.test", now)
    (tmp_path / "ca.pem").write_bytes(authority.certificate)

    def write() -> int:
        made = make_certificate(authority, "own.test", now)
        for name, content in (("cert.pem", made.certificate), ("key.pem", made.key)):
            (tmp_path / "new").write_bytes(content)
            (tmp_path / "new").replace(tmp_path / name)
        return load_pem_x509_certificate(made.certificate).serial_number

    with own_resolver() as resolver:
        live = DomainHome(
            path=new_directory(),
            listen=free_address(),
            resolver=resolver,
            tls_listen=free_address(),
            domain="own.test",
            more=("--tls-cert", str(tmp_path / "cert.pem"), "--tls-key", str(tmp_path / "key.pem")),
        )
        try:
            first = write()
            other = dataclasses.replace(live, domain="other.test")
            with pytest.raises(AssertionError, match=r"not for \*\.other\.test"):
                other.start()
            live.start()
            assert "SSL_CERT_FILE" not in live.exports
            assert served(live, tmp_path / "ca.pem") == first
            second = write()
            assert served(live, tmp_path / "ca.pem") == second
        finally:
            live.down()
            shutil.rmtree(live.path)


def served(home: DomainHome, authority: Path) -> int:
    """Shake hands as a client does that trusts the authority; return the number of what is shown."""
    context = ssl.create_default_context(cafile=str(authority))
    host, _, port = home.tls_listen.rpartition(":")
    with (
        socket.create_connection((host, int(port)), timeout=20) as wire,
        context.wrap_socket(wire, server_hostname=f"api.{home.domain}") as secured,
    ):
        shown = secured.getpeercert(binary_form=True)
        assert shown is not None
        return load_der_x509_certificate(shown).serial_number
