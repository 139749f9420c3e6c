"""Checks a caller's values against the limits; what passes is believed by all that follows."""

import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta

from atoll.server.control.limits import MIB, ControlLimits
from atoll.server.control.requests import LimitsOverride
from atoll.server.domain import egress, egress_rules
from atoll.server.domain.egress import EgressPolicy
from atoll.server.domain.egress_rules import RuleLimits
from atoll.server.domain.errors import InvalidArgumentError
from atoll.server.domain.identity import WorkloadToken
from atoll.server.domain.limits import Limits
from atoll.server.domain.team_limits import TeamLimits
from atoll.server.domain.upkeep import Upkeep

# Error texts repeat at most so much of what the caller sent.
MOST_QUOTED = 64
# Of one team; no server of ours answers more.
MOST_REQUESTS_PER_SECOND = 100_000


def check_timeout(timeout: timedelta, limits: ControlLimits, *, zero: bool = False) -> None:
    """
    Check a sandbox's time to live.

    Raises:
        InvalidArgumentError: negative, zero where that means nothing, or too long.
    """
    if timeout < timedelta() or (timeout == timedelta() and not zero):
        raise InvalidArgumentError(
            "Timeout must not be negative" if zero else "Timeout must be greater than 0"
        )
    if timeout > limits.max_timeout:
        hours = limits.max_timeout / timedelta(hours=1)
        raise InvalidArgumentError(f"Timeout cannot be greater than {hours:g} hours")


def check_upkeep(upkeep: Upkeep, limits: ControlLimits) -> Upkeep:
    """
    Check how a sandbox is to be kept, and return it.

    Raises:
        InvalidArgumentError: snapshots too often, too many or none of them kept, or no time to idle.
    """
    if upkeep.snapshot_every is not None and upkeep.snapshot_every < limits.min_snapshot_every:
        seconds = limits.min_snapshot_every.total_seconds()
        raise InvalidArgumentError(f"snapshot_every must be {seconds:g} seconds at least")
    if not 1 <= upkeep.keep_snapshots <= limits.max_kept_snapshots:
        raise InvalidArgumentError(f"keep_snapshots must be 1 to {limits.max_kept_snapshots}")
    if upkeep.idle_timeout is not None and upkeep.idle_timeout < timedelta(seconds=1):
        raise InvalidArgumentError("idle_timeout must be 1 second at least")
    return upkeep


def check_metadata(pairs: Mapping[str, str], limits: ControlLimits) -> None:
    """
    Check a sandbox's metadata.

    Raises:
        InvalidArgumentError: too many, too long, or no text.
    """
    _check_number("metadata", len(pairs), limits.metadata_pairs)
    for key, value in pairs.items():
        _check_text("metadata key", key, key, limits.metadata_key_bytes)
        _check_text("metadata value", key, value, limits.metadata_value_bytes)


def check_env(pairs: Mapping[str, str], limits: ControlLimits) -> None:
    """
    Check environment variables.

    Raises:
        InvalidArgumentError: too many, too long, no text, or a name that no process can have.
    """
    _check_number("environment variables", len(pairs), limits.env_pairs)
    total = 0
    for key, value in pairs.items():
        if not key or "=" in key:
            raise InvalidArgumentError(f"Environment variable name {_quoted(key)} is empty or contains '='")
        total += _check_text("environment variable name", key, key, limits.env_key_bytes)
        total += _check_text("environment variable", key, value, limits.env_value_bytes)
    if total > limits.env_total_bytes:
        raise InvalidArgumentError(
            f"Environment variables take {total} bytes together, more than {limits.env_total_bytes}"
        )


def check_egress(policy: EgressPolicy, limits: ControlLimits) -> EgressPolicy:
    """
    Check what a sandbox may reach, and return it as it is kept.

    Raises:
        InvalidArgumentError: no such policy is possible.
    """
    return egress.checked(
        policy,
        most_entries=limits.egress_entries,
        most_dns_servers=limits.egress_dns_servers,
        rule_limits=RuleLimits(domains=limits.egress_rules, headers=limits.egress_headers),
    )


