"""A public app over control in memory, without a socket."""

from collections.abc import AsyncIterator

import httpx
import pytest
from fakes.apps import public_app
from fakes.control import KEY, FakeControl
from fakes.verbs import verbs_over

from atoll.server.api.app import PublicAddress
from atoll.server.api.limits import ApiLimits


@pytest.fixture
def control() -> FakeControl:
    return FakeControl()


@pytest.fixture
async def client(control: FakeControl) -> AsyncIterator[httpx.AsyncClient]:
    app = public_app(verbs_over(control), PublicAddress(domain="localhost:4000"), ApiLimits())
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(
        transport=transport, base_url="http://api", headers={"X-API-Key": KEY}
    ) as opened:
        yield opened
