"""From the wire's words to the SDK's models. Pure functions; what a server or guest sent is checked here."""

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from atoll._gen.filesystem import filesystem_pb as fs
from atoll._gen.process import process_pb as ps
from atoll.sdk import models
from atoll.sdk.errors import BY_CODE, AtollError, InternalError, InvalidArgumentError
from atoll.sdk.network import Incoming


@dataclass(frozen=True, kw_only=True)
class OwnedSandbox:
    """
    A sandbox, and what its owner shows.

    Attributes:
        access_token: to its daemon; None: nothing.
        traffic_token: to its ports; None: nothing.
    """

    info: models.SandboxInfo
    access_token: str | None = field(repr=False)
    traffic_token: str | None = field(repr=False)


def sandbox(answer: Any) -> OwnedSandbox:
    """
    Read a sandbox.

    Raises:
        InternalError: the answer has another form.
    """
    try:
        info = models.SandboxInfo(
            id=answer["id"],
            template=answer["template"],
            template_id=answer["template_id"],
            status=answer["status"],
            limits=_limits(answer["limits"]),
            internet=answer["internet"],
            volumes=tuple(
                models.VolumeMount(volume_id=one["volume_id"], name=one["name"], path=one["path"])
                for one in answer["volumes"]
            ),
            metadata=dict(answer["metadata"]),
            created_at=datetime.fromisoformat(answer["created_at"]),
            started_at=_moment(answer["started_at"]),
            deadline=_moment(answer["deadline"]),
            on_deadline=answer["on_deadline"],
            auto_resume=answer["auto_resume"],
            ended_at=_moment(answer["ended_at"]),
            end_reason=answer["end_reason"],
            runtime=answer["runtime"],
            domain=answer["domain"],
            generation=int(answer["generation"]),
            persistent=bool(answer["persistent"]),
            fall=_fall(answer["fall"]),
            incoming=_incoming(answer["incoming"]),
        )
        return OwnedSandbox(
            info=info, access_token=answer["access_token"], traffic_token=answer["traffic_token"]
        )
    except (KeyError, TypeError, ValueError) as error:
        raise strange(error) from error


def sandbox_page(answer: Any) -> tuple[list[models.SandboxInfo], str | None]:
    """Read a part of a list, and the token for the next part."""
    try:
        return [sandbox(one).info for one in answer["sandboxes"]], answer["next_page_token"]
    except (KeyError, TypeError) as error:
        raise strange(error) from error


