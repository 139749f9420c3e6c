"""template.json: what a built template says of itself."""

import dataclasses
import json
import os
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from atoll.server.domain.errors import FailedPreconditionError
from atoll.server.domain.ids import TemplateId
from atoll.server.domain.limits import Limits
from atoll.server.domain.template import StartCommand, Template

FILE = "template.json"
ROOTFS = "rootfs"
FORMAT = 1
_MOST_BYTES = 1 << 20


def write_manifest(directory: Path, template: Template, digest: str) -> None:
    """Write a template's description into its directory, and wait until it is on disk."""
    content: dict[str, object] = {
        "format": FORMAT,
        "id": template.id,
        "name": template.name,
        "recipe": digest,
        "built_at": template.built_at.isoformat(),
        "limits": {
            "cpus": template.limits.cpus,
            "memory_bytes": template.limits.memory_bytes,
            "processes": template.limits.processes,
            "disk_bytes": template.limits.disk_bytes,
        },
        "default_user": template.default_user,
        "default_workdir": template.default_workdir,
        "env": dict(template.env),
    }
    if template.start is not None:
        content["start"] = dataclasses.asdict(template.start)
    with (directory / FILE).open("w") as file:
        file.write(json.dumps(content, indent=1) + "\n")
        file.flush()
        os.fsync(file.fileno())


def read_manifest(directory: Path) -> Template:
    """
    Read the template in a directory that has its name.

    Raises:
        FailedPreconditionError: something of it is missing or wrong; names the template.
    """
    try:
        with (directory / FILE).open("rb") as file:
            template = _parse(json.loads(file.read(_MOST_BYTES)))
        if template.id != directory.name:
            raise ValueError(f"{FILE} says that it is {template.id!r}")
        if not (directory / ROOTFS / "usr").is_dir():
            raise ValueError(f"{ROOTFS}/usr is missing")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as exc:
        raise FailedPreconditionError(
            f"template '{directory.name}' is damaged",
            details=f"{directory}: {type(exc).__name__}: {exc}",
            resolution=f"remove {directory} and build the template again",
        ) from exc
    return template


def _parse(data: Mapping[str, Any]) -> Template:
    if data["format"] != FORMAT:
        raise ValueError(f"format {data['format']!r} is not known")
    limits = data["limits"]
    return Template(
        id=TemplateId(str(data["id"])),
        name=str(data["name"]),
        built_at=datetime.fromisoformat(data["built_at"]),
        limits=Limits(
            cpus=float(limits["cpus"]),
            memory_bytes=int(limits["memory_bytes"]),
            processes=int(limits["processes"]),
            disk_bytes=int(limits["disk_bytes"]),
        ),
        default_user=str(data["default_user"]),
        default_workdir=str(data["default_workdir"]),
        env=tuple(sorted((str(key), str(value)) for key, value in data["env"].items())),
        start=_start(data["start"]) if "start" in data else None,
    )


def _start(data: Mapping[str, Any]) -> StartCommand:
    return StartCommand(
        command=str(data["command"]),
        ready=str(data["ready"]),
        timeout_s=int(data["timeout_s"]),
        needs_env=bool(data.get("needs_env", False)),
    )
