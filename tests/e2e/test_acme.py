"""A home whose certificate an authority on the network signs: the record that it looks for is our answer."""

import os
import shutil
import signal
import ssl
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest
from e2e.test_domain import PORTS, served
from support.acme import HOST, authority
from support.home import free_address, new_directory
from support.own_resolver import DomainHome, own_resolver

PATIENCE_S = 60.0
T = TypeVar("T")


def until(what: Callable[[], T | None]) -> T:
    end = time.monotonic() + PATIENCE_S
    while (found := what()) is None:
        assert time.monotonic() < end, "not within patience"
        time.sleep(0.1)
    return found


def test_clients_trust_what_an_authority_signed_and_it_outlives_edge_and_authority(tmp_path: Path) -> None:
    dns = free_address()
    with own_resolver() as resolver, authority(tmp_path, dns) as signer:
        with resolver.hosts.open("a") as hosts:
            hosts.write(f"127.0.0.1 {HOST}\n")
        words = ("--dns-listen", dns, "--acme-email", "who@signed.test")
        home = DomainHome(
            path=new_directory(),
            listen=free_address(),
            resolver=resolver,
            tls_listen=free_address(),
            domain="signed.test",
            more=(*words, "--acme-directory", signer.directory, "--acme-ca-bundle", str(signer.bundle)),
        )

        def trusted() -> int | None:
            try:
                return served(home, signer.roots)
            except (ssl.SSLCertVerificationError, ConnectionError):
                return None

        try:
            home.start()
            first = until(trusted)
            assert home.dns("install").returncode == 0
            # Nobody has to be told of an authority of ours.
            assert "SSL_CERT_FILE" not in home.exports
            environment = home.client_environment | {"SSL_CERT_FILE": str(signer.roots)}
            done = resolver.run(sys.executable, str(PORTS), env=environment, timeout=200)
            assert done.returncode == 0, done.stderr
            told = home.atoll("doctor", "--home", str(home.path)).stdout
            assert f"signed by {signer.directory}" in told
            kept = home.path / "tls" / "signed.test" / "acme"
            assert {file.stat().st_mode & 0o077 for file in kept.rglob("*")} == {0}

            signer.process.kill()
            signer.process.wait()
            os.kill(home.edge_pid(), signal.SIGKILL)
            assert until(trusted) == first
        finally:
            home.down()
            shutil.rmtree(home.path)


def test_an_authority_that_is_not_there_is_named_and_the_rest_works() -> None:
    nobody = free_address()
    with own_resolver() as resolver:
        words = ("--dns-listen", free_address(), "--acme-email", "who@signed.test")
        home = DomainHome(
            path=new_directory(),
            listen=free_address(),
            resolver=resolver,
            tls_listen=free_address(),
            domain="signed.test",
            more=(*words, "--acme-directory", f"https://{nobody}/dir"),
        )

        def failure() -> str | None:
            told = home.atoll("doctor", "--home", str(home.path)).stdout
            return told if f"none from https://{nobody}/dir" in told else None

        try:
            home.start()
            assert "refused" in until(failure)
            assert "certificate not signed" in (home.path / "logs" / "edge.log").read_text()
            with pytest.raises(ssl.SSLCertVerificationError):
                served(
                    home, Path(ssl.get_default_verify_paths().cafile or "/etc/ssl/certs/ca-certificates.crt")
                )
        finally:
            home.down()
            shutil.rmtree(home.path)
