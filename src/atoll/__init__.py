"""
Atoll: isolated Linux machines for code that nobody trusts.

    from atoll import Sandbox

    with Sandbox.create() as sandbox:
        print(sandbox.commands.run("uname -a").stdout)

``AsyncSandbox`` is the same for asyncio.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from atoll.sdk._async.commands import AsyncCommands
    from atoll.sdk._async.files import AsyncFiles, AsyncFileStream, AsyncWatch
    from atoll.sdk._async.handle import AsyncCommandHandle
    from atoll.sdk._async.pool import AsyncPool
    from atoll.sdk._async.pty import AsyncPty
    from atoll.sdk._async.sandbox import AsyncSandbox
    from atoll.sdk._async.secret import AsyncSecret
    from atoll.sdk._async.server import AsyncServer
    from atoll.sdk._async.snapshot import AsyncSnapshot
    from atoll.sdk._async.team import AsyncTeam
    from atoll.sdk._async.volume import AsyncVolume
    from atoll.sdk._async.volume_files import AsyncVolumeFiles
    from atoll.sdk._sync.commands import Commands
    from atoll.sdk._sync.files import Files, FileStream, Watch
    from atoll.sdk._sync.handle import CommandHandle
    from atoll.sdk._sync.pool import Pool
    from atoll.sdk._sync.pty import Pty
    from atoll.sdk._sync.sandbox import Sandbox
    from atoll.sdk._sync.secret import Secret
    from atoll.sdk._sync.server import Server
    from atoll.sdk._sync.snapshot import Snapshot
    from atoll.sdk._sync.team import Team
    from atoll.sdk._sync.volume import Volume
    from atoll.sdk._sync.volume_files import VolumeFiles
    from atoll.sdk.errors import (
        AbortedError,
        AlreadyExistsError,
        AtollError,
        ConnectionLostError,
        DeadlineExceededError,
        FailedPreconditionError,
        InternalError,
        InvalidArgumentError,
        NotFoundError,
        PermissionDeniedError,
        ResourceExhaustedError,
        UnauthenticatedError,
        UnavailableError,
        UnimplementedError,
    )
    from atoll.sdk.models import (
        Collection,
        Fall,
        FileChange,
        FileEvent,
        FileInfo,
        FileType,
        KeyInfo,
        Leftover,
        Limits,
        LogLine,
        MemoryKill,
        Metric,
        NewKey,
        Output,
        PoolInfo,
        ProcessInfo,
        SandboxInfo,
        SecretInfo,
        SnapshotInfo,
        Stream,
        TeamInfo,
        TemplateInfo,
        Usage,
        VolumeInfo,
        VolumeMount,
    )
    from atoll.sdk.network import Network, Proxy, ProxyTLS
    from atoll.sdk.results import CommandFailedError, CommandResult

__all__ = [
    "AbortedError",
    "AlreadyExistsError",
    "AsyncCommandHandle",
    "AsyncCommands",
    "AsyncFileStream",
    "AsyncFiles",
    "AsyncPool",
    "AsyncPty",
    "AsyncSandbox",
    "AsyncSecret",
    "AsyncServer",
    "AsyncSnapshot",
    "AsyncTeam",
    "AsyncVolume",
    "AsyncVolumeFiles",
    "AsyncWatch",
    "AtollError",
    "Collection",
    "CommandFailedError",
    "CommandHandle",
    "CommandResult",
    "Commands",
    "ConnectionLostError",
    "DeadlineExceededError",
    "FailedPreconditionError",
    "Fall",
    "FileChange",
    "FileEvent",
    "FileInfo",
    "FileStream",
    "FileType",
    "Files",
    "Incoming",
    "InternalError",
    "InvalidArgumentError",
    "KeyInfo",
    "Leftover",
    "Limits",
    "LogLine",
    "MemoryKill",
    "Metric",
    "Network",
    "NewKey",
    "NotFoundError",
    "Output",
    "PermissionDeniedError",
    "Pool",
    "PoolInfo",
    "ProcessInfo",
    "Proxy",
    "ProxyTLS",
    "Pty",
    "ResourceExhaustedError",
    "Sandbox",
    "SandboxInfo",
    "Secret",
    "SecretInfo",
    "Server",
    "Snapshot",
    "SnapshotInfo",
    "Stream",
    "Team",
    "TeamInfo",
    "TeamLimits",
    "TemplateInfo",
    "UnauthenticatedError",
    "UnavailableError",
    "UnimplementedError",
    "Usage",
    "Volume",
    "VolumeFiles",
    "VolumeInfo",
    "VolumeMount",
    "Watch",
]

# Where each name lives. Loaded when it is first asked for: the server and `atoll --help` need none of it.
_MODULES = {
    "atoll.sdk._async.commands": ("AsyncCommands",),
    "atoll.sdk._async.files": (
        "AsyncFiles",
        "AsyncFileStream",
        "AsyncWatch",
    ),
    "atoll.sdk._async.handle": ("AsyncCommandHandle",),
    "atoll.sdk._async.pool": ("AsyncPool",),
    "atoll.sdk._async.pty": ("AsyncPty",),
    "atoll.sdk._async.sandbox": ("AsyncSandbox",),
    "atoll.sdk._async.server": ("AsyncServer",),
    "atoll.sdk._async.secret": ("AsyncSecret",),
    "atoll.sdk._async.snapshot": ("AsyncSnapshot",),
    "atoll.sdk._async.team": ("AsyncTeam",),
    "atoll.sdk._async.volume": ("AsyncVolume",),
    "atoll.sdk._async.volume_files": ("AsyncVolumeFiles",),
    "atoll.sdk._sync.commands": ("Commands",),
    "atoll.sdk._sync.files": (
        "Files",
        "FileStream",
        "Watch",
    ),
    "atoll.sdk._sync.handle": ("CommandHandle",),
    "atoll.sdk._sync.pool": ("Pool",),
    "atoll.sdk._sync.pty": ("Pty",),
    "atoll.sdk._sync.sandbox": ("Sandbox",),
    "atoll.sdk._sync.server": ("Server",),
    "atoll.sdk._sync.secret": ("Secret",),
    "atoll.sdk._sync.snapshot": ("Snapshot",),
    "atoll.sdk._sync.team": ("Team",),
    "atoll.sdk._sync.volume": ("Volume",),
    "atoll.sdk._sync.volume_files": ("VolumeFiles",),
    "atoll.sdk.errors": (
        "AbortedError",
        "AlreadyExistsError",
        "AtollError",
        "ConnectionLostError",
        "DeadlineExceededError",
        "FailedPreconditionError",
        "InternalError",
        "InvalidArgumentError",
        "NotFoundError",
        "PermissionDeniedError",
        "ResourceExhaustedError",
        "UnauthenticatedError",
        "UnavailableError",
        "UnimplementedError",
    ),
    "atoll.sdk.models": (
        "Collection",
        "Fall",
        "FileChange",
        "FileEvent",
        "FileInfo",
        "FileType",
        "KeyInfo",
        "Leftover",
        "Limits",
        "LogLine",
        "MemoryKill",
        "Metric",
        "NewKey",
        "Output",
        "PoolInfo",
        "ProcessInfo",
        "SandboxInfo",
        "SecretInfo",
        "SnapshotInfo",
        "Stream",
        "TeamInfo",
        "TeamLimits",
        "TemplateInfo",
        "Usage",
        "VolumeInfo",
        "VolumeMount",
    ),
    "atoll.sdk.network": ("Incoming", "Network", "Proxy", "ProxyTLS"),
    "atoll.sdk.results": ("CommandFailedError", "CommandResult"),
}


def __getattr__(name: str) -> Any:
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(module), name)
    raise AttributeError(f"module 'atoll' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
