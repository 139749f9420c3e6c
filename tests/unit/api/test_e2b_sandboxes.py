"""The E2B dialect's routes about sandboxes, request by request as clients write them."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import httpx
import pytest
from fakes.control import BASE, OTHER_KEY, FakeControl

from atoll.server.domain.checkpoint import CheckpointKind
from atoll.server.domain.errors import (
    AbortedError,
    AtollError,
    DeadlineExceededError,
    FailedPreconditionError,
    InternalError,
    NotFoundError,
    Reason,
    ResourceExhaustedError,
    UnavailableError,
)
from atoll.server.domain.identity import WorkloadToken
from atoll.server.domain.ids import SandboxId
from atoll.server.domain.sandbox import OnDeadline, Pause, Status

MINIMAL = {"templateID": "base", "metadata": {}, "envVars": {}}
NOBODY = "i" + "0" * 20


async def create(client: httpx.AsyncClient, **body: Any) -> dict[str, Any]:
    response = await client.post("/v2/sandboxes", json=MINIMAL | body)
    assert response.status_code == 201, response.text
    answer: dict[str, Any] = response.json()
    return answer


async def test_a_create_of_today_answers_with_all_that_clients_need(
    client: httpx.AsyncClient, control: FakeControl
) -> None:
    answer = await create(client, timeout=77, metadata={"a": "b"}, envVars={"X": "1"})

    sandbox_id = SandboxId(answer["sandboxID"])
    assert answer == {
        "templateID": BASE.id,
        "sandboxID": sandbox_id,
        "clientID": "00000000",
        "envdVersion": "0.6.13",
        "alias": "base",
        "envdAccessToken": control.access_token(sandbox_id),
        "domain": "localhost:4000",
    }
    [wish] = control.wishes
    assert wish.timeout == timedelta(seconds=77)
    assert (wish.metadata, wish.env, wish.secured) == ({"a": "b"}, {"X": "1"}, True)
    assert wish.egress.internet


@pytest.mark.parametrize(
    "body",
    [
        {"templateID": "base"},  # js 2.51
        {"templateID": "base", "metadata": {}, "envVars": {}},  # py 2.63
        {  # py 2.45
            "templateID": "base", "timeout": 300, "autoPause": False, "metadata": {}, "envVars": {},
            "secure": True, "allow_internet_access": True,
        },
        {"templateID": "base", "timeout": 300, "secure": True, "allow_internet_access": True},  # cli 2.19
        {  # all that means "not wanted"
            "templateID": "base", "autoPause": False, "autoPauseMemory": True,
            "autoResume": {"enabled": False},
            "mcp": None, "iam": {"tokens": {}}, "volumeMounts": [], "metadata": None, "envVars": None,
            "network": {
                "allowPublicTraffic": None, "allowOut": [], "denyOut": [], "dnsServers": ["1.1.1.1"],
                "egressProxy": None, "maskRequestHost": "", "httpsPorts": [], "rules": {},
            },
        },
    ],
)  # fmt: skip
@pytest.mark.parametrize("path", ["/sandboxes", "/v2/sandboxes"])
async def test_what_released_clients_send_by_default_works(
    client: httpx.AsyncClient, path: str, body: dict[str, Any]
) -> None:
    response = await client.post(path, json=body)

    assert response.status_code == 201, response.text


async def test_tokens_are_asked_for_as_clients_write_them(
    client: httpx.AsyncClient, control: FakeControl
) -> None:
    await create(client, iam={"tokens": {"aws": {"audience": "sts.example", "tokenType": "JWT-SVID"}}})

    assert control.wishes[0].tokens == (WorkloadToken(name="aws", audience="sts.example"),)


@pytest.mark.parametrize(
    ("option", "name"),
    [
        ({"network": {"somethingOfTomorrow": True}}, "network.somethingOfTomorrow"),
        ({"somethingOfTomorrow": 1}, "somethingOfTomorrow"),
    ],
)
async def test_an_option_that_atoll_does_not_have_is_refused_by_name(
    client: httpx.AsyncClient, control: FakeControl, option: dict[str, Any], name: str
) -> None:
    response = await client.post("/v2/sandboxes", json=MINIMAL | option)

    assert response.status_code == 501
    assert name in response.json()["message"]
    assert response.headers["Should-Retry"] == "false"
    assert not control.rows


async def test_mcp_is_refused_with_what_it_would_need(
    client: httpx.AsyncClient, control: FakeControl
) -> None:
    for path in ("/sandboxes", "/v2/sandboxes"):
        response = await client.post(path, json=MINIMAL | {"mcp": {"github": {}}})

        assert response.status_code == 400
        assert response.json()["message"].startswith("option mcp needs the program mcp-gateway")
    assert not control.rows


@pytest.mark.parametrize(
    ("option", "says"),
    [
        (
            {"iam": {"tokens": {"a": {"audience": "x", "tokenType": "X509-SVID"}}}},
            "unsupported tokenType 'X509",
        ),
        ({"iam": {"tokens": {"a": {"audience": "x"}}}}, "body iam.tokens.a.tokenType"),
        ({"iam": {"tokens": {"a": {"audience": 1, "tokenType": "JWT-SVID"}}}}, "body iam.tokens.a.audience"),
        ({"iam": {"keys": {}}}, "body iam.keys"),
        ({"timeout": 0}, "Timeout must be greater than 0"),
        ({"timeout": -5}, "Timeout must be greater than 0"),
        ({"timeout": 86401}, "Timeout cannot be greater than 24 hours"),
        ({"timeout": 10**30}, "body timeout"),
        ({"timeout": 1.5}, "body timeout"),
        ({"timeout": "77"}, "body timeout"),
        ({"timeout": True}, "body timeout"),
        ({"templateID": ""}, "body templateID"),
        ({"templateID": "a\0b"}, "body templateID: must not contain NUL"),
        ({"templateID": 7}, "body templateID"),
        ({"metadata": {"a": 1}}, "body metadata.a"),
        ({"metadata": ["a"]}, "body metadata"),
        ({"metadata": {"a": "\0"}}, "body metadata.a: must not contain NUL"),
        ({"envVars": {"A\0": "1"}}, "must not contain NUL"),
        ({"envVars": "A=1"}, "body envVars"),
        ({"allow_internet_access": "no"}, "body allow_internet_access"),
        ({"network": {"denyOut": ["example.com"]}}, "invalid denied CIDR example.com"),
        ({"network": {"allowOut": ["a.example"]}}, "you must include 'ALL_TRAFFIC' in deny out"),
        ({"network": {"allowOut": ["a b"]}}, "invalid allowed entry a b"),
        ({"network": {"maskRequestHost": "a b"}}, "invalid mask request host (a b)"),
        ({"network": {"maskRequestHost": "x\r\nY: z"}}, "invalid mask request host"),
        ({"network": {"httpsPorts": [49983]}}, "invalid HTTPS port 49983"),
        ({"network": {"httpsPorts": [0]}}, "invalid HTTPS port 0"),
        ({"network": {"httpsPorts": list(range(1, 66))}}, "httpsPorts has 65 ports, at most 64"),
        ({"network": {"dnsServers": ["::1"]}}, "invalid DNS server ::1"),
        ({"network": {"denyOut": ["1.1.1.1"] * 257}}, "denyOut has 257 entries, at most 256"),
        ({"network": {"denyOut": [7]}}, "body network.denyOut.0"),
        ({"autoPauseMemory": False}, "autoPauseMemory"),
        ({"autoPause": True, "autoPauseMemory": False, "autoResume": {"enabled": True}}, "autoResume"),
    ],
)
async def test_wrong_input_is_named(
    client: httpx.AsyncClient, control: FakeControl, option: dict[str, Any], says: str
) -> None:
    response = await client.post("/v2/sandboxes", json=MINIMAL | option)

    body = response.json()
    assert (response.status_code, body["code"]) == (400, 400)
    assert says in body["message"]
    assert not control.rows


async def test_an_unknown_template_is_a_404_with_the_text_that_clients_know(
    client: httpx.AsyncClient,
) -> None:
    response = await client.post("/v2/sandboxes", json={"templateID": "nope"})

    assert response.status_code == 404
    assert response.json() == {"code": 404, "message": "template 'nope' not found"}


async def test_a_template_that_is_not_built_is_the_same_404_and_says_how_to_build_it(
    client: httpx.AsyncClient, control: FakeControl
) -> None:
    text = "template 'minimal' not found: its recipe exists, but it is not built"
    control.failure = NotFoundError(text, details="/a/path/of/the/host")

    response = await client.post("/v2/sandboxes", json={"templateID": "minimal"})

    assert (response.status_code, response.json()) == (404, {"code": 404, "message": text})


@pytest.mark.parametrize(
    ("failure", "status", "retry"),
    [
        (ResourceExhaustedError("you have reached the maximum number of sandboxes (500)"), 429, "false"),
        (UnavailableError("it did not come up"), 503, "true"),
        (DeadlineExceededError("it did not come up in time"), 504, "false"),
        (AbortedError("killed meanwhile"), 409, None),
    ],
)
async def test_a_failed_create_says_whether_to_try_again(
    client: httpx.AsyncClient, control: FakeControl, failure: Exception, status: int, retry: str | None
) -> None:
    control.failure = failure

    response = await client.post("/v2/sandboxes", json=MINIMAL)

    assert response.status_code == status
    assert response.headers.get("Should-Retry") == retry
    assert response.json() == {"code": status, "message": failure.args[0]}


async def test_an_idempotency_key_reaches_control(client: httpx.AsyncClient, control: FakeControl) -> None:
    await client.post("/v2/sandboxes", json=MINIMAL, headers={"Idempotency-Key": "abc-1"})

    assert control.wishes[-1].request_key == "abc-1"


@pytest.mark.parametrize(
    ("failure", "status", "name", "retry"),
    [
        (FailedPreconditionError("other", reason=Reason.REQUEST_MISMATCH),
         422, "idempotency_request_mismatch", "false"),
        (AbortedError("soon", reason=Reason.REQUEST_IN_PROGRESS), 409, "idempotency_in_progress", "true"),
    ],
)  # fmt: skip
async def test_what_is_wrong_with_a_repeated_create_has_e2bs_name(
    client: httpx.AsyncClient, control: FakeControl, failure: AtollError, status: int, name: str, retry: str
) -> None:
    control.failure = failure

    answer = await client.post("/v2/sandboxes", json=MINIMAL, headers={"Idempotency-Key": "a"})

    assert answer.json() == {"code": status, "message": failure.message, "error_code": name}
    assert (answer.status_code, answer.headers["Should-Retry"]) == (status, retry)


@pytest.mark.parametrize(
    ("failure", "status", "name", "retry"),
    [
        (ResourceExhaustedError("full", reason=Reason.NO_ROOM), 429, "sandbox_capacity_unavailable", "false"),
        (ResourceExhaustedError("late", reason=Reason.NO_TURN), 429, "sandbox_placement_timeout", "false"),
        (UnavailableError("not now", reason=Reason.CREATE_FAILED), 503, "sandbox_create_failed", "true"),
        (DeadlineExceededError("slow", reason=Reason.CREATE_FAILED), 504, "sandbox_create_failed", "false"),
        (InternalError("broken", reason=Reason.CREATE_FAILED), 500, "sandbox_create_failed", "false"),
        (InternalError("broken"), 500, "internal_server_error", "false"),
    ],
)
async def test_why_there_is_no_sandbox_has_e2bs_name(
    client: httpx.AsyncClient, control: FakeControl, failure: AtollError, status: int, name: str, retry: str
) -> None:
    control.failure = failure

    answer = await client.post("/v2/sandboxes", json=MINIMAL)

    assert answer.json() == {"code": status, "message": failure.message, "error_code": name}
    assert (answer.status_code, answer.headers["Should-Retry"]) == (status, retry)


@pytest.mark.parametrize(
    ("status", "kind", "silent", "mode", "shown"),
    [
        (Status.PAUSING, CheckpointKind.MEMORY, True, None, None),
        (Status.PAUSED, CheckpointKind.MEMORY, False, "full", None),
        (Status.PAUSED, CheckpointKind.MEMORY, True, "full", True),
        (Status.RESUMING, CheckpointKind.FILES, False, "filesystem", None),
    ],
)
async def test_a_pause_is_described_once_it_is_over(
    client: httpx.AsyncClient,
    control: FakeControl,
    status: Status,
    kind: CheckpointKind,
    silent: bool,
    mode: str | None,
    shown: bool | None,
) -> None:
    sandbox_id = SandboxId((await create(client))["sandboxID"])
    pause = Pause(checkpoint="x", kind=kind, at=control.clock.now(), silent=silent)
    control.rows[sandbox_id] = replace(control.rows[sandbox_id], status=status, pause=pause)

    detail = (await client.get(f"/sandboxes/{sandbox_id}")).json()

    assert detail.get("pauseMode") == mode
    assert detail.get("envdUnresponsiveAtPause") == shown
    [listed] = (await client.get("/v2/sandboxes")).json()
    assert listed.get("envdUnresponsiveAtPause") == shown


async def test_the_first_version_secures_only_when_asked_to(client: httpx.AsyncClient) -> None:
    open_one = (await client.post("/sandboxes", json={"templateID": "base"})).json()
    secured = (await client.post("/sandboxes", json={"templateID": "base", "secure": True})).json()

    assert "envdAccessToken" not in open_one
    assert len(secured["envdAccessToken"]) == 64
    assert "envdAccessToken" not in (await client.get(f"/sandboxes/{open_one['sandboxID']}")).json()


async def test_default_timeouts_are_those_of_each_version(
    client: httpx.AsyncClient, control: FakeControl
) -> None:
    await client.post("/sandboxes", json={"templateID": "base"})
    await client.post("/v2/sandboxes", json={"templateID": "base"})

    assert [wish.timeout.total_seconds() for wish in control.wishes] == [15, 300]


@pytest.mark.parametrize(
    "option",
    [
        {"allow_internet_access": False},
        {"network": {"denyOut": ["0.0.0.0/0"]}},
        {"network": {"denyOut": ["0.0.0.0/0", "::/0"]}, "allow_internet_access": True},
    ],
)
async def test_the_internet_is_off_in_each_way_to_say_it(
    client: httpx.AsyncClient, option: dict[str, Any]
) -> None:
    answer = await create(client, **option)

    detail = (await client.get(f"/sandboxes/{answer['sandboxID']}")).json()
    assert detail["allowInternetAccess"] is False
    assert "0.0.0.0/0" in detail["network"]["denyOut"]


async def test_private_traffic_has_a_token_of_its_own(
    client: httpx.AsyncClient, control: FakeControl
) -> None:
    network = {"allowPublicTraffic": False, "maskRequestHost": "localhost:${PORT}", "httpsPorts": [8443]}
    answer = await create(client, network=network)
    path = f"/sandboxes/{answer['sandboxID']}"

    again = (await client.post(f"/v2{path}/connect", json={"timeout": 60})).json()
    detail = (await client.get(path)).json()
    route = await control.routing.route(answer["sandboxID"])

    token = answer["trafficAccessToken"]
    assert len(token) == 64
    assert token != answer["envdAccessToken"]
    assert token == again["trafficAccessToken"] == control.traffic_token(route)
    assert detail["network"] == network
    assert token not in str(detail)


async def test_private_traffic_needs_a_secured_sandbox_in_version_1(client: httpx.AsyncClient) -> None:
    body = MINIMAL | {"network": {"allowPublicTraffic": False}}

    refused = await client.post("/sandboxes", json=body)
    created = await client.post("/sandboxes", json=body | {"secure": True})

    assert (refused.status_code, created.status_code) == (400, 201)
    assert "unless you enable secure envd access via 'secure' flag" in refused.json()["message"]


async def test_credentials_of_a_proxy_are_kept_and_never_shown(
    client: httpx.AsyncClient, control: FakeControl
) -> None:
    tls = {"enabled": True, "serverName": "p.example", "caCert": None}
    proxy = {"address": "p:1080", "username": "u", "password": "hush", "tls": tls}
    rules = {"a.example": [{"transform": {"headers": {"X-A": "b"}}}], "b.example": [{}]}
    answer = await create(client, network={"egressProxy": proxy, "rules": rules})

    shown = await client.get(f"/sandboxes/{answer['sandboxID']}")
    row = control.rows[SandboxId(answer["sandboxID"])]

    assert row.egress.proxy is not None
    assert row.egress.proxy.password == "hush"
    assert "hush" not in shown.text + repr(row)
    assert shown.json()["network"] == {
        "allowPublicTraffic": True,
        "rules": {"a.example": [{"transform": {"headers": {"X-A": "b"}}}]},
        "egressProxy": {
            "address": "p:1080",
            "username": "u",
            "tls": {"enabled": True, "serverName": "p.example"},
        },
    }


async def test_network_rules_are_kept_shown_and_replaced(client: httpx.AsyncClient) -> None:
    rules = {"allowOut": ["1.1.1.1"], "denyOut": ["0.0.0.0/0"], "dnsServers": ["9.9.9.9"]}
    answer = await create(client, network=rules)
    path = f"/sandboxes/{answer['sandboxID']}"

    created = (await client.get(path)).json()
    update = await client.put(f"{path}/network", json={"denyOut": ["8.8.8.0/24"]})
    changed = (await client.get(path)).json()
    off = await client.put(f"{path}/network", json={"allow_internet_access": False})
    closed = (await client.get(path)).json()

    assert created["network"] == {"allowPublicTraffic": True, **rules}
    assert (update.status_code, off.status_code) == (204, 204)
    assert changed["network"] == {"allowPublicTraffic": True, "denyOut": ["8.8.8.0/24"]}
    assert changed["allowInternetAccess"] is True
    assert closed["network"] == {"allowPublicTraffic": True, "denyOut": ["0.0.0.0/0"]}


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        ({"denyOut": ["example.com"]}, 400, "invalid denied CIDR example.com"),
        ({"allowOut": ["a.example"]}, 400, "ALL_TRAFFIC"),
        ({"egressProxy": {"address": "p"}}, 400, "egressProxy"),
        ({"egressProxy": {"address": "p:1080", "kind": "http"}}, 400, "egressProxy.kind"),
        ({"rules": {"a.example": [{}, {}]}}, 400, "at most 1"),
        ({"rules": {"a.example": [{"transform": {"body": "x"}}]}}, 400, "transform.body"),
        ({"rules": {"a.example": [{"transform": {"headers": {"Host": "x"}}}]}}, 400, "cannot be set"),
        ({"rules": {"10.0.0.1": [{}]}}, 400, "rule domain"),
        ({"allow_internet_access": 1}, 400, "allow_internet_access"),
    ],
)
async def test_a_wrong_network_update_changes_nothing(
    client: httpx.AsyncClient, body: dict[str, Any], status: int, says: str
) -> None:
    answer = await create(client)
    path = f"/sandboxes/{answer['sandboxID']}"
    before = (await client.get(path)).json()

    refused = await client.put(f"{path}/network", json=body)
    nobody = await client.put(f"/sandboxes/{NOBODY}/network", json={})

    assert (refused.status_code, nobody.status_code) == (status, 404)
    assert says in refused.json()["message"]
    assert (await client.get(path)).json() == before


async def test_get_has_every_field_that_clients_require(client: httpx.AsyncClient) -> None:
    answer = await create(client, timeout=60, metadata={"a": "b"})

    detail = (await client.get(f"/sandboxes/{answer['sandboxID']}")).json()

    assert detail["startedAt"] == "2026-05-04T12:00:00.124456Z"
    assert detail["endAt"] == "2026-05-04T12:01:00.124456Z"
    assert (detail["cpuCount"], detail["memoryMB"], detail["diskSizeMB"]) == (1, 512, 2048)
    assert (detail["state"], detail["metadata"]) == ("running", {"a": "b"})
    assert detail["lifecycle"] == {"autoResume": False, "onTimeout": "kill"}
    assert detail["envdAccessToken"] == answer["envdAccessToken"]


async def test_an_old_id_with_a_client_id_means_the_same_sandbox(client: httpx.AsyncClient) -> None:
    sandbox_id = (await create(client))["sandboxID"]

    assert (await client.get(f"/sandboxes/{sandbox_id}-00000000")).status_code == 200
    assert (await client.get(f"/sandboxes/{sandbox_id}-a-b")).status_code == 400


@pytest.mark.parametrize("bad", ["x", "../etc/passwd", "i" * 200, "I" + "0" * 20, "i%00" + "0" * 19])
async def test_a_bad_id_is_a_clear_error(client: httpx.AsyncClient, bad: str) -> None:
    response = await client.get(f"/sandboxes/{bad}")

    assert response.status_code in (400, 404)
    assert response.json()["code"] == response.status_code


async def test_a_sandbox_that_is_being_created_is_not_shown(
    client: httpx.AsyncClient, control: FakeControl
) -> None:
    sandbox_id = SandboxId((await create(client))["sandboxID"])
    object.__setattr__(control.rows[sandbox_id], "status", Status.CREATING)

    assert (await client.get(f"/sandboxes/{sandbox_id}")).status_code == 404
    assert (await client.get("/v2/sandboxes")).json() == []


async def test_kill_works_once(client: httpx.AsyncClient) -> None:
    sandbox_id = (await create(client))["sandboxID"]

    first = await client.delete(f"/sandboxes/{sandbox_id}")
    second = await client.delete(f"/sandboxes/{sandbox_id}")

    assert (first.status_code, first.content) == (204, b"")
    assert second.status_code == 404
    assert (
        second.json()["message"] == f"Sandbox \"{sandbox_id}\" doesn't exist or you don't have access to it"
    )


async def test_timeout_refresh_and_connect_move_the_deadline_as_each_promises(
    client: httpx.AsyncClient, control: FakeControl
) -> None:
    sandbox_id = SandboxId((await create(client, timeout=300))["sandboxID"])
    one = f"/sandboxes/{sandbox_id}"

    async def left(path: str, body: dict[str, Any] | None, status: int) -> float:
        response = await client.post(path, json=body) if body is not None else await client.post(path)
        assert response.status_code == status, response.text
        return (control.rows[sandbox_id].deadline - control.clock.now()).total_seconds()

    assert await left(f"{one}/timeout", {"timeout": 5}, 204) == 5
    assert await left(f"{one}/refreshes", {"duration": 3}, 204) == 15
    assert await left(f"{one}/refreshes", {"duration": 40}, 204) == 40
    assert await left(f"{one}/refreshes", None, 204) == 40
    assert await left(f"{one}/connect", {"timeout": 9}, 200) == 40
    assert await left(f"{one}/connect", {"timeout": 50}, 200) == 50
    assert await left(f"/v2{one}/connect", {"timeout": 0}, 200) == 50
    assert await left(f"/v2{one}/connect", {"timeout": 60, "memory": False}, 200) == 60
    assert await left(f"/v2{one}/connect", None, 200) == 300
    assert await left(f"{one}/timeout", {"timeout": 0}, 204) == 0


async def test_connect_answers_as_create_did(client: httpx.AsyncClient) -> None:
    created = await create(client)
    one = f"/sandboxes/{created['sandboxID']}"

    assert (await client.post(f"/v2{one}/connect", json={})).json() == created
    assert (await client.post(f"{one}/connect", json={"timeout": 9})).json() == created
    assert (await client.post(f"{one}/resume", json={"timeout": 9})).status_code == 409
    assert (await client.post(f"/v2/sandboxes/{NOBODY}/connect", json={})).status_code == 404


@pytest.mark.parametrize("timeout", [0, 9])
@pytest.mark.parametrize(
    ("status", "answered"), [(Status.KILLING, 409), (Status.KILLED, 404), (Status.FAILED, 404)]
)
async def test_connect_tells_what_is_being_killed_from_what_is_gone(
    client: httpx.AsyncClient, control: FakeControl, status: Status, answered: int, timeout: int
) -> None:
    sandbox_id = SandboxId((await create(client))["sandboxID"])
    control.rows[sandbox_id] = replace(control.rows[sandbox_id], status=status)

    for path in (f"/v2/sandboxes/{sandbox_id}/connect", f"/sandboxes/{sandbox_id}/connect"):
        answer = await client.post(path, json={"timeout": timeout})
        stranger = await client.post(path, json={"timeout": timeout}, headers={"X-API-Key": OTHER_KEY})

        assert answer.status_code == answered
        assert sandbox_id in answer.json()["message"]
        assert stranger.status_code == 404


@pytest.mark.parametrize(
    ("body", "memory", "on_deadline"),
    [
        (None, True, OnDeadline.KILL),
        ({"timeout": 9}, True, OnDeadline.KILL),
        ({"timeout": 9, "autoPause": False, "memory": True}, True, OnDeadline.KILL),
        ({"autoPause": True}, True, OnDeadline.PAUSE),
        ({"memory": False}, False, OnDeadline.KILL),
    ],
)
async def test_a_resume_of_older_clients_means_all_that_it_says(
    client: httpx.AsyncClient,
    control: FakeControl,
    body: dict[str, Any] | None,
    memory: bool,
    on_deadline: OnDeadline,
) -> None:
    created = await create(client)
    one = f"/sandboxes/{created['sandboxID']}"
    await client.post(f"{one}/pause")

    answer = await client.post(f"{one}/resume", json=body)

    assert (answer.status_code, answer.json()) == (201, created)
    row = control.rows[SandboxId(created["sandboxID"])]
    assert row.on_deadline is on_deadline
    assert control.resumed_with_memory == [memory]
    lifecycle = (await client.get(one)).json()["lifecycle"]
    assert lifecycle["onTimeout"] == ("kill" if on_deadline is OnDeadline.KILL else "pause")


@pytest.mark.parametrize("body", [{"autoPause": "yes"}, {"memory": 0}, {"timeout": 0}])
async def test_a_wrong_resume_is_refused(client: httpx.AsyncClient, body: dict[str, Any]) -> None:
    one = f"/sandboxes/{(await create(client))['sandboxID']}"
    await client.post(f"{one}/pause")

    assert (await client.post(f"{one}/resume", json=body)).status_code == 400
    assert (await client.get(one)).json()["state"] == "paused"


@pytest.mark.parametrize(
    "body", [{"timeout": -1}, {"timeout": None}, {}, {"timeout": 10**12}, {"timeout": 86401}]
)
async def test_a_wrong_timeout_is_refused(client: httpx.AsyncClient, body: dict[str, Any]) -> None:
    sandbox_id = (await create(client))["sandboxID"]

    response = await client.post(f"/sandboxes/{sandbox_id}/timeout", json=body)

    assert response.status_code == 400
    assert "timeout" in response.json()["message"].lower()


async def test_metrics_are_told_in_shares_of_what_a_sandbox_may_have(
    client: httpx.AsyncClient, control: FakeControl
) -> None:
    sandbox_id = (await create(client))["sandboxID"]
    control.clock.turn(4)

    [point] = (await client.get(f"/sandboxes/{sandbox_id}/metrics")).json()
    past = (await client.get(f"/sandboxes/{sandbox_id}/metrics", params={"end": 1})).json()
    many = (await client.get("/sandboxes/metrics", params={"sandbox_ids": f"{sandbox_id},{NOBODY}"})).json()

    assert point["cpuUsedPct"] == 50.0  # one second of processor in four, of half a core
    assert (point["memUsed"], point["memTotal"]) == (32 * 1024**2, 512 * 1024**2)
    assert past == []
    assert many == {"sandboxes": {sandbox_id: point}}


async def test_nothing_of_another_team_is_seen_or_touched(
    client: httpx.AsyncClient, control: FakeControl
) -> None:
    sandbox_id = SandboxId((await create(client))["sandboxID"])
    before = control.rows[sandbox_id]
    stranger = {"X-API-Key": OTHER_KEY}
    one = f"/sandboxes/{sandbox_id}"

    answers = [
        await client.get(one, headers=stranger),
        await client.delete(one, headers=stranger),
        await client.post(f"{one}/timeout", json={"timeout": 1}, headers=stranger),
        await client.post(f"{one}/refreshes", json={}, headers=stranger),
        await client.post(f"{one}/connect", json={"timeout": 1}, headers=stranger),
        await client.post(f"/v2{one}/connect", json={}, headers=stranger),
        await client.get(f"{one}/metrics", headers=stranger),
        await client.get(f"/v1{one}", headers=stranger),
        await client.delete(f"/v1{one}", headers=stranger),
    ]

    assert {answer.status_code for answer in answers} == {404}
    assert control.rows[sandbox_id] == before
    for path in ("/sandboxes", "/v2/sandboxes"):
        assert (await client.get(path, headers=stranger)).json() == []
    assert (await client.get("/v1/sandboxes", headers=stranger)).json()["total"] == 0
