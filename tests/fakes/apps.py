"""
The public app over verbs of a test's own, without building its hundred routes for each: that takes 0.3 s.

The routes are built once in a process for each address, over verbs that are looked up in the request's own
context. All that the app remembers, such as how often somebody called, is the gate's, and each has its own.
"""

from collections.abc import Sequence
from contextvars import Context, ContextVar
from functools import cache
from typing import Any

from starlette.types import Receive, Scope, Send

from atoll.server.api.app import PublicAddress, build_public
from atoll.server.api.gate import Dialect, Gate
from atoll.server.api.limits import ApiLimits
from atoll.server.control.verbs import Verbs

_VERBS: ContextVar[Verbs] = ContextVar("verbs")


class _Later:
    """Stands for the verbs, or for what they have under a name, of whoever's request it is."""

    def __init__(self, *names: str) -> None:
        self._names = names

    def __getattr__(self, name: str) -> Any:
        later = _Later(*self._names, name)
        return later._found() if _VERBS.get(None) else later

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._found()(*args, **kwargs)

    def _found(self) -> Any:
        found: Any = _VERBS.get()
        for name in self._names:
            found = getattr(found, name)
        return found


class _OwnGate(Gate):
    """A gate to routes that others use, too."""

    def __init__(self, dialects: Sequence[Dialect], verbs: Verbs, limits: ApiLimits) -> None:
        super().__init__(dialects, verbs.control.authenticate, limits)
        self._verbs = verbs

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        token = _VERBS.set(self._verbs)
        try:
            await super().__call__(scope, receive, send)
        finally:
            _VERBS.reset(token)


def public_app(verbs: Verbs, address: PublicAddress, limits: ApiLimits) -> Gate:
    """Do as ``build_public`` does."""
    return _OwnGate(_dialects(address), verbs, limits)


@cache
def _dialects(address: PublicAddress) -> tuple[Dialect, ...]:
    # In a context without a request: whoever asks for it first may be in one.
    built: Any = Context().run(build_public, _Later(), address, ApiLimits())
    return tuple(built.dialects)
