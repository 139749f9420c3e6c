"""
Builds a template: Debian by mmdebstrap, the recipe's files and scripts over it, then one rename.

A build works in a folder of its own, whose name starts with a dot; what has the template's name is complete
and on disk. A build that is interrupted, by ``kill -9`` or a power cut too, leaves only such a folder: the
next build removes it. Folders and templates are locked with flock, so nothing waits for a dead builder.
"""

import asyncio
import os
import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path

import structlog

from atoll.server.domain.errors import (
    AtollError,
    FailedPreconditionError,
    InternalError,
    ResourceExhaustedError,
    UnavailableError,
)
from atoll.server.domain.template import Template
from atoll.server.host.apt import (
    DEBIAN_KEYRING,
    Mirror,
    debian_mirror,
    proxy_environment,
    without_credentials,
)
from atoll.server.host.mmdebstrap import (
    Bootstrap,
    MmdebstrapError,
    MmdebstrapMissingError,
    Progress,
    bootstrap,
)
from atoll.server.host.storage import sync_file_system
from atoll.server.images.authorities import Authority
from atoll.server.images.folders import Folders
from atoll.server.images.manifest import write_manifest
from atoll.server.images.recipe import Recipe

log = structlog.get_logger(__name__)

# Part of every recipe's hash: raise it when this file, or anything that it uses, makes other files.
BUILDER_VERSION = 1
# The largest recipe takes a minute; a slow mirror ten times that.
BUILD_TIMEOUT_S = 1800.0

# What the new machine trusts, for programs that bring a list of their own.
GUEST_BUNDLE = "/etc/ssl/certs/ca-certificates.crt"
GUEST_EXTRAS = "/usr/local/share/ca-certificates/atoll-host.pem"
# What has to be there before packages are: dpkg's and apt's settings, and folders that dpkg leaves out but a
# package's script counts on.
_EARLY = ("etc/dpkg/dpkg.cfg.d", "etc/apt", "usr/share/man")
# Suites that have no pockets for updates: they are updated in place.
_ROLLING = ("sid", "unstable", "experimental", "testing")


@dataclass(frozen=True, kw_only=True)
class Order:
    """What to build: the recipe, what the result is called and says of itself, and whom it trusts."""

    recipe: Recipe
    template: Template
    digest: str
    authorities: tuple[Authority, ...]


async def build(
    order: Order, folders: Folders, progress: Progress, *, timeout_s: float = BUILD_TIMEOUT_S
) -> None:
    """
    Build a template, and make it visible when it is complete.

    Whoever calls holds the template's lock. When this fails or is cancelled, nothing of it stays.

    Raises:
        FailedPreconditionError: something that building needs is missing on this host.
        ResourceExhaustedError: the disk is full.
        UnavailableError: the mirror does not answer, or building took too long.
        InternalError: it failed otherwise; details hold the end of the output.
    """
    if os.geteuid() != 0:
        raise FailedPreconditionError("templates are built by root", resolution="start Atoll as root")
    mirror = await asyncio.to_thread(debian_mirror)
    if not await asyncio.to_thread(Path(mirror.keyring).is_file):
        raise FailedPreconditionError(
            "the keys that sign Debian's archive are missing",
            details=f"there is no {mirror.keyring}",
            resolution="apt-get install debian-archive-keyring",
        )
    async with folders.working() as work:
        try:
            await asyncio.to_thread(_stage, work, order, mirror)
            request = _bootstrap(work, order.recipe, mirror, await proxy_environment())
            await bootstrap(request, progress=progress, timeout_s=timeout_s)
            progress("writing to disk", 0.99)
            await asyncio.to_thread(_finish, work, order)
        except MmdebstrapError as exc:
            raise _translated(order.recipe.name, exc) from exc
        except OSError as exc:
            raise _full_disk(order.recipe.name, str(exc)) or exc from exc
        await asyncio.to_thread(folders.publish, work, order.template.id)
    progress("ready", 1.0)


def _bootstrap(work: Path, recipe: Recipe, mirror: Mirror, proxy: dict[str, str]) -> Bootstrap:
    lines = [
        f"deb [signed-by={mirror.keyring}] {uri} {suite} {' '.join(recipe.components)}"
        for uri, suite in _archives(recipe, mirror)
    ]
    stage = shlex.quote(str(work / "stage"))
    # pip and npm fetch what a recipe's lock files name, through the host's proxy and trusting whom it trusts.
    reach = " ".join(shlex.quote(f"{key}={value}") for key, value in sorted(proxy.items()))
    inside = (
        'chroot "$1" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 '
        f"DEBIAN_FRONTEND=noninteractive {reach + ' ' if reach else ''}/bin/sh -eu"
    )
    # Before dpkg's first run, so that it obeys what is there. It unpacks again what was unpacked until here.
    early = f'(cd "$1"/usr/share && rm -rf doc man info locale) && cp -r {stage}/early/. "$1"'
    late = f'cp -r {stage}/files/. "$1" && rm -f "$1"/etc/apt/sources.list'
    scripts = [_with_names(f"{inside} < {stage}/setup-{number}") for number in range(len(recipe.scripts))]
    return Bootstrap(
        target=work / "rootfs",
        suite=recipe.suite,
        variant=recipe.variant,
        packages=recipe.packages,
        sources=tuple(lines),
        hooks=(("extract", early), *(("customize", command) for command in (late, *scripts))),
        proxy=proxy,
    )


