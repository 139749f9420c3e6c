"""
Every control call that a released E2B client has for a running sandbox, one after the other.

Run by tests/contract/test_e2b_client.py in a process of its own, with whichever version of the client is
there; so nothing here may be newer than the oldest of them.
Takes two arguments: the domain that sandboxes must have, and a word that no other run uses.
"""

import asyncio
import datetime as dt
import os
import sys
from importlib.metadata import version

from e2b import AsyncSandbox, Sandbox, SandboxQuery, SandboxState
from e2b.exceptions import AuthenticationException, SandboxException

NOBODY = "i" + "0" * 20


def left(info):
    """Seconds that a sandbox has, as a whole."""
    return round((info.end_at - info.started_at).total_seconds())


def blocking(domain, word):
    tricky = {"run": word, "k y": "v&=%", "ü": "日本"}
    sandbox = Sandbox.create("base", timeout=77, metadata=tricky, envs={"X": "1"})
    assert sandbox.sandbox_domain == domain, sandbox.sandbox_domain
    assert sandbox.get_host(3000) == f"3000-{sandbox.sandbox_id}.{domain}"
    assert not version("e2b").startswith("2.1") or sandbox._envd_access_token

    info = sandbox.get_info()
    assert (info.sandbox_id, info.metadata, info.name) == (sandbox.sandbox_id, tricky, "base")
    assert (info.state, left(info)) == (SandboxState.RUNNING, 77)
    assert (info.cpu_count, info.memory_mb) == (1, 512)
    assert info.envd_version == "0.6.13"

    sandbox.set_timeout(500)
    assert left(Sandbox.get_info(sandbox.sandbox_id)) == 500
    again = Sandbox.connect(sandbox.sandbox_id, timeout=60)
    assert again.sandbox_id == sandbox.sandbox_id
    assert left(again.get_info()) == 500, "connect never shortens"

    closed = Sandbox.create("base", metadata={"run": word}, allow_internet_access=False)
    others = [Sandbox.create("base", metadata={"run": word}) for _ in range(3)]
    found = pages(Sandbox.list(query=SandboxQuery(metadata={"run": word}), limit=2))
    assert [len(page) for page in found] == [2, 2, 1], found
    assert {one.sandbox_id for page in found for one in page} == {
        one.sandbox_id for one in (sandbox, closed, *others)
    }
    [[one]] = pages(Sandbox.list(query=SandboxQuery(metadata={"k y": "v&=%", "run": word})))
    assert one.metadata == tricky
    paused = Sandbox.list(query=SandboxQuery(metadata={"run": word}, state=[SandboxState.PAUSED]))
    assert pages(paused) == [[]]
    both = [SandboxState.RUNNING, SandboxState.PAUSED]
    assert len(pages(Sandbox.list(query=SandboxQuery(metadata={"run": word}, state=both)))[0]) == 5

    [metric] = sandbox.get_metrics()
    assert metric.mem_total == 512 * 1024**2
    assert sandbox.get_metrics(end=dt.datetime(2001, 1, 1)) == []  # noqa: DTZ001

    assert sandbox.kill() is True
    assert Sandbox.kill(sandbox.sandbox_id) is False
    for one in (closed, *others):
        assert Sandbox.kill(one.sandbox_id) is True

    refused(lambda: Sandbox.get_info(sandbox.sandbox_id), "not found")
    refused(lambda: Sandbox.connect(NOBODY), "not found")
    refused(lambda: Sandbox.create("no-such-template"), "404: template 'no-such-template' not found")
    refused(lambda: Sandbox.create("base", timeout=-1), "Timeout must be greater than 0")
    refused(lambda: Sandbox.create("base", timeout=10**6), "Timeout cannot be greater than 24 hours")
    refused(lambda: Sandbox.create("base", network={"deny_out": ["a.example"]}), "invalid denied CIDR")
    refused(lambda: Sandbox.list(api_key="e2b_" + "0" * 40).next_items(), "401")


def pages(paginator):
    """Read all pages."""
    found = []
    while paginator.has_next:
        found.append(paginator.next_items())
    return found


def refused(call, says):
    """Expect a clear error."""
    try:
        call()
    except Exception as caught:
        error = caught
    else:
        raise AssertionError(f"no error: {says}")
    assert isinstance(error, (SandboxException, AuthenticationException)), repr(error)
    assert says in str(error), str(error)


async def asynchronous(domain, word):
    sandboxes = await asyncio.gather(
        *(AsyncSandbox.create("base", timeout=60, metadata={"run": word + "a"}) for _ in range(3))
    )
    assert {one.sandbox_domain for one in sandboxes} == {domain}
    first = sandboxes[0]
    assert left(await first.get_info()) == 60
    await first.set_timeout(300)
    assert left(await AsyncSandbox.get_info(first.sandbox_id)) == 300
    again = await AsyncSandbox.connect(first.sandbox_id, timeout=400)
    assert left(await again.get_info()) == 400
    paginator = AsyncSandbox.list(query=SandboxQuery(metadata={"run": word + "a"}), limit=2)
    seen = []
    while paginator.has_next:
        seen += [one.sandbox_id for one in await paginator.next_items()]
    assert sorted(seen) == sorted(one.sandbox_id for one in sandboxes)
    assert await asyncio.gather(*(one.kill() for one in sandboxes)) == [True] * 3
    assert await AsyncSandbox.kill(first.sandbox_id) is False


if __name__ == "__main__":
    blocking(*sys.argv[1:])
    asyncio.run(asynchronous(*sys.argv[1:]))
    sys.stdout.write(f"e2b {version('e2b')} is content\n")
    sys.stdout.flush()
    # Not sys.exit: now and then the client's own threads abort the interpreter while it shuts down (2.63.0).
    os._exit(0)