def templates(answer: Any) -> list[models.TemplateInfo]:
    """Read a list of templates."""
    try:
        return [
            models.TemplateInfo(
                id=one["id"],
                name=one["name"],
                built_at=datetime.fromisoformat(one["built_at"]),
                limits=_limits(one["limits"]),
                default_user=one["default_user"],
            )
            for one in answer
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise strange(error) from error


def snapshot(answer: Any) -> models.SnapshotInfo:
    """Read a snapshot."""
    try:
        return models.SnapshotInfo(
            id=answer["id"],
            name=answer["name"],
            sandbox_id=answer["sandbox_id"],
            template=answer["template"],
            memory=answer["memory"],
            limits=_limits(answer["limits"]),
            size_bytes=int(answer["size_bytes"]),
            scheduled=bool(answer["scheduled"]),
            created_at=datetime.fromisoformat(answer["created_at"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise strange(error) from error


def snapshot_page(answer: Any) -> tuple[list[models.SnapshotInfo], str | None]:
    """Read a part of a list, and the token for the next part."""
    try:
        return [snapshot(one) for one in answer["snapshots"]], answer["next_page_token"]
    except (KeyError, TypeError) as error:
        raise strange(error) from error


def forks(answer: Any) -> list[OwnedSandbox | AtollError]:
    """Read what came of a fork."""
    try:
        return [
            sandbox(one["sandbox"])
            if one["error"] is None
            else BY_CODE.get(one["error"]["code"], InternalError)(str(one["error"]["message"]))
            for one in answer
        ]
    except (KeyError, TypeError) as error:
        raise strange(error) from error


def pool(answer: Any) -> models.PoolInfo:
    """Read a pool."""
    try:
        since = answer["oldest_since"]
        return models.PoolInfo(
            template=answer["template"],
            limits=_limits(answer["limits"]),
            ready=int(answer["ready"]),
            ids=tuple(answer["ids"]),
            wanted=int(answer["wanted"]),
            hits=int(answer["hits"]),
            misses=int(answer["misses"]),
            oldest_since=None if since is None else datetime.fromisoformat(since),
            machine_bytes=int(answer["machine_bytes"]),
            problem=answer["problem"],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise strange(error) from error


def collection(answer: Any) -> models.Collection:
    """Read what nobody needed."""
    try:
        return models.Collection(
            dry_run=answer["dry_run"],
            size_bytes=answer["size_bytes"],
            leftovers=tuple(
                models.Leftover(kind=one["kind"], name=one["name"], size_bytes=one["size_bytes"])
                for one in answer["leftovers"]
            ),
            problems=tuple(answer["problems"]),
        )
    except (KeyError, TypeError) as error:
        raise strange(error) from error


def team(answer: Any) -> models.TeamInfo:
    """Read a team."""
    try:
        limits = answer["limits"]
        return models.TeamInfo(
            id=answer["id"],
            name=answer["name"],
            created_at=datetime.fromisoformat(answer["created_at"]),
            limits=models.TeamLimits(
                max_sandboxes=limits["max_sandboxes"],
                max_cpus=limits["max_cpus"],
                max_memory_bytes=limits["max_memory_bytes"],
                requests_per_second=limits["requests_per_second"],
            ),
            deleting=bool(answer["deleting"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise strange(error) from error


def key(answer: Any) -> models.KeyInfo:
    """Read what is kept of a key."""
    try:
        return models.KeyInfo(
            id=answer["id"],
            team_id=answer["team_id"],
            name=answer["name"],
            kind=answer["kind"],
            hint=answer["hint"],
            created_at=datetime.fromisoformat(answer["created_at"]),
            last_used_at=_moment(answer["last_used_at"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise strange(error) from error


def new_key(answer: Any) -> models.NewKey:
    """Read a key that was just made."""
    info = key(answer)
    try:
        return models.NewKey(info=info, key=str(answer["key"]))
    except KeyError as error:
        raise strange(error) from error


def usage(answer: Any) -> models.Usage:
    """Read what a sandbox uses."""
    try:
        return models.Usage(
            cpu_seconds=float(answer["cpu_seconds"]),
            memory_bytes=int(answer["memory_bytes"]),
            disk_bytes=int(answer["disk_bytes"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise strange(error) from error


def period(start: datetime | None, end: datetime | None) -> dict[str, str]:
    """
    Write a time that is asked for.

    Raises:
        InvalidArgumentError: a moment has no time zone.
    """
    moments = {name: moment for name, moment in (("start", start), ("end", end)) if moment is not None}
    for name, moment in moments.items():
        if moment.tzinfo is None:
            raise InvalidArgumentError(f"{name} must have a time zone: {moment}.")
    return {name: moment.isoformat() for name, moment in moments.items()}


def memory_kills(answer: Any) -> list[models.MemoryKill]:
    """Read which processes were killed for memory."""
    try:
        return [
            models.MemoryKill(
                pid=int(one["pid"]), command=str(one["command"]), resident_bytes=int(one["resident_bytes"])
            )
            for one in answer
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise strange(error) from error


def metrics(answer: Any) -> list[models.Metric]:
    """Read what a sandbox used."""
    try:
        return [
            models.Metric(
                at=datetime.fromisoformat(one["at"]),
                cores=float(one["cores"]),
                memory_bytes=int(one["memory_bytes"]),
                cache_bytes=int(one["cache_bytes"]),
                disk_bytes=int(one["disk_bytes"]),
            )
            for one in answer
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise strange(error) from error


def log_lines(answer: Any) -> list[models.LogLine]:
    """Read a log."""
    try:
        return [
            models.LogLine(
                at=datetime.fromisoformat(one["at"]),
                level=str(one["level"]),
                message=str(one["message"]),
                fields={str(name): str(value) for name, value in one["fields"].items()},
            )
            for one in answer
        ]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise strange(error) from error


def _limits(answer: Mapping[str, Any]) -> models.Limits:
    return models.Limits(
        cpus=float(answer["cpus"]),
        memory_bytes=int(answer["memory_bytes"]),
        processes=int(answer["processes"]),
        disk_bytes=int(answer["disk_bytes"]),
    )


def _incoming(answer: Mapping[str, Any]) -> Incoming:
    return Incoming(
        public=bool(answer["public"]),
        mask_host=str(answer["mask_host"]),
        https_ports=tuple(int(port) for port in answer["https_ports"]),
    )


def _fall(answer: Mapping[str, Any] | None) -> models.Fall | None:
    if answer is None:
        return None
    return models.Fall(
        reason=str(answer["reason"]),
        at=datetime.fromisoformat(answer["at"]),
        snapshot_id=answer["snapshot_id"],
        times=int(answer["times"]),
        back_at=_moment(answer["back_at"]),
        problem=answer["problem"],
    )


def _moment(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


def strange(error: Exception) -> InternalError:
    """Say that an answer is none of those that are known."""
    return InternalError(
        "The server's answer has another form than this SDK knows.",
        details=f"{type(error).__name__}: {error}",
        resolution="Do SDK and server have the same version? `pip show atoll` on both sides tells.",
    )


def process_info(message: ps.ProcessInfo) -> models.ProcessInfo:
    """Read a command of the list."""
    config = message.config or ps.ProcessConfig()
    return models.ProcessInfo(
        pid=message.pid,
        argv=(config.cmd, *config.args),
        cwd=config.cwd or None,
        env=dict(config.envs),
    )


_FILE_TYPES = {
    fs.FileType.FILE: models.FileType.FILE,
    fs.FileType.DIRECTORY: models.FileType.DIRECTORY,
    fs.FileType.SYMLINK: models.FileType.SYMLINK,
}

_CHANGES = {
    fs.EventType.CREATE: models.FileChange.CREATE,
    fs.EventType.WRITE: models.FileChange.WRITE,
    fs.EventType.REMOVE: models.FileChange.REMOVE,
    fs.EventType.RENAME: models.FileChange.RENAME,
    fs.EventType.CHMOD: models.FileChange.CHMOD,
}


def file_info(message: fs.EntryInfo | None) -> models.FileInfo:
    """Read an entry of a directory."""
    if message is None:
        raise strange(ValueError("no entry"))
    modified: datetime | None = None
    if (stamp := message.modified_time) is not None:
        # The guest chose it: it may be a year that no calendar has.
        with suppress(ValueError, OverflowError, OSError):
            modified = datetime.fromtimestamp(stamp.seconds + stamp.nanos / 1e9, UTC)
    return models.FileInfo(
        name=message.name,
        path=message.path,
        type=_FILE_TYPES.get(message.type, models.FileType.OTHER),
        size=message.size,
        mode=message.mode,
        permissions=message.permissions,
        owner=message.owner,
        group=message.group,
        modified_at=modified,
        symlink_target=message.symlink_target or None,
    )


def file_event(message: fs.FilesystemEvent) -> models.FileEvent:
    """Read what happened to a file."""
    return models.FileEvent(name=message.name, change=_CHANGES.get(message.type, models.FileChange.OTHER))


def output(data: ps.ProcessEvent.DataEvent) -> models.Output | None:
    """Read a piece of output; None for a kind that this SDK does not know."""
    match data.output:
        case None:
            return None
        case one:
            return models.Output(stream=models.Stream(one.field), data=one.value)


# What Go's os.ProcessState.String() says of the signals that end commands, which the daemon sends as status.
# The numbers are Linux's, where the command ran: other systems have others.
_SIGNALS = {
    "hangup": 1, "interrupt": 2, "quit": 3, "illegal instruction": 4, "trace/breakpoint trap": 5,
    "aborted": 6, "bus error": 7, "floating point exception": 8, "killed": 9, "user defined signal 1": 10,
    "segmentation fault": 11, "user defined signal 2": 12, "broken pipe": 13, "alarm clock": 14,
    "terminated": 15, "cpu time limit exceeded": 24, "file size limit exceeded": 25,
}  # fmt: skip


def exit_code(end: ps.ProcessEvent.EndEvent) -> int:
    """Return a command's code, 128 + n when signal n ended it; 128 for a signal that is not known."""
    if end.exited or end.exit_code >= 0:
        return end.exit_code
    name = end.status.removeprefix("signal: ").removesuffix(" (core dumped)")
    if name.startswith("signal ") and name.removeprefix("signal ").isdecimal():
        return 128 + int(name.removeprefix("signal "))
    return 128 + _SIGNALS.get(name, 0)


def path_word(sandbox_id: str) -> str:
    """
    Check that an id cannot name another path.

    Raises:
        InvalidArgumentError: it has characters that no id has.
    """
    if not re.fullmatch(r"[A-Za-z0-9-]{1,64}", sandbox_id):
        raise InvalidArgumentError(f"{sandbox_id[:64]!r} is no id.")
    return sandbox_id


def call_name(name: str) -> str:
    """
    Check the name of a call.

    Raises:
        InvalidArgumentError: it has another form.
    """
    if not re.fullmatch(r"[a-z0-9-]{1,255}", name):
        raise InvalidArgumentError(f"An idempotency key is 1 to 255 of a-z, 0-9 and -, not {name[:64]!a}.")
    return name


# Connect's header takes ten digits: 115 days. Who gives more means "never".
_MOST_MILLISECONDS = 9_999_999_999


def milliseconds(seconds: float) -> int:
    """
    Check a timeout and return it in milliseconds.

    Raises:
        InvalidArgumentError: negative, or no number.
    """
    if not 0 <= seconds < float("inf"):
        raise InvalidArgumentError(f"timeout must be a number of seconds, 0 or more, not {seconds!r}.")
    return min(max(1, round(seconds * 1000)), _MOST_MILLISECONDS)