def _with_names(command: str) -> str:
    """Let a script resolve names as the host does; afterwards the recipe's own files are there again."""
    places = ("/etc/resolv.conf", "/etc/hosts")
    mounts = " && ".join(f'touch "$1"{place} && mount --bind {place} "$1"{place}' for place in places)
    return f'{mounts} && {command}; code=$?; umount "$1"{places[0]} "$1"{places[1]}; exit $code'


def _archives(recipe: Recipe, mirror: Mirror) -> list[tuple[str, str]]:
    archives = [(mirror.main, recipe.suite)]
    if recipe.suite not in _ROLLING:
        archives.append((mirror.main, f"{recipe.suite}-updates"))
        if mirror.security:
            archives.append((mirror.security, f"{recipe.suite}-security"))
    return archives


def _stage(work: Path, order: Order, mirror: Mirror) -> None:
    """Write what the hooks copy: what dpkg obeys and ca-certificates finds (early), the rest, the scripts."""
    stage = work / "stage"
    early, files = stage / "early", stage / "files"
    files.mkdir(parents=True)
    early.mkdir()
    for file in order.recipe.files:
        first = any(file.path.is_relative_to(place) for place in _EARLY)
        _write(early if first else files, str(file.path), file.content)
    for number, script in enumerate(order.recipe.scripts):
        (stage / f"setup-{number}").write_bytes(script)
    for authority in order.authorities:
        # ca-certificates takes them up when it is set up: update-ca-certificates need not run twice.
        name = f"usr/local/share/ca-certificates/atoll-{authority.fingerprint[:16]}.crt"
        _write(early, name, authority.pem.encode())
    if order.authorities:
        _write(early, GUEST_EXTRAS, "".join(authority.pem for authority in order.authorities).encode())
    environment = "".join(f"{key}={value}\n" for key, value in order.template.env)
    _write(files, "etc/environment", environment.encode())
    keyring = DEBIAN_KEYRING
    if mirror.keyring != DEBIAN_KEYRING:
        keyring = f"/usr/share/keyrings/atoll-mirror{Path(mirror.keyring).suffix}"
        _write(files, keyring, Path(mirror.keyring).read_bytes())
    _write(files, "etc/apt/sources.list.d/debian.sources", _guest_sources(order.recipe, mirror, keyring))


def _guest_sources(recipe: Recipe, mirror: Mirror, keyring: str) -> bytes:
    stanzas = [
        f"Types: deb\nURIs: {without_credentials(uri)}\nSuites: {suite}\n"
        f"Components: {' '.join(recipe.components)}\nSigned-By: {keyring}\n"
        for uri, suite in _archives(recipe, mirror)
    ]
    return "\n".join(stanzas).encode()


def _write(root: Path, path: str, content: bytes) -> None:
    target = root / path.lstrip("/")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content)


def _finish(work: Path, order: Order) -> None:
    """Check what was made, describe it, and get all of it on disk."""
    rootfs = work / "rootfs"
    if not (rootfs / "usr/bin/sh").exists() or not (rootfs / "etc/passwd").is_file():
        raise InternalError(f"template '{order.recipe.name}' has no shell", details=str(rootfs))
    _tidy(rootfs)
    shutil.rmtree(work / "stage")
    write_manifest(work, order.template, order.digest)
    sync_file_system(work)


def _tidy(rootfs: Path) -> None:
    """Put right what mmdebstrap does after its last hook."""
    rootfs.chmod(0o755)
    # It copies these from the host, with modes of its own; then ours were written into them.
    for name in ("etc/hostname", "etc/resolv.conf"):
        if (rootfs / name).is_file():
            (rootfs / name).chmod(0o644)
    # It empties /tmp, and gVisor lays a file system in memory over an empty one. Every machine with a
    # screen has this directory.
    for name in ("tmp", "tmp/.X11-unix"):
        (rootfs / name).mkdir(exist_ok=True)
        (rootfs / name).chmod(0o1777)


def _translated(name: str, exc: MmdebstrapError) -> AtollError:
    if isinstance(exc, MmdebstrapMissingError):
        return FailedPreconditionError(
            "mmdebstrap is not installed",
            details=f"{exc.outcome}\n{exc.output}".strip(),
            resolution="apt-get install mmdebstrap util-linux",
        )
    said = f"mmdebstrap: {exc.outcome}\n{exc.output}"
    if full := _full_disk(name, said):
        return full
    unreachable = ("Failed to fetch", "Could not resolve", "Unable to connect", "Connection failed")
    if exc.outcome.startswith("killed after") or any(text in exc.output for text in unreachable):
        return UnavailableError(
            f"template '{name}' cannot be built now",
            details=said,
            resolution="check that this host reaches its Debian mirror (apt-get update), then try again",
        )
    return InternalError(f"template '{name}' could not be built", details=said)


def _full_disk(name: str, said: str) -> AtollError | None:
    if "No space left on device" not in said and "Disk quota exceeded" not in said:
        return None
    return ResourceExhaustedError(
        f"no room on the disk to build template '{name}'",
        details=said,
        resolution="make room, then try again",
    )
