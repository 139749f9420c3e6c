"""
Builds one template: a Debian root, overlays, what the host trusts, then one rename that makes it visible.

Everything happens in ``.building-<template id>-<random>``; whoever is killed leaves only such a folder,
and the next builder or start removes it. One builder works on a template at a time, others wait for its lock.
"""

import asyncio
import ctypes
import fcntl
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import structlog

from atoll.server.domain.errors import (
    AtollError,
    DeadlineExceededError,
    FailedPreconditionError,
    UnavailableError,
)
from atoll.server.domain.ids import TemplateId
from atoll.server.domain.template import Template
from atoll.server.host.mmdebstrap import BuildToolError, RootWish, make_root, run_inside
from atoll.server.images.debian_sources import KEYRING, Mirrors, host_mirrors
from atoll.server.images.guest_ca import ENV_INSIDE
from atoll.server.images.recipe import Recipe

log = structlog.get_logger(__name__)

Progress = Callable[[str, float], None]

# A mirror at 1 MB/s and 300 MB of packages, and unpacking on a slow disk.
BUILD_TIMEOUT_S = 1800.0
SETUP_TIMEOUT_S = 300.0
BUILDING = ".building-"

# Nobody reads manuals in a sandbox, and they are a fifth of a root's files; licences stay.
_EXCLUDE = (
    "/usr/share/man/*", "/usr/share/info/*", "/usr/share/doc/*", "/usr/share/locale/*",
    # The machine is its user's own: pip may install where it likes.
    "/usr/lib/python3*/EXTERNALLY-MANAGED",
)  # fmt: skip

_LOCAL_AUTHORITIES = Path("usr/local/share/ca-certificates")


class Builder:
    """Builds templates into one directory."""

    def __init__(self, directory: Path, *, mirrors: Mirrors | None = None) -> None:
        """
        Args:
            directory: where templates stand; made when missing.
            mirrors: where packages come from; the host's own when None.
        """
        self._directory = directory
        self._mirrors = mirrors

    async def build(
        self, recipe: Recipe, template_id: TemplateId, authorities: Mapping[str, bytes], progress: Progress
    ) -> None:
        """
        Build a template, or wait until somebody else has built it.

        Raises:
            FailedPreconditionError: a program is missing.
            UnavailableError: the build failed; details have the end of its output.
            DeadlineExceededError: it took longer than its limit.
        """
        _check_programs()
        self._directory.mkdir(parents=True, exist_ok=True)
        progress("waiting", 0.0)
        lock = await asyncio.to_thread(_lock, self._lock_path(template_id))
        try:
            if (self._directory / template_id).is_dir():
                return
            self._sweep_locked(template_id)
            work = self._directory / f"{BUILDING}{template_id}-{secrets.token_hex(4)}"
            try:
                with _explained(template_id):
                    await self._make(recipe, work, authorities, progress)
                    await asyncio.to_thread(
                        _publish,
                        work,
                        self._directory / template_id,
                        _facts(recipe, template_id, authorities),
                    )
            finally:
                # Gone already when the build succeeded.
                await asyncio.to_thread(shutil.rmtree, work, ignore_errors=True)
            progress("done", 1.0)
        finally:
            os.close(lock)

    def sweep(self) -> None:
        """Remove what interrupted builds left; what somebody builds right now stays."""
        for work in self._directory.glob(f"{BUILDING}*"):
            template_id = TemplateId(work.name.removeprefix(BUILDING).rpartition("-")[0])
            lock = _try_lock(self._lock_path(template_id))
            if lock is not None:
                try:
                    self._sweep_locked(template_id)
                finally:
                    os.close(lock)

    def _sweep_locked(self, template_id: TemplateId) -> None:
        for work in self._directory.glob(f"{BUILDING}{template_id}-*"):
            log.info("removing an interrupted build", path=str(work))
            shutil.rmtree(work, ignore_errors=True)

    def _lock_path(self, template_id: TemplateId) -> Path:
        return self._directory / f".lock-{template_id}"

    async def _make(
        self, recipe: Recipe, work: Path, authorities: Mapping[str, bytes], progress: Progress
    ) -> None:
        rootfs = work / "rootfs"
        await asyncio.to_thread(rootfs.mkdir, mode=0o755, parents=True)
        mirrors = self._mirrors or host_mirrors()
        wish = RootWish(
            suite=recipe.suite,
            packages=recipe.packages,
            sources=tuple(mirrors.sources(recipe.suite)),
            keyring=KEYRING,
            exclude=_EXCLUDE,
        )
        await make_root(wish, rootfs, step=progress, timeout_s=BUILD_TIMEOUT_S)
        progress("setting up", 0.96)
        for overlay in recipe.overlays:
            if (overlay / "files").is_dir():
                _lay(overlay / "files", rootfs)
            if (overlay / "setup").is_file():
                await _run_setup(rootfs, overlay / "setup")
        if authorities:
            await _trust(rootfs, authorities)
        progress("writing to disk", 0.98)


