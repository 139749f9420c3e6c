"""Control's limits: each with its default and its reason. ``settings/`` lets operators change them."""

import os
from dataclasses import dataclass, field
from datetime import timedelta

MIB = 1024 * 1024
GIB = 1024 * MIB


def _cores() -> int:
    return os.cpu_count() or 1


@dataclass(frozen=True, kw_only=True)
class ControlLimits:
    """
    What one server does at most, and how long it waits.

    Attributes:
        max_sandboxes: sandboxes that are not ended, of all teams. An idle one holds about 30 MB of the
            host's memory, so 500 of them are some 15 GB.
        max_timeout: the longest time between now and a deadline. A day, as E2B's largest plan has.
        concurrent_starts: starts under way at once. A start is bound by the processor, so more than two
            per core only makes each of them slower; default: two per core. Pauses, snapshots and resumes
            count, too.
        reserved_starts: starts and such beyond ``concurrent_starts``, for teams that have none under way.
            Pauses of large sandboxes take up to ``pause_timeout``: without these, all others would wait for
            those of one team. One team alone never gets them.
        queued_starts: creates that wait for their start. At 14 starts a second, 256 wait 20 s: less than
            the 60 s after which clients give up. A team that has most of them there makes room for one that
            has less.
        start_queue_timeout: how long a create waits for its start at most; clients give up after 60 s.
        guest_patience: how long a start or resume counts among those under way while only its guest is waited
            for. It takes milliseconds, and as long as a template's start command, or as programs inside like.
        start_timeout: how long a runtime may take for a start. It takes 0.2 s on a quiet machine, and
            some seconds on a full one. With the waits before and after it stays below the API's limit
            for a request.
        pause_timeout: how long a runtime may take to write a sandbox down; 512 MB take half a second on a
            quick disk, and 16 GB five minutes on a slow one.
        resume_timeout: how long a runtime may take to bring one back.
        paused_keeps_address: how long a paused sandbox keeps its address even when all are taken; later it
            may get another one when it is resumed. As long as Linux remembers a connection through NAT that
            says nothing: without that, the address is of no use.
        pause_again: after a failed pause at its deadline, for a full disk say, the sandbox runs on for so
            long, until the next try.
        settle_tries: how often it is tried to find and write what became of a pause or a failed resume,
            before its caller is told that this is not known yet; 5 tries take 15 s. It goes on behind that.
        wake_timeout: what traffic that wakes a sandbox gives it at least, as E2B does.
        restarts: how often in a row a sandbox comes back whose machine ends again soon; then it has failed.
        restart_lasts: one that ran so long since it came back begins to count anew.
        restart_tries: how often it is tried to bring one back; then it stays paused until somebody resumes
            it, or the server starts anew.
        restart_delay: pause before the second try; it doubles with each one.
        restart_delay_most: longest pause between tries.
        min_snapshot_every: the least time between snapshots on a schedule: the sandbox stands still for
            each, 0.1 to 0.5 s, and each is as large as the sandbox.
        max_kept_snapshots: those of one sandbox that a schedule may keep.
        snapshot_waits: how long a snapshot on a schedule lets creates and resumes that wait go first, at
            most.
        configure_timeout: how long guestd may take to accept its configuration; it takes milliseconds.
        concurrent_destroys: destroys under way at once: as many as starts, twice, since a full host is
            emptied before it is filled.
        forget_timeout: how long the edge may take to forget a route; includes restarting it.
        destroy_timeout: how long one attempt to destroy may take; a hung sentry is killed after seconds.
        destroy_attempts: attempts that a kill call waits for before it reports failure. The attempts
            go on behind it.
        destroy_retry_delay: pause before the second attempt; it doubles with each one.
        destroy_retry_delay_most: longest pause between attempts.
        park_timeout: how long ``atoll park`` takes to write down what is persistent before the machine stops;
            half of it with memory, the rest for what could not be, without. The systemd unit gives it 150 s,
            of which 30 go to what is under way, and some to a start of Python.
        close_timeout: how long a stopping server waits for creates and kills under way; systemd gives a
            service 90 s.
        keep_ended: how long rows of ended sandboxes are kept, for questions about their end.
        forget_every: how often those whose time has come are looked for; at most once a second.
        forgotten_at_once: rows that are deleted in one step, at least one; everybody waits for it. 25 take
            0.5 ms, and 20 ms when all have as much metadata as they may.
        metadata_pairs: pairs of metadata of one sandbox.
        metadata_key_bytes: bytes of a metadata key, in UTF-8.
        metadata_value_bytes: bytes of a metadata value, in UTF-8.
        env_pairs: environment variables of one sandbox.
        env_key_bytes: bytes of a variable's name, in UTF-8.
        env_value_bytes: bytes of a variable's value, in UTF-8; Linux takes 128 KiB for one string.
        env_total_bytes: bytes of all variables; exec takes 2 MiB for arguments and environment together.
        max_cpus: cores of one sandbox; default: what the host has.
        max_memory_bytes: memory of one sandbox.
        max_processes: processes and threads of one sandbox; Linux's own default for a host is 32768.
        max_disk_bytes: what one sandbox may write over its template.
        min_memory_bytes: less, and the template's own programs do not start.
        min_disk_bytes: less, and nothing useful can be written.
        min_processes: guestd's threads and a shell with its children.
        min_cpus: with less, a start takes longer than ``start_timeout``.
        egress_entries: entries of each list of a sandbox's network rules; the kernel looks through a list's
            networks in one step, however long it is, but it is written anew with every change.
        egress_dns_servers: name servers of one sandbox's own, as many as E2B allows; they are asked one after
            the other.
        egress_rules: domains whose requests get headers, in one sandbox's rules; as many as E2B allows.
        egress_headers: headers that one such rule gives, as many as E2B allows; their names have up to 64
            characters, their values up to 2,048.
        max_snapshots: snapshots of one team; each takes disk, up to what its sandbox has of memory and disk.
        max_forks: sandboxes of one fork; as many as E2B allows.
        max_teams: teams of this server.
        max_keys: API keys and access tokens of one team.
        max_secrets: secrets of one team; a list shows 100 at once.
        secret_value_bytes: bytes of a secret's value, in UTF-8; as many as E2B allows, and more than most
            servers take as a header.
        memory_kills_kept: kills for memory that are kept for questions, for each sandbox, as long as its row.
    """

    max_sandboxes: int = 500
    max_timeout: timedelta = timedelta(hours=24)
    concurrent_starts: int = field(
        default_factory=lambda: 2 * _cores(), metadata={"shown_default": "2 x cores"}
    )
    reserved_starts: int = 1
    queued_starts: int = 256
    start_queue_timeout: timedelta = timedelta(seconds=50)
    guest_patience: timedelta = timedelta(seconds=2)
    start_timeout: timedelta = timedelta(seconds=40)
    pause_timeout: timedelta = timedelta(minutes=6)
    resume_timeout: timedelta = timedelta(minutes=6)
    paused_keeps_address: timedelta = timedelta(days=5)
    pause_again: timedelta = timedelta(minutes=1)
    settle_tries: int = 5
    wake_timeout: timedelta = timedelta(minutes=5)
    restarts: int = 5
    restart_lasts: timedelta = timedelta(minutes=10)
    restart_tries: int = 6
    restart_delay: timedelta = timedelta(seconds=1)
    restart_delay_most: timedelta = timedelta(seconds=60)
    min_snapshot_every: timedelta = timedelta(seconds=30)
    max_kept_snapshots: int = 100
    snapshot_waits: timedelta = timedelta(minutes=1)
    configure_timeout: timedelta = timedelta(seconds=10)
    concurrent_destroys: int = field(
        default_factory=lambda: 4 * _cores(), metadata={"shown_default": "4 x cores"}
    )
    forget_timeout: timedelta = timedelta(seconds=15)
    destroy_timeout: timedelta = timedelta(seconds=60)
    destroy_attempts: int = 3
    destroy_retry_delay: timedelta = timedelta(milliseconds=200)
    destroy_retry_delay_most: timedelta = timedelta(seconds=60)
    park_timeout: timedelta = timedelta(seconds=90)
    close_timeout: timedelta = timedelta(seconds=30)
    keep_ended: timedelta = timedelta(days=7)
    forget_every: timedelta = timedelta(hours=1)
    forgotten_at_once: int = 25
    metadata_pairs: int = 64
    metadata_key_bytes: int = 256
    metadata_value_bytes: int = 4096
    env_pairs: int = 256
    env_key_bytes: int = 256
    env_value_bytes: int = 64 * 1024
    env_total_bytes: int = 512 * 1024
    max_cpus: float = field(default_factory=lambda: float(_cores()), metadata={"shown_default": "cores"})
    max_memory_bytes: int = 16 * GIB
    max_processes: int = 16384
    max_disk_bytes: int = 100 * GIB
    min_memory_bytes: int = 64 * MIB
    min_disk_bytes: int = 16 * MIB
    min_processes: int = 32
    min_cpus: float = 0.05
    memory_kills_kept: int = 16
    egress_entries: int = 256
    egress_dns_servers: int = 10
    egress_rules: int = 10
    egress_headers: int = 20
    max_snapshots: int = 200
    max_forks: int = 20
    max_teams: int = 1000
    max_keys: int = 1000
    max_secrets: int = 1000
    secret_value_bytes: int = 64 * 1024
