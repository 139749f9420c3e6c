"""Finds builds of templates that are not the newest, and that no sandbox, snapshot or pause needs."""

from collections.abc import Callable

from typing_extensions import override

from atoll.server.domain.errors import AtollError
from atoll.server.domain.storage import Collected, Kind, Leftover
from atoll.server.domain.template import Template
from atoll.server.host.storage import size_on_disk
from atoll.server.host.threads import finish_in_thread
from atoll.server.images.library import TemplateLibrary
from atoll.server.ports.collector import Collector, Read

# Nobody builds what is not the recipe's newest for long: who does, keeps it this time.
_LOCK_TIMEOUT_S = 1.0


class OldBuilds(Collector):
    """Those of one library that no other home uses."""

    def __init__(self, library: TemplateLibrary, in_use: Callable[[], frozenset[str]]) -> None:
        """
        Args:
            library: of this home.
            in_use: names what machines and checkpoints lie over, those without a row too; raises AtollError
                where that cannot be read.
        """
        self._library = library
        self._in_use = in_use

    @override
    async def collect(self, needed: Read, *, dry: bool) -> Collected:
        there = await finish_in_thread(self._library.builds)
        current = {template.id for template in await self._library.list()}
        named: frozenset[str] = (await needed()).templates
        try:
            named |= await finish_in_thread(self._in_use)
        except AtollError as error:
            return Collected(problems=(f"templates: {error}",))
        found = Collected()
        for template in there:
            if template.id not in current | named:
                found += await self._remove(template, dry)
        if not dry:
            await self._library.clear()
        return found

    async def _remove(self, template: Template, dry: bool) -> Collected:
        folders = self._library.folders
        path = folders.path(template.id)
        size = await finish_in_thread(size_on_disk, path)
        leftover = Leftover(kind=Kind.TEMPLATE, name=template.id, size_bytes=size)
        if not dry:
            try:
                async with folders.locked(template.id, timeout_s=_LOCK_TIMEOUT_S):
                    await finish_in_thread(folders.remove, template.id)
            except (AtollError, OSError) as error:
                return Collected(problems=(f"template {template.id}: {error}",))
        return Collected(leftovers=(leftover,))
