"""The templates of one host: which are built, and building those that are not."""

import asyncio
import dataclasses
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import structlog
from typing_extensions import override

from atoll.server.domain.errors import AtollError, FailedPreconditionError, NotFoundError
from atoll.server.domain.ids import TemplateId
from atoll.server.domain.template import Template
from atoll.server.host.mmdebstrap import Progress
from atoll.server.images.authorities import Authority, host_extras
from atoll.server.images.builder import (
    BUILD_TIMEOUT_S,
    BUILDER_VERSION,
    GUEST_BUNDLE,
    GUEST_EXTRAS,
    Order,
    build,
)
from atoll.server.images.folders import Folders
from atoll.server.images.manifest import ROOTFS, read_manifest
from atoll.server.images.recipe import Recipe, load_recipe, recipe_names, recipes_directory
from atoll.server.ports.templates import Templates

log = structlog.get_logger(__name__)

_HASH_DIGITS = 12


class TemplateLibrary(Templates):
    """
    Knows recipes and what was built from them.

    A name means the build of its recipe as this object read it last: at its first use, or by ``ensure``.
    Where that is not built, it means the newest build of the name, so that a changed recipe, or a changed
    list of authorities on the host, stops nobody.
    """

    def __init__(
        self,
        directory: Path,
        *,
        recipes: Path | None = None,
        guest_ca: bool = True,
        build_timeout_s: float = BUILD_TIMEOUT_S,
    ) -> None:
        """
        Args:
            directory: holds the built templates; made when the first one is built.
            recipes: the folder with recipes; default: Atoll's own.
            guest_ca: whether templates trust what this host trusts beyond the usual authorities.
            build_timeout_s: for one build; whoever waits for another's build waits as long.

        Raises:
            FailedPreconditionError: this installation has no recipes.
        """
        self.folders = Folders(directory)
        self._recipes = recipes or recipes_directory()
        self._guest_ca = guest_ca
        self._build_timeout_s = build_timeout_s
        self._read: dict[TemplateId, Template] = {}
        self._orders: dict[str, Order] = {}

    @override
    async def get(self, name: str) -> Template:
        # Every create asks: a look at a directory is quicker than a thread is there and back.
        if (order := self._orders.get(name)) is not None:
            known = self._read.get(order.template.id)
            if known is not None and self.folders.path(known.id).is_dir():
                return known
        return await asyncio.to_thread(self._find, name)

    @override
    async def list(self) -> Sequence[Template]:
        return await asyncio.to_thread(self._list)

    @override
    async def rootfs(self, template_id: TemplateId) -> Path:
        await asyncio.to_thread(self._load, template_id)
        return self.folders.path(template_id) / ROOTFS

    def builds(self) -> Sequence[Template]:
        """List everything that is built."""
        return self._all()

    def names(self) -> Sequence[str]:
        """List the recipes by name, built or not."""
        return recipe_names(self._recipes)

    async def ensure(self, name: str, progress: Progress | None = None) -> Template:
        """
        Return the template that a recipe makes, and build it first if it is not there.

        Two at once, in one process or in two: one builds, the other waits. Reads the recipe again.

        Args:
            name: of a recipe.
            progress: is told what is done, and how much of everything is, from 0 to 1.

        Raises:
            NotFoundError: there is no such recipe.
            InvalidArgumentError: the recipe is wrong.
            FailedPreconditionError: what is there is damaged, or something that building needs is missing.
            UnavailableError: not now; see the message.
            ResourceExhaustedError: the disk is full.
        """
        tell = progress or (lambda _phase, _fraction: None)
        order = await asyncio.to_thread(self._order, name)
        self._orders[name] = order
        template_id = order.template.id
        if not self.folders.path(template_id).exists():
            await asyncio.to_thread(self.folders.clear)
            tell("waiting", 0.0)
            async with self.folders.locked(template_id, timeout_s=self._build_timeout_s):
                if not self.folders.path(template_id).exists():
                    order = _dated(order)
                    log.info("template is being built", template_id=template_id)
                    await build(order, self.folders, tell, timeout_s=self._build_timeout_s)
                    log.info("template is built", template_id=template_id)
        return await asyncio.to_thread(self._load, template_id)

    async def clear(self) -> None:
        """Remove what interrupted builds left; builds under way are not touched."""
        await asyncio.to_thread(self.folders.clear)

    def _find(self, name: str) -> Template:
        if not _is_plain(name) or not (self._recipes / name).is_dir():
            return self._load(TemplateId(name))
        current = self._current(name).template.id
        if self.folders.path(current).is_dir():
            return self._load(current)
        builds = [template for template in self._all() if template.name == name]
        if not builds:
            # All of it is the message: whoever asked for it is who has to know.
            raise NotFoundError(
                f"template {name!r} not found: its recipe exists, but it is not built on this server;"
                f" `atoll template build {name}` there builds it",
                details=f"{self.folders.path(current)} is not built",
            )
        return max(builds, key=lambda template: template.built_at)

    def _load(self, template_id: TemplateId) -> Template:
        path = self.folders.path(template_id)
        if not _is_plain(template_id) or not path.is_dir():
            self._read.pop(template_id, None)
            raise NotFoundError(f"template {template_id[:64]!r} not found", details=f"there is no {path}")
        if template_id not in self._read:
            self._read[template_id] = read_manifest(path)
        return self._read[template_id]

    def _list(self) -> Sequence[Template]:
        newest: dict[str, Template] = {}
        for template in sorted(
            self._all(), key=lambda template: (self._is_current(template), template.built_at)
        ):
            newest[template.name] = template
        return [newest[name] for name in sorted(newest)]

    def _is_current(self, template: Template) -> bool:
        try:
            return self._current(template.name).template.id == template.id
        except AtollError:
            # Its recipe is gone, or wrong; what was built from it is there all the same.
            return False

    def _all(self) -> Sequence[Template]:
        found = []
        for path in self.folders.built():
            try:
                found.append(self._load(TemplateId(path.name)))
            except FailedPreconditionError as exc:
                log.warning("template passed over", template_id=path.name, error=str(exc))
        return found

    def _current(self, name: str) -> Order:
        if name not in self._orders:
            self._orders[name] = self._order(name)
        return self._orders[name]

    def _order(self, name: str) -> Order:
        authorities = host_extras() if self._guest_ca else ()
        return make_order(load_recipe(self._recipes, name), authorities)


