"""The port to built templates."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from atoll.server.domain.ids import TemplateId
from atoll.server.domain.template import Template


class Templates(Protocol):
    """Knows which templates are built on this host, and where."""

    async def get(self, name: str) -> Template:
        """
        Find a built template by name or id.

        Raises:
            NotFoundError: ``template 'x' not found``; for one that could be built, how, behind that.
        """
        ...

    async def list(self) -> Sequence[Template]:
        """List the built templates, newest build of each name, sorted by name."""
        ...

    async def rootfs(self, template_id: TemplateId) -> Path:
        """
        Return the directory that holds the template's files, complete and never written to.

        Raises:
            NotFoundError: it is not built here.
        """
        ...
