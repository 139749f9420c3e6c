"""What every request passes, whatever the dialect: key, size, time, form of errors."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import httpx
import pytest
import structlog
from fakes.apps import public_app
from fakes.control import KEY, FakeControl
from fakes.secrets import no_identity, no_secrets
from fakes.verbs import verbs_over
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from hypothesis import given, settings
from hypothesis import strategies as st

from atoll.server.api.app import PublicAddress, build_private
from atoll.server.api.e2b.form import render
from atoll.server.api.gate import Dialect, Gate
from atoll.server.api.limits import ApiLimits
from atoll.server.control.requests import CreateSandbox
from atoll.server.domain.errors import (
    AtollError,
    FailedPreconditionError,
    Reason,
    ResourceExhaustedError,
    UnavailableError,
)
from atoll.server.domain.ids import new_sandbox_id
from atoll.server.domain.sandbox import Status

ADDRESS = PublicAddress(domain="localhost:4000")
# All that anybody may see without a key.
OPEN = {"/health", "/v1/health", "/docs", "/docs/oauth2-redirect", "/docs/static", "/openapi.json"}
# Of these, too; what they want to see is in the body, or comes from a store that is not open here.
OPEN_ELSEWHERE = {
    "/.well-known/openid-configuration", "/.well-known/jwks.json",
    "/docs/api/cli", "/docs/api/cli/token", "/docs/api/cli/revoke",
}  # fmt: skip
MIB = 1024 * 1024


def public(control: FakeControl, limits: ApiLimits | None = None) -> Gate:
    app = public_app(verbs_over(control), ADDRESS, limits or ApiLimits())
    assert isinstance(app, Gate)
    return app


def caller(app: Gate, **headers: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://api", headers=headers)


def operations(app: Gate) -> Iterator[tuple[str, str]]:
    """Every route there is, as the apps themselves know them."""
    for dialect in app.dialects:
        assert isinstance(dialect.app, FastAPI)
        for context in iter_route_contexts(dialect.app.routes):
            assert context.path is not None
            path = re.sub(r"\{(\w+)(:path)?\}", r"\1", context.path)
            yield from ((method, path) for method in sorted(context.methods or {"GET"}))


async def test_every_route_but_the_named_ones_needs_a_key() -> None:
    app = public(FakeControl())
    walked = list(operations(app))

    async with caller(app) as client:
        answers = {(method, path): await client.request(method, path) for method, path in walked}

    assert len(walked) > 60
    closed = {
        key: answer.status_code for key, answer in answers.items() if key[1] not in OPEN | OPEN_ELSEWHERE
    }
    assert set(closed.values()) == {401}
    assert {path for _, path in walked} >= OPEN | OPEN_ELSEWHERE
    assert {answers["GET", path].status_code for path in OPEN - {"/docs/static"}} == {200, 204}


@pytest.mark.parametrize(
    "path", ["/nothing", "/v1/nothing", "/docs/../v1/sandboxes", "//v1/sandboxes", "/V1/x", "/"]
)
async def test_a_path_that_does_not_exist_tells_strangers_nothing(path: str) -> None:
    async with caller(public(FakeControl())) as client:
        answer = await client.get(httpx.URL("http://api", raw_path=path.encode()))

    assert answer.status_code in (401, 404)
    assert "sandboxes" not in answer.json().get("sandboxes", [])


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"X-API-Key": ""},
        {"X-API-Key": "e2b_" + "0" * 40},
        {"X-API-Key": "x" * 10_000},
        {"Authorization": KEY},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer wrong"},
        {"Authorization": f"Basic {KEY}"},
    ],
)
async def test_a_missing_or_wrong_key_is_a_401_in_each_dialects_form(headers: dict[str, str]) -> None:
    async with caller(public(FakeControl()), **headers) as client:
        ours = await client.get("/v1/sandboxes")
        e2b = await client.get("/v2/sandboxes")

    assert (ours.status_code, e2b.status_code) == (401, 401)
    assert ours.json()["code"] == "unauthenticated"
    assert ours.json()["request_id"] == ours.headers["X-Request-Id"]
    assert e2b.json()["code"] == 401
    assert "API key" in e2b.json()["message"]


@pytest.mark.parametrize(
    "headers", [{"X-API-Key": KEY}, {"x-api-key": KEY}, {"Authorization": f"Bearer {KEY}"}]
)
@pytest.mark.parametrize("path", ["/v1/sandboxes", "/v2/sandboxes"])
async def test_one_key_opens_both_dialects_in_both_headers(headers: dict[str, str], path: str) -> None:
    async with caller(public(FakeControl()), **headers) as client:
        assert (await client.get(path)).status_code == 200


async def test_a_stranger_is_refused_before_the_body_is_read() -> None:
    read = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal read
        while True:
            read += 1
            yield b" " * 1000

    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": await anext(stream), "more_body": True}

    async def send(message: Any) -> None:
        sent.append(message)

    stream = endless()
    scope = {"type": "http", "method": "POST", "path": "/v2/sandboxes", "headers": [], "query_string": b""}
    await public(FakeControl())(scope, receive, send)

    assert sent[0]["status"] == 401
    assert read == 0


@pytest.mark.parametrize("path", ["/v2/sandboxes", "/v1/sandboxes"])
@pytest.mark.parametrize("declared", [True, False], ids=["with its length", "chunked"])
async def test_ten_megabytes_are_refused_while_they_are_read(path: str, declared: bool) -> None:
    sent = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal sent
        yield b'{"templateID": "'
        while sent < 10 * MIB:
            sent += 64 * 1024
            yield b"x" * 64 * 1024
        yield b'"}'

    async def read_one() -> dict[str, Any]:
        return {"type": "http.request", "body": await anext(stream), "more_body": True}

    answer: list[Any] = []

    async def send(message: Any) -> None:
        answer.append(message)

    stream = body()
    headers = [(b"x-api-key", KEY.encode()), (b"content-type", b"application/json")]
    headers += [(b"content-length", str(10 * MIB + 18).encode())] if declared else []
    scope = {"type": "http", "method": "POST", "path": path, "headers": headers, "query_string": b""}
    await public(FakeControl())(scope, read_one, send)

    assert answer[0]["status"] == 413
    assert "1048576 bytes" in json.loads(answer[1]["body"])["message"]
    assert sent == 0 if declared else MIB <= sent <= MIB + 64 * 1024


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "body: "),
        (b"{", "not valid JSON"),
        (b"[" * 500_000, "not valid JSON"),
        (b'{"templateID":' + b'{"a":' * 100_000, "not valid JSON"),
        (b'{"templateID": "\xff"}', "not valid JSON"),
        (b'{"templateID": "base", "timeout": NaN}', "not valid JSON"),
        (b'{"templateID": "base", "timeout": 1e999}', "timeout"),
        (b'{"templateID": "base", "timeout": ' + b"9" * 100_000 + b"}", ""),
        (b'{"templateID": "\\ud800"}', "not valid JSON"),
        (b'"base"', "body: "),
        (b"null", "body: "),
        (b"[]", "body: "),
    ],
)
async def test_json_that_is_none_is_a_400(body: bytes, says: str) -> None:
    async with caller(public(FakeControl()), **{"X-API-Key": KEY}) as client:
        answer = await client.post(
            "/v2/sandboxes", content=body, headers={"Content-Type": "application/json"}
        )

    assert answer.status_code == 400
    assert says in answer.json()["message"]
    assert len(answer.content) < 1000


async def test_a_body_of_another_type_is_told_what_it_should_be() -> None:
    async with caller(public(FakeControl()), **{"X-API-Key": KEY}) as client:
        form = await client.post("/v1/sandboxes", data={"template": "base"})
        untyped = await client.post("/v1/sandboxes", content=b'{"template": "base"}')

    assert form.status_code == 400
    assert "Content-Type: application/json" in form.json()["message"]
    assert untyped.status_code == 201


SHARED = public(FakeControl())


@settings(max_examples=150, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(
                st.sampled_from(
                    ["templateID", "timeout", "metadata", "network", "envVars", "template", "limits", "x"]
                ),
                inner,
                max_size=5,
            )
        ),
        max_leaves=12,
    )
)
def test_no_json_makes_a_create_fail_by_our_fault(body: Any) -> None:
    async def send() -> list[int]:
        async with caller(SHARED, **{"X-API-Key": KEY}) as client:
            content = json.dumps(body).encode("utf-8", "replace")
            return [
                (
                    await client.post(path, content=content, headers={"Content-Type": "application/json"})
                ).status_code
                for path in ("/sandboxes", "/v2/sandboxes", "/v1/sandboxes")
            ]

    assert set(asyncio.run(send())) <= {201, 400, 404, 501}


async def test_headers_are_bounded() -> None:
    async with caller(public(FakeControl()), **{"X-API-Key": KEY, "X-Long": "x" * 70_000}) as client:
        answer = await client.get("/v1/sandboxes")

    assert answer.status_code == 431
    assert "65536 bytes" in answer.json()["message"]


async def test_a_call_that_hangs_is_ended_and_said_to_be_late() -> None:
    class Hanging(FakeControl):
        async def templates(self, actor: Any) -> Any:
            await asyncio.Event().wait()

    app = public(Hanging(), ApiLimits(request_seconds=0.05))

    async with caller(app, **{"X-API-Key": KEY}) as client:
        answer = await client.get("/templates")

    assert answer.status_code == 504
    assert "longer than 0.05 s" in answer.json()["message"]


@pytest.mark.parametrize("path", ["/v1/templates", "/templates"])
async def test_our_own_fault_is_logged_once_and_tells_nothing(path: str) -> None:
    control = FakeControl(failure=RuntimeError("secret"))

    with structlog.testing.capture_logs() as logs:
        async with caller(public(control), **{"X-API-Key": KEY}) as client:
            answer = await client.get(path)

    assert answer.status_code == 500
    assert "secret" not in answer.text
    assert [entry["request_id"] for entry in logs] == [answer.headers["X-Request-Id"]]
    assert answer.headers["X-Request-Id"] in answer.json()["message"]


async def test_a_failing_key_check_is_answered_too() -> None:
    class Broken(FakeControl):
        async def authenticate(self, untrusted_key: str | None) -> Any:
            raise OSError("disk I/O error on /var/lib")

    with structlog.testing.capture_logs() as logs:
        async with caller(public(Broken()), **{"X-API-Key": KEY}) as client:
            answer = await client.get("/v2/sandboxes")

    assert (answer.status_code, len(logs)) == (500, 1)
    assert "/var/lib" not in answer.text


async def test_unknown_paths_and_methods_have_the_dialects_form() -> None:
    async with caller(public(FakeControl()), **{"X-API-Key": KEY}) as client:
        ours = await client.get("/v1/nope")
        e2b = await client.get("/nope")
        method = await client.put("/v2/sandboxes")

    assert (ours.status_code, ours.json()["code"]) == (404, "not_found")
    assert e2b.json() == {"code": 404, "message": "no such path: GET /nope"}
    assert (method.status_code, method.json()["code"]) == (405, 405)


@pytest.mark.parametrize("method", ["GET", "PUT"])
@pytest.mark.parametrize("path", ["/v1/", "/sandboxes/i/"])
async def test_a_long_path_is_not_repeated(method: str, path: str) -> None:
    async with caller(public(FakeControl()), **{"X-API-Key": KEY}) as client:
        answer = await client.request(method, path + "a/" * 10_000)

    assert answer.status_code == 404
    assert len(answer.content) < 1000


async def test_the_edge_is_told_where_a_sandbox_is_without_a_key() -> None:
    control = FakeControl()
    private = build_private(control, no_secrets(), no_identity(), ApiLimits())
    assert isinstance(private, Gate)

    async with caller(public(control), **{"X-API-Key": KEY}) as client:
        sandbox_id = (await client.post("/v2/sandboxes", json={"templateID": "base"})).json()["sandboxID"]
    async with caller(private) as edge:
        found = await edge.get(f"/v1/routes/{sandbox_id}")
        missing = await edge.get(f"/v1/routes/{new_sandbox_id()}")
        bad = await edge.get("/v1/routes/x")
        other = await edge.get("/v1/sandboxes")

    where = {"sandbox_id": sandbox_id, "address": "10.0.0.2", "status": "running"}
    assert found.json() == where | {"traffic_token": None, "mask_host": "", "https_ports": []}
    assert (missing.status_code, missing.json()["code"]) == (404, "not_found")
    assert (bad.status_code, bad.json()["code"]) == (400, "invalid_argument")
    assert other.status_code == 404


@pytest.mark.parametrize("status", [Status.CREATING, Status.PAUSING, Status.RESUMING])
async def test_the_edge_is_told_of_one_in_transition(status: Status) -> None:
    control = FakeControl()
    sandbox = await control.create(
        control.keys[KEY], CreateSandbox(template="base", timeout=timedelta(minutes=5))
    )
    control.rows[sandbox.id] = replace(sandbox, status=status, address=None)

    async with caller(build_private(control, no_secrets(), no_identity(), ApiLimits())) as edge:
        found = await edge.get(f"/v1/routes/{sandbox.id}")

    assert found.status_code == 200
    assert (found.json()["status"], found.json()["address"]) == (status.value, None)


@pytest.mark.parametrize(
    ("refusal", "status", "message"),
    [
        (
            ResourceExhaustedError("The host's disk is full", details="/x", reason=Reason.DISK_FULL),
            507,
            "The host's disk is full",
        ),
        (
            ResourceExhaustedError(
                "you have reached the maximum number of concurrent sandboxes (1) of your team",
                reason=Reason.LIMIT_OF_SANDBOXES,
            ),
            429,
            "you have reached the maximum number of concurrent E2B sandboxes (1) of your team",
        ),
        (FailedPreconditionError("Checkpoint 'x' is damaged"), 409, "Checkpoint 'x' is damaged"),
        (UnavailableError("the server stops"), 503, "the server stops"),
    ],
)
async def test_the_edge_is_told_why_a_sandbox_is_not_woken(
    refusal: AtollError, status: int, message: str
) -> None:
    control = FakeControl(failure=refusal)

    async with caller(build_private(control, no_secrets(), no_identity(), ApiLimits())) as edge:
        refused = await edge.get(f"/v1/routes/{new_sandbox_id()}")

    assert (refused.status_code, refused.json()["message"]) == (status, message)


async def test_the_private_routes_are_not_on_the_public_side() -> None:
    async with caller(public(FakeControl()), **{"X-API-Key": KEY}) as client:
        assert (await client.get(f"/v1/routes/{new_sandbox_id()}")).status_code == 404


@pytest.mark.parametrize("answered", [False, True])
async def test_a_call_ends_with_its_caller_unless_it_was_answered(answered: bool) -> None:
    scope = {"type": "http", "method": "POST", "path": "/v2/sandboxes", "headers": []}
    gone, ended, sent = asyncio.Event(), [], []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        if answered:
            await send({"type": "http.response.start", "status": 201, "headers": []})
        gone.set()
        try:
            await asyncio.sleep(0.05 if answered else 20)
            ended.append("by itself")
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    messages = [{"type": "http.request", "body": b"{}", "more_body": False}]

    async def receive() -> Any:
        if messages:
            return messages.pop()
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message["type"])

    control = FakeControl()
    open_to_all = Dialect(app=app, open_prefixes=("/",), render=render)
    await Gate((open_to_all,), control.authenticate, ApiLimits())(scope, receive, send)

    assert ended == ["by itself" if answered else "cancelled"]
    assert sent == (["http.response.start"] if answered else [])
