"""Both twins of the SDK against a small cloud on a port of its own."""

import asyncio
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fakes.live_cloud import LiveCloud, live_cloud

from atoll import AsyncSandbox, Sandbox


class Awaitable:
    """The SDK for threads with the manners of the one for asyncio, so that one test tries both."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __repr__(self) -> str:
        return repr(self._inner)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if inspect.ismethod(found) and name not in ("host", "url"):

            async def call(*args: Any, **kwargs: Any) -> Any:
                return wrapped(await asyncio.to_thread(found, *args, **kwargs))

            return call
        return wrapped(found)

    async def __aiter__(self) -> Any:
        pieces = iter(self._inner)
        while (piece := await asyncio.to_thread(next, pieces, self)) is not self:
            yield piece

    async def __aenter__(self) -> Any:
        await asyncio.to_thread(self._inner.__enter__)
        return self

    async def __aexit__(self, *error: Any) -> None:
        await asyncio.to_thread(self._inner.__exit__, *error)


def wrapped(value: Any) -> Any:
    """Give objects of the SDK manners; leave data as it is."""
    return Awaitable(value) if type(value).__module__.startswith("atoll.sdk._sync") else value


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[LiveCloud]:
    with live_cloud(tmp_path) as running:
        yield running


@pytest.fixture(params=["async", "sync"])
def sdk(request: pytest.FixtureRequest) -> Any:
    """The class under test, to be used as the async one is."""
    return AsyncSandbox if request.param == "async" else Awaitable(Sandbox)


@pytest.fixture
async def sandbox(sdk: Any, cloud: LiveCloud) -> Any:
    made = await sdk.create(**cloud.options)
    yield made
    await made.close()
