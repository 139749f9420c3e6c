"""What Atoll does not have yet is refused with a word; each is a row of docs/compatibility.md."""

import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from e2b import AsyncSandbox, Sandbox, SandboxException

REFUSED: dict[str, Callable[[Any], Any]] = {
    "create_snapshot": lambda sandbox: sandbox.create_snapshot(),
    "fork": lambda sandbox: sandbox.fork(),
    "list_snapshots": lambda sandbox: sandbox.list_snapshots().next_items(),
}


@pytest.mark.parametrize("call", REFUSED)
def test_a_call_that_is_not_there_yet_says_so(sandbox: Sandbox, call: str) -> None:
    with pytest.raises(SandboxException, match=r"501: .*not available"):
        REFUSED[call](sandbox)


@pytest.mark.parametrize("call", REFUSED)
async def test_a_call_that_is_not_there_yet_says_so_to_asyncio(
    client_options: dict[str, Any], call: str
) -> None:
    sandbox = await AsyncSandbox.create("minimal", timeout=60, **client_options)
    try:
        answer: Awaitable[Any] = REFUSED[call](sandbox)
        with pytest.raises(SandboxException, match=r"501: .*not available"):
            await answer
    finally:
        with contextlib.suppress(SandboxException):
            await sandbox.kill()