def _lay(files: Path, rootfs: Path) -> None:
    """Copy an overlay's files, owned by root, with the modes that its checkout means: 644, or 755 to run."""
    for path in sorted(files.rglob("*")):
        target = rootfs / path.relative_to(files)
        if path.is_dir():
            target.mkdir(mode=0o755, exist_ok=True)
            continue
        target.unlink(missing_ok=True)
        shutil.copyfile(path, target, follow_symlinks=False)
        if not path.is_symlink():
            target.chmod(0o755 if path.stat().st_mode & 0o100 else 0o644)
        os.chown(target, 0, 0, follow_symlinks=False)


async def _run_setup(rootfs: Path, setup: Path) -> None:
    inside = rootfs / ".setup"
    shutil.copyfile(setup, inside)
    inside.chmod(0o755)
    try:
        await run_inside(rootfs, ["/.setup"], env={}, timeout_s=SETUP_TIMEOUT_S)
    finally:
        inside.unlink(missing_ok=True)


async def _trust(rootfs: Path, authorities: Mapping[str, bytes]) -> None:
    directory = rootfs / _LOCAL_AUTHORITIES
    directory.mkdir(parents=True, exist_ok=True)
    for fingerprint, pem in authorities.items():
        (directory / f"host-{fingerprint[:16]}.crt").write_bytes(pem)
    await run_inside(rootfs, ["update-ca-certificates"], env={}, timeout_s=SETUP_TIMEOUT_S)
    with (rootfs / "etc/environment").open("a") as environment:
        environment.writelines(f"{name}={value}\n" for name, value in ENV_INSIDE)


def _facts(recipe: Recipe, template_id: TemplateId, authorities: Mapping[str, bytes]) -> Template:
    env = dict(recipe.env)
    if authorities:
        env = {**dict(ENV_INSIDE), **env}
    return Template(
        id=template_id,
        name=recipe.name,
        built_at=datetime.now(UTC),
        limits=recipe.limits,
        default_user=recipe.default_user,
        default_workdir=recipe.default_workdir,
        env=tuple(sorted(env.items())),
    )


def _publish(work: Path, target: Path, template: Template) -> None:
    """Make the build visible, whole and on the disk."""
    facts = asdict(template) | {"built_at": template.built_at.isoformat()}
    (work / "template.json").write_text(json.dumps(facts, indent=2) + "\n")
    # The whole file system at once: cheaper than a hundred thousand fsyncs.
    fd = os.open(work, os.O_RDONLY)
    try:
        if ctypes.CDLL(None, use_errno=True).syncfs(fd) != 0:
            raise OSError(ctypes.get_errno(), "syncfs", str(work))
    finally:
        os.close(fd)
    work.rename(target)
    fd = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _check_programs() -> None:
    packages = {
        "mmdebstrap": "mmdebstrap",
        "setpriv": "util-linux",
        "unshare": "util-linux",
        "chroot": "coreutils",
    }
    missing = sorted({package for program, package in packages.items() if not shutil.which(program)})
    if not KEYRING.exists():
        missing.append("debian-archive-keyring")
    if missing:
        raise FailedPreconditionError(
            "Programs that build templates are missing", details=" ".join(missing),
            resolution=f"apt-get install {' '.join(missing)}",
        )  # fmt: skip


def _lock(path: Path) -> int:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(fd, fcntl.LOCK_EX)
    return fd


def _try_lock(path: Path) -> int | None:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    return fd


@contextmanager
def _explained(template_id: TemplateId) -> Iterator[None]:
    """Say what a failed build means."""
    try:
        yield
    except BuildToolError as error:
        kind: type[AtollError] = DeadlineExceededError if error.code is None else UnavailableError
        raise kind(
            f"Building the template {template_id} failed",
            details=str(error),
            resolution="see whether the host's Debian mirror answers: apt-get update",
        ) from error
    except OSError as error:
        raise UnavailableError(
            f"Building the template {template_id} failed", details=str(error),
            resolution="see whether the disk has room: df -h",
        ) from error  # fmt: skip
