"""A sandbox whose kernel hangs: who wants something of it has it ended, with its reason."""

import os
import signal
import time
from contextlib import suppress
from typing import Any

import e2b
import httpx
import pytest
from support.home import LiveHome

from atoll import Sandbox


def sentry(home: LiveHome, sandbox: Sandbox) -> int:
    """Find the process that isolates."""
    (found,) = [
        process.pid
        for process in home.processes("runsc-sandbox")
        if any(sandbox.id in word for word in process.cmdline())
    ]
    return found


def test_it_is_ended_once_somebody_cannot_reach_it(home: LiveHome, client_options: dict[str, Any]) -> None:
    options = {name: client_options[name] for name in ("api_url", "api_key")}
    with (
        Sandbox.create("minimal", timeout=600, **options) as hung,
        Sandbox.create("minimal", timeout=600, **options) as other,
    ):
        os.kill(sentry(home, hung), signal.SIGSTOP)
        began = time.monotonic()
        # On a connection of its own: what is open already only waits.
        headers = {"E2b-Sandbox-Id": hung.id, "E2b-Sandbox-Port": "8000"}
        answer = httpx.get(f"{client_options['api_url']}/", headers=headers, timeout=60)

        assert answer.status_code == 504
        while hung.info().end_reason is None and time.monotonic() - began < 60:
            time.sleep(0.1)
        assert hung.info().end_reason == "runtime_hung"
        assert other.commands.run("echo alive").stdout == "alive\n"


def test_a_port_that_is_only_closed_ends_nothing(client_options: dict[str, Any]) -> None:
    options = {name: client_options[name] for name in ("api_url", "api_key")}
    with Sandbox.create("minimal", timeout=600, **options) as sandbox:
        headers = {"E2b-Sandbox-Id": sandbox.id, "E2b-Sandbox-Port": "8000"}
        for _ in range(3):
            assert httpx.get(f"{client_options['api_url']}/", headers=headers, timeout=60).status_code == 502

        assert sandbox.commands.run("echo alive").stdout == "alive\n"
        assert sandbox.info().end_reason is None


@pytest.mark.heavy
def test_a_guest_that_is_stopped_is_paused_as_that_and_comes_back_by_a_boot(
    client_options: dict[str, Any],
) -> None:
    options = {name: client_options[name] for name in ("api_url", "api_key")}
    with e2b.Sandbox.create("minimal", timeout=600, **client_options) as sandbox:
        sandbox.files.write("/home/user/kept", "kept")
        # Whoever is root inside can stop its first process; the answer to this never comes.
        with suppress(Exception):
            sandbox.commands.run("kill -STOP 1", user="root", timeout=2, request_timeout=3)

        with pytest.raises(e2b.ServiceBusyException):
            sandbox.pause(strict=True)
        assert sandbox.pause()
        assert sandbox.get_info().envd_unresponsive_at_pause is True
        with pytest.raises(e2b.GuestUnresponsiveException):
            e2b.Sandbox.connect(sandbox.sandbox_id, **options)
        again = e2b.Sandbox.connect(sandbox.sandbox_id, on_resume="reboot", **client_options)

        assert again.files.read("/home/user/kept") == "kept"
