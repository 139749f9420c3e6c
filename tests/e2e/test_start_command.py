"""A template's start command: ready when create returns, one of the sandbox's commands from then on."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from e2b import Sandbox

from atoll.server.domain.template import Template


@pytest.fixture(scope="module")
def service(httpbin_template: Template, client_options: dict[str, Any]) -> Iterator[Sandbox]:
    live = Sandbox.create("httpbin", envs={"WHO": "me"}, timeout=600, **client_options)
    yield live
    live.kill()


def ask(sandbox: Sandbox, client_options: dict[str, Any], path: str, **request: Any) -> httpx.Response:
    headers = {"E2b-Sandbox-Id": sandbox.sandbox_id, "E2b-Sandbox-Port": "8080"}
    return httpx.request(
        request.pop("method", "GET"),
        f"{client_options['sandbox_url']}{path}",
        headers=headers,
        timeout=30,
        **request,
    )


def test_httpbin_answers_as_soon_as_create_returns(
    httpbin_template: Template, client_options: dict[str, Any]
) -> None:
    live = Sandbox.create("httpbin", timeout=600, **client_options)
    try:
        answer = ask(live, client_options, "/get", params={"a": "b"})
    finally:
        live.kill()

    assert answer.status_code == 200
    assert answer.json()["args"] == {"a": "b"}


def test_httpbin_echoes_what_it_is_sent(service: Sandbox, client_options: dict[str, Any]) -> None:
    posted = ask(service, client_options, "/post", method="POST", content=b"x" * 100_000)
    teapot = ask(service, client_options, "/status/418")

    assert posted.json()["data"] == "x" * 100_000
    assert teapot.status_code == 418


def test_httpbins_from_one_checkpoint_draw_other_random_numbers(
    httpbin_template: Template, client_options: dict[str, Any]
) -> None:
    with (
        Sandbox.create("httpbin", timeout=120, **client_options) as one,
        Sandbox.create("httpbin", timeout=120, **client_options) as other,
    ):
        drawn = {ask(each, client_options, "/bytes/16").content for each in (one, other)}
        with one.fork(timeout=60)[0] as fork:
            drawn |= {ask(each, client_options, "/bytes/16").content for each in (one, fork)}

    assert len(drawn) == 4


def test_the_start_command_is_one_of_the_commands(service: Sandbox) -> None:
    (command,) = service.commands.list()

    assert command.tag == "startCmd"
    assert command.args[:2] == ["-l", "-c"]
    seen = service.commands.run(
        f"tr '\\0' '\\n' </proc/{command.pid}/environ; stat -c %U /proc/{command.pid}"
    )
    # The sandbox's own variables it has only where its recipe says that it needs them, as the interpreter's
    assert "E2B_SANDBOX=true" in seen.stdout.splitlines()
    assert seen.stdout.splitlines()[-1] == "user"


def test_a_template_without_a_start_command_runs_nothing(client_options: dict[str, Any]) -> None:
    live = Sandbox.create("minimal", timeout=600, **client_options)
    try:
        assert live.commands.list() == []
    finally:
        live.kill()
