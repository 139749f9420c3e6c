"""Templates that are built because somebody says so."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from typing_extensions import override

from atoll.server.domain.errors import NotFoundError
from atoll.server.domain.ids import TemplateId
from atoll.server.domain.limits import Limits
from atoll.server.domain.template import Template
from atoll.server.ports.templates import Templates

BASE = Template(
    id=TemplateId("base-000000000000"),
    name="base",
    built_at=datetime(2026, 1, 1, tzinfo=UTC),
    limits=Limits(cpus=1, memory_bytes=512 * 1024**2, processes=1024, disk_bytes=1024**3),
    env=(("LANG", "C.UTF-8"),),
)


class FakeTemplates(Templates):
    """Knows the templates it was given."""

    def __init__(self, *templates: Template) -> None:
        self._templates = templates or (BASE,)

    @override
    async def get(self, name: str) -> Template:
        for template in self._templates:
            if name in (template.name, template.id):
                return template
        raise NotFoundError(f"template '{name}' not found")

    @override
    async def list(self) -> Sequence[Template]:
        return sorted(self._templates, key=lambda template: template.name)

    @override
    async def rootfs(self, template_id: TemplateId) -> Path:
        raise NotFoundError(f"template '{template_id}' has no files")
