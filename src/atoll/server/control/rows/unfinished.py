"""All rows that are not ended, whoever's they are: for starts, and for ends."""

from dataclasses import replace

from atoll.server.control.rows.room import ALIVE
from atoll.server.domain.sandbox import Sandbox
from atoll.server.ports.store import MOST_ROWS, Page, SandboxFilter, Store

# Rows read at once.
ROWS_AT_ONCE = MOST_ROWS


async def unfinished(store: Store) -> list[Sandbox]:
    """List every sandbox that is not ended, the oldest first."""
    rows: list[Sandbox] = []
    page = Page(limit=ROWS_AT_ONCE, newest_first=False)
    while True:
        part = await store.list_sandboxes(SandboxFilter(statuses=ALIVE), page)
        rows += part
        if len(part) < ROWS_AT_ONCE:
            return rows
        page = replace(page, after=(part[-1].created_at, part[-1].id))
