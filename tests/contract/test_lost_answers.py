"""A create whose answer is lost makes one sandbox: our client asks again under the call's name."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fakes.live_api import KEY, LiveApi, live_api
from support.losing import CUT, LOST, Losing, losing

import atoll

IN_PROGRESS = (409, {"Should-Retry": "true", "Retry-After": "1"})
AWAY = (503, {"Retry-After": "1"})
ENDED = (502, {"Should-Retry": "false"})
Create = Callable[..., str]


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveApi]:
    with live_api(Path(tmp_path_factory.mktemp("lost"))) as opened:
        yield opened


@pytest.fixture
def between(api: LiveApi) -> Iterator[Losing]:
    with losing(api.url) as made:
        yield made


@pytest.fixture(params=["sync", "async"])
def create(request: pytest.FixtureRequest, between: Losing) -> Create:
    """Create a sandbox, and return its id."""
    options: dict[str, Any] = {"api_url": between.url, "api_key": KEY, "request_timeout": 20}

    async def made(**wishes: Any) -> str:
        sandbox = await atoll.AsyncSandbox.create(**wishes, **options)
        await sandbox.close()
        return sandbox.id

    def call(**wishes: Any) -> str:
        if request.param == "async":
            return asyncio.run(made(**wishes))
        sandbox = atoll.Sandbox.create(**wishes, **options)
        sandbox.close()
        return sandbox.id

    return call


def there(api: LiveApi, mark: str) -> list[str]:
    """List the sandboxes that are there."""
    found = atoll.Sandbox.list(metadata={"mark": mark}, api_url=api.url, api_key=KEY)
    return [one.id for one in found]


def end(api: LiveApi, sandbox_id: str) -> None:
    """Kill a sandbox, by leaving it."""
    with atoll.Sandbox.get(sandbox_id, api_url=api.url, api_key=KEY):
        pass


@pytest.mark.parametrize(
    "script",
    [
        [LOST],
        [CUT, LOST],
        [LOST, AWAY, IN_PROGRESS],
        [ENDED, AWAY],
        [CUT, CUT, CUT],
    ],
    ids=["lost", "cut and lost", "lost, then busy", "the server ended", "cut thrice"],
)  # fmt: skip
def test_one_sandbox_is_made_whatever_is_lost(
    api: LiveApi, between: Losing, create: Create, script: list[Any], request: pytest.FixtureRequest
) -> None:
    mark = request.node.name
    between.script = list(script)

    sandbox_id = create(metadata={"mark": mark})

    assert there(api, mark) == [sandbox_id]
    assert len(between.names) == len(script) + 1
    assert len(set(between.names)) == 1
    end(api, sandbox_id)


@pytest.mark.parametrize(
    ("answer", "error"),
    [(AWAY, atoll.UnavailableError), (IN_PROGRESS, atoll.UnavailableError), ((500, {}), atoll.AtollError)],
)
def test_what_is_no_loss_is_told_at_once(
    between: Losing, create: Create, answer: tuple[int, dict[str, str]], error: type[Exception]
) -> None:
    between.script = [answer]

    with pytest.raises(error, match="in its place"):
        create()

    assert len(between.names) == 1


def test_a_caller_who_names_a_create_gets_the_same_sandbox_again(api: LiveApi, create: Create) -> None:
    name = f"mine-{id(create)}"
    first, second = create(idempotency_key=name), create(idempotency_key=name)

    assert first == second
    with pytest.raises(atoll.AtollError, match="used for another request"):
        create(idempotency_key=name, timeout=7)
    end(api, first)


def test_it_is_given_up_after_some_seconds(
    between: Losing, create: Create, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("atoll.sdk.transport._REPEATED_FOR", 0.5)
    between.script = [CUT] * 100

    with pytest.raises(atoll.ConnectionLostError):
        create()

    assert 2 <= len(between.names) <= 6
