"""A guestd that is stopped, but there, is found out by who calls it, and the sandbox's end has a name."""

import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress

import pytest
from e2b import Sandbox
from support.home import LiveHome
from support.parts import api, run_inside

# 40 s of silence: for who has time.
pytestmark = pytest.mark.heavy


def test_a_stopped_guestd_is_named_once_somebody_calls(
    home: LiveHome, record_property: Callable[[str, object], None]
) -> None:
    options = home.client_options
    sandbox = Sandbox.create("minimal", timeout=900, **options)
    with suppress(Exception):
        sandbox.commands.run("kill -STOP 1", user="root", timeout=3, request_timeout=3)

    def call() -> None:
        with suppress(Exception):
            sandbox.commands.run("echo", request_timeout=60)

    began = time.monotonic()
    caller = threading.Thread(target=call)
    caller.start()
    with api(options) as client:
        while (row := client.get(f"/v1/sandboxes/{sandbox.sandbox_id}").json())["end_reason"] is None:
            # 10 s of silence, 10 s for the server's own question, and a busy machine.
            assert time.monotonic() < began + 45, row
            time.sleep(0.1)
    took = time.monotonic() - began
    record_property("seconds", took)
    sys.stdout.write(f"guest_hung after {took:.1f} s\n")
    assert row["end_reason"] == "guest_hung"
    caller.join(timeout=30)
    assert not caller.is_alive()


def test_a_guestd_that_goes_on_in_time_lives(home: LiveHome) -> None:
    options = home.client_options
    sandbox = Sandbox.create("minimal", timeout=900, **options)
    # Longer than the edge waits until it tells, and shorter than that and the server's own question.
    stop = "(kill -STOP 1; sleep 13; kill -CONT 1) >/dev/null 2>&1 &"
    with suppress(Exception):
        sandbox.commands.run(stop, user="root", timeout=3, request_timeout=3)

    assert sandbox.commands.run("echo late", request_timeout=60).stdout == "late\n"

    # No complaint is left over that ends it now.
    time.sleep(1)
    assert run_inside(options, sandbox.sandbox_id, "echo here") == "here\n"
    sandbox.kill()