def check_tokens_named(policy: EgressPolicy, tokens: Sequence[WorkloadToken]) -> None:
    """
    Check that a policy's rules name no token that the sandbox does not have.

    Raises:
        InvalidArgumentError: one does.
    """
    egress_rules.check_tokens_named(policy.rules, {token.name for token in tokens})


def check_filter(texts: Iterable[str], limits: ControlLimits) -> None:
    """
    Check what a list is filtered by.

    Raises:
        InvalidArgumentError: too much of it, or no text.
    """
    texts = list(texts)
    # Keys and values; each pair costs the database a look into an index.
    _check_number("filters", len(texts), 2 * limits.metadata_pairs)
    for text in texts:
        _check_text("filter", text, text, limits.metadata_value_bytes)


def sized(template: Limits, wish: LimitsOverride, limits: ControlLimits) -> Limits:
    """
    Return the size of a sandbox: the template's where the wish says nothing.

    Raises:
        InvalidArgumentError: smaller or larger than a sandbox can be.
    """
    size = Limits(
        cpus=template.cpus if wish.cpus is None else wish.cpus,
        memory_bytes=template.memory_bytes if wish.memory_bytes is None else wish.memory_bytes,
        processes=template.processes if wish.processes is None else wish.processes,
        disk_bytes=template.disk_bytes if wish.disk_bytes is None else wish.disk_bytes,
    )
    # What a template says was checked when it was built, on this machine or a larger one.
    if wish.cpus is not None:
        _check_range("CPUs", size.cpus, limits.min_cpus, limits.max_cpus)
    if wish.memory_bytes is not None:
        low, high = limits.min_memory_bytes, limits.max_memory_bytes
        _check_range("Memory", size.memory_bytes / MIB, low / MIB, high / MIB, " MiB")
    if wish.processes is not None:
        _check_range("Processes", size.processes, limits.min_processes, limits.max_processes)
    if wish.disk_bytes is not None:
        low, high = limits.min_disk_bytes, limits.max_disk_bytes
        _check_range("Disk", size.disk_bytes / MIB, low / MIB, high / MIB, " MiB")
    return size


def check_team_limits(wished: TeamLimits, limits: ControlLimits) -> None:
    """
    Check the limits of a team's own.

    Raises:
        InvalidArgumentError: one that is more than the server allows anybody, or less than makes sense.
    """
    if wished.max_sandboxes is not None:
        _check_range("Sandboxes", wished.max_sandboxes, 0, limits.max_sandboxes)
    if wished.max_cpus is not None:
        _check_range("CPUs", wished.max_cpus, limits.min_cpus, limits.max_cpus)
    if wished.max_memory_bytes is not None:
        low, high = limits.min_memory_bytes, limits.max_memory_bytes
        _check_range("Memory", wished.max_memory_bytes / MIB, low / MIB, high / MIB, " MiB")
    if wished.requests_per_second is not None:
        _check_range("Requests per second", wished.requests_per_second, 1, MOST_REQUESTS_PER_SECOND)


def _check_range(what: str, value: float, low: float, high: float, unit: str = "") -> None:
    if not math.isfinite(value) or not low <= value <= high:
        raise InvalidArgumentError(
            f"{what} must be between {low:g} and {high:g}{unit}, not {value:g}",
        )


def _check_number(what: str, number: int, most: int) -> None:
    if number > most:
        raise InvalidArgumentError(f"Too many {what}: {number}, at most {most}")


def _check_text(what: str, name: str, text: str, most: int) -> int:
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise InvalidArgumentError(f"The {what} {_quoted(name)} is not valid Unicode") from None
    if size > most:
        raise InvalidArgumentError(f"The {what} {_quoted(name)} has {size} bytes, at most {most}")
    if "\0" in text:
        raise InvalidArgumentError(f"The {what} {_quoted(name)} contains a NUL byte")
    return size


def _quoted(text: str) -> str:
    # ascii: what is quoted here may be no valid Unicode, and would break the answer as well.
    return ascii(text[:MOST_QUOTED])