def make_order(recipe: Recipe, authorities: tuple[Authority, ...]) -> Order:
    """Say what a recipe makes on a host with these extra authorities."""
    fingerprints = [authority.fingerprint for authority in authorities]
    digest = recipe.digest(str(BUILDER_VERSION), os.uname().machine, *fingerprints)
    env = dict(recipe.env)
    if authorities:
        # Programs that use the system's list need nothing: pip, curl, git, Debian's Node. These bring one
        # of their own: httpx and what is built with rustls; requests and its kin; Node from elsewhere.
        env.setdefault("SSL_CERT_FILE", GUEST_BUNDLE)
        env.setdefault("REQUESTS_CA_BUNDLE", GUEST_BUNDLE)
        env.setdefault("NODE_EXTRA_CA_CERTS", GUEST_EXTRAS)
    template = Template(
        id=TemplateId(f"{recipe.name}-{digest[:_HASH_DIGITS]}"),
        name=recipe.name,
        built_at=datetime.fromtimestamp(0, UTC),
        limits=recipe.limits,
        default_user=recipe.default_user,
        default_workdir=recipe.default_workdir,
        env=tuple(sorted(env.items())),
        start=recipe.start,
    )
    return Order(recipe=recipe, template=template, digest=digest, authorities=authorities)


def _dated(order: Order) -> Order:
    return dataclasses.replace(
        order, template=dataclasses.replace(order.template, built_at=datetime.now(UTC))
    )


def _is_plain(name: str) -> bool:
    """Say whether this can be the name of a directory here: neither hidden nor a path."""
    return bool(name) and not name.startswith(".") and not {"/", "\0"} & set(name) and len(name) <= 128
