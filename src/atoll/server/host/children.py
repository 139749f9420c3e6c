"""
Programs that run as our children, without pipes: started quickly, and awaited.

Not asyncio's: uvloop forks, which copies the page tables of the whole server (9 to 12 ms at 120 MB, in which
it does nothing else) and has every page copied that it writes afterwards. subprocess uses vfork: 0.4 ms, and
nothing after.
"""

import asyncio
import contextlib
import subprocess
from collections.abc import Mapping, Sequence

from atoll.server.host.pidfd import Pidfd


class Child:
    """A program that was started; ``wait`` for it or ``end`` it, else it stays as a zombie."""

    def __init__(
        self, argv: Sequence[str], *, stdout: int, stderr: int, environment: Mapping[str, str]
    ) -> None:
        """
        Start it, in a session of its own, at the root, with nothing to read.

        Args:
            argv: the program and its arguments.
            stdout: descriptor that it inherits.
            stderr: descriptor that it inherits.
            environment: all that it gets.

        Raises:
            OSError: it cannot be started.
        """
        self._popen = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            cwd="/",
            env=environment,
            start_new_session=True,
        )
        self.pid = self._popen.pid
        try:
            self._held = Pidfd.open(self.pid)
        except OSError:
            self._popen.kill()
            self._popen.wait()
            raise

    async def wait(self) -> int:
        """Return its exit code once it has ended; the number of a signal below zero."""
        if self._popen.returncode is None:
            await self._held.wait_ended()
        return self._reap()

    async def end(self, *, patience_s: float) -> None:
        """End it if it has not ended; give up waiting for that after some time, where the kernel holds it."""
        if self._popen.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            self._popen.kill()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience_s):
                await self.wait()

    def _reap(self) -> int:
        # It has ended: this returns at once.
        code = self._popen.wait()
        self._held.close()
        return code
