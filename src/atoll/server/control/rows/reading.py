"""Reads rows for callers: only their own, and only what they may call theirs."""

from collections.abc import Callable
from dataclasses import replace

from atoll.server.control.limits import ControlLimits
from atoll.server.control.requests import Actor, Route, SandboxPage
from atoll.server.control.rows import checking
from atoll.server.domain.errors import AbortedError, AtollError, NotFoundError
from atoll.server.domain.ids import SandboxId
from atoll.server.domain.sandbox import SLEEPING, Sandbox, Status
from atoll.server.domain.template import without_tag
from atoll.server.ports.store import Page, SandboxFilter, Store

# What callers see when they do not ask for more: what exists, or is about to.
PRESENT = frozenset({Status.CREATING, Status.RUNNING}) | SLEEPING
# What requests reach, or may when they are sent again: it runs, or something is under way with it.
ROUTED = PRESENT - {Status.PAUSED}


class Reading:
    """Finds sandboxes."""

    def __init__(self, *, store: Store, limits: ControlLimits) -> None:
        self._store = store
        self._limits = limits

    async def get(self, actor: Actor, sandbox_id: SandboxId, *, statuses: frozenset[Status]) -> Sandbox:
        """
        Read a sandbox of the actor's, in one of these statuses.

        Raises:
            NotFoundError: there is none.
        """
        try:
            row = await self._store.get_sandbox(sandbox_id)
        except NotFoundError as error:
            raise not_there(sandbox_id) from error
        self.check(actor, statuses)(row)
        return row

    def check(self, actor: Actor, statuses: frozenset[Status]) -> Callable[[Sandbox], None]:
        """Return what refuses a row that is not the actor's, or in no such status."""

        def check(row: Sandbox) -> None:
            # One answer for both: nobody learns which ids exist.
            if row.team_id != actor.team_id:
                raise not_there(row.id)
            if row.status in statuses:
                return
            if row.status in SLEEPING:
                raise NotFoundError(
                    f'Sandbox "{row.id}" does not run: it is {row.status.value}', resolution="Resume it."
                )
            raise not_there(row.id)

        return check

    async def list(self, actor: Actor, filter: SandboxFilter, page: Page) -> SandboxPage:
        """Do what ``Control.list`` promises."""
        own = self._own(actor, filter)
        rows = tuple(await self._store.list_sandboxes(own, page))
        if len(rows) < page.limit:
            return SandboxPage(sandboxes=rows, next=None)
        after = (rows[-1].created_at, rows[-1].id)
        more = await self._store.list_sandboxes(own, replace(page, limit=1, after=after))
        return SandboxPage(sandboxes=rows, next=after if more else None)

    async def count(self, actor: Actor, filter: SandboxFilter) -> int:
        """Do what ``Control.count`` promises."""
        return await self._store.count_sandboxes(self._own(actor, filter))

    async def route(self, sandbox_id: SandboxId) -> Route:
        """Do what ``Routing.route`` promises."""
        try:
            row = await self._store.get_sandbox(sandbox_id)
        except NotFoundError as error:
            raise not_there(sandbox_id) from error
        if row.status not in ROUTED:
            raise not_there(sandbox_id)
        address = row.address if row.status is Status.RUNNING else None
        return Route(sandbox_id=row.id, address=address, status=row.status, ingress=row.ingress)

    async def at_address(self, address: str) -> Sandbox:
        """Do what ``Routing.egress_at`` promises."""
        row = await self._store.sandbox_at(address)
        if row is None:
            raise NotFoundError("No running sandbox has this address")
        return row

    def _own(self, actor: Actor, filter: SandboxFilter) -> SandboxFilter:
        texts = [text for pair in filter.metadata for text in pair]
        if filter.template is not None:
            texts.append(filter.template)
        checking.check_filter(texts, self._limits)
        statuses = PRESENT if filter.statuses is None else filter.statuses
        template = None if filter.template is None else without_tag(filter.template)
        return replace(filter, team_id=actor.team_id, statuses=statuses, template=template)


def not_there(sandbox_id: SandboxId) -> NotFoundError:
    """Make the one answer for what does not exist and for what is somebody else's."""
    return NotFoundError(f"Sandbox \"{sandbox_id}\" doesn't exist or you don't have access to it")


def moved_on(row: Sandbox) -> AtollError:
    """Say what became of a sandbox while somebody waited for his turn with it."""
    if row.status in PRESENT:
        return AbortedError(f"Sandbox {row.id} is {row.status} now", resolution="Try again.")
    return not_there(row.id)
