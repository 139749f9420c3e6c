"""A server that dies at a point of its work: from there on nothing that it does has any effect."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from atoll.server.control.service import Control
from atoll.server.ports.store import Store
from atoll.server.runtimes.fake.faults import Faults
from fakes.world import World


class Crash(BaseException):
    """The end of a process: no handler of errors sees it."""


class Points(Faults):
    """Counts points, and does something at one of them."""

    def __init__(self, at: int | None = None, act: Callable[["Points"], None] = lambda _: None) -> None:
        super().__init__()
        self.count = 0
        self.dead = False
        self._act_at = at
        self._act = act

    def die(self) -> None:
        self.dead = True

    async def at(self, place: str) -> None:
        self.pass_point()
        await super().at(place)
        if self.dead:
            raise Crash

    def pass_point(self) -> None:
        if self.dead:
            raise Crash
        self.count += 1
        if self.count == self._act_at:
            self._act(self)
        if self.dead:
            raise Crash


class PointedStore:
    """A store whose every call is a point."""

    def __init__(self, store: Store, points: Points) -> None:
        self._store = store
        self._points = points

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._store, name)
        if name in {"open", "close"}:
            return call

        async def pointed(*args: Any, **kwargs: Any) -> Any:
            self._points.pass_point()
            return await call(*args, **kwargs)

        return pointed


async def life(world: World, points: Points, work: Callable[[Control], Awaitable[None]]) -> None:
    """Run a server until its work is done, or its end."""
    world.renew(points)
    world.store = PointedStore(world.store, points)  # type: ignore[assignment]
    await world.database.open()
    try:
        async with world.control() as control:
            await work(control)
            # Dies here at the latest; nothing that closing would do has an effect.
            points.die()
    except* (Crash, asyncio.CancelledError):
        pass
    finally:
        await world.database.close()
