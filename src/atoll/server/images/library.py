"""The built templates of one directory: finds them, and builds those that are missing."""

import asyncio
import json
import shutil
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import structlog

from atoll.server.domain.errors import InternalError, NotFoundError
from atoll.server.domain.ids import TemplateId
from atoll.server.domain.limits import Limits
from atoll.server.domain.template import Template
from atoll.server.images.builder import Builder, Progress
from atoll.server.images.guest_ca import extra_certificates
from atoll.server.images.recipe import Recipe, load_recipe, recipe_names
from atoll.server.ports.templates import Templates

log = structlog.get_logger(__name__)


def recipes_directory() -> Path:
    """Find the recipes that came with this program: in the package, or beside the sources."""
    package = Path(__file__).parents[2] / "_templates"
    return package if package.is_dir() else Path(__file__).parents[4] / "templates"


def silent(phase: str, fraction: float) -> None:
    """Show no progress."""


class TemplateLibrary(Templates):
    """Implements ports.Templates over a directory of builds."""

    def __init__(
        self,
        directory: Path,
        *,
        recipes: Path | None = None,
        guest_ca: bool = True,
        builder: Builder | None = None,
    ) -> None:
        """
        Args:
            directory: where builds stand; several homes may share it.
            recipes: the folder of recipes; the program's own when None.
            guest_ca: whether what the host trusts beyond the usual authorities is trusted inside too.
            builder: builds what is missing.
        """
        self._directory = directory
        self._recipes = recipes or recipes_directory()
        self._guest_ca = guest_ca
        self._builder = builder or Builder(directory)
        self._built: dict[TemplateId, Template] = {}
        self._current: dict[str, TemplateId] = {}

    async def ensure(self, name: str, progress: Progress = silent) -> Template:
        """
        Return the template of a recipe as it is now; build it when it is missing.

        Raises:
            NotFoundError: there is no such recipe.
            InvalidArgumentError: the recipe is not right.
            FailedPreconditionError, UnavailableError, DeadlineExceededError: see ``Builder.build``.
        """
        recipe, template_id, authorities = await asyncio.to_thread(self._wanted, name)
        if not (self._directory / template_id).is_dir():
            await self._builder.build(recipe, template_id, authorities, progress)
        template = await asyncio.to_thread(self._read, template_id)
        self._built[template_id] = template
        self._current[name] = template_id
        return template

    async def get(self, name: str) -> Template:
        """See ports.Templates: the build of the recipe as it is now, else the newest of that name."""
        untrusted = name
        if (template := self._find(untrusted)) is None:
            await self.refresh()
            template = self._find(untrusted)
        if template is None:
            raise NotFoundError(f"template '{untrusted[:128]}' not found")
        return template

    async def list(self) -> Sequence[Template]:
        """See ports.Templates."""
        await self.refresh()
        names = sorted({template.name for template in self._built.values()})
        return [template for name in names if (template := self._find(name)) is not None]

    async def rootfs(self, template_id: TemplateId) -> Path:
        """See ports.Templates."""
        if template_id not in self._built:
            await self.refresh()
        if template_id not in self._built:
            raise NotFoundError(f"template '{template_id[:128]}' not found")
        return self._directory / template_id / "rootfs"

    async def refresh(self) -> None:
        """Look at the directory and the recipes anew; remove what interrupted builds left."""
        await asyncio.to_thread(self._refresh)

    async def remove(self, template_id: TemplateId) -> None:
        """Delete a build that no sandbox uses; a no-op when it is not there."""
        self._built.pop(template_id, None)
        hidden = self._directory / f".building-{template_id}-removed"
        path = self._directory / template_id
        if path.parent == self._directory and path.is_dir():
            # Out of sight first: nobody starts from half a template.
            path.rename(hidden)
            await asyncio.to_thread(shutil.rmtree, hidden)

    def _find(self, name: str) -> Template | None:
        if (template := self._built.get(TemplateId(name))) is not None:
            return template
        if (current := self._built.get(self._current.get(name, TemplateId("")))) is not None:
            return current
        builds = [template for template in self._built.values() if template.name == name]
        return max(builds, key=lambda template: template.built_at, default=None)

    def _refresh(self) -> None:
        self._builder.sweep()
        built: dict[TemplateId, Template] = {}
        for path in self._directory.glob("*/template.json"):
            if not path.parent.name.startswith("."):
                try:
                    template = self._read(TemplateId(path.parent.name))
                except InternalError as error:
                    # One damaged build hides no other; asking for it by name fails as not found.
                    log.warning("template damaged", path=str(path), error=str(error))
                    continue
                built[template.id] = template
        self._built = built
        self._current = {name: self._wanted(name)[1] for name in recipe_names(self._recipes)}

    def _wanted(self, name: str) -> tuple[Recipe, TemplateId, Mapping[str, bytes]]:
        recipe = load_recipe(self._recipes, name)
        authorities = extra_certificates() if self._guest_ca else {}
        return recipe, recipe.template_id(*authorities), authorities

    def _read(self, template_id: TemplateId) -> Template:
        path = self._directory / template_id / "template.json"
        try:
            table: dict[str, Any] = json.loads(path.read_text())
            template = Template(
                **{
                    **table,
                    "limits": Limits(**table["limits"]),
                    "built_at": datetime.fromisoformat(table["built_at"]),
                    "env": tuple((name, value) for name, value in table["env"]),
                }
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InternalError(
                f"The template {template_id} is damaged",
                details=f"{path}: {error}",
                resolution=f"remove {path.parent}; the next start builds it anew",
            ) from error
        if template.id != template_id or not (path.parent / "rootfs").is_dir():
            raise InternalError(
                f"The template {template_id} is damaged",
                details=f"{path.parent} holds something else",
                resolution=f"remove {path.parent}; the next start builds it anew",
            )
        return template
