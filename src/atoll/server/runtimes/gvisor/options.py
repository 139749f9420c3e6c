"""What operators can change about the gVisor runtime: each with its default and its reason."""

from dataclasses import dataclass

MIB = 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class GVisorOptions:
    """
    Limits and patience of the gVisor runtime. Sizes in bytes, times in seconds.

    Attributes:
        memory_reserve_bytes: the host's wall stands so much above the promised memory. It holds the sentry
            itself (some 30 MB) and what allocators get between the crossing and the kill: at 1 GB/s up to
            60 MB were seen.
        outer_processes_factor: the host's limit on processes, as a multiple of the limit inside. The host
            counts the sentry's threads and a stub process or thread for each thread inside; reaching this
            limit ends the sandbox, so it only stands behind gVisor's own, which refuses a fork and no more.
        outer_processes_base: added to that multiple: the sentry's and gofer's own threads.
        shm_bytes: size of /dev/shm; never more than half of the sandbox's memory, as Linux has it.
        open_files: RLIMIT_NOFILE inside, as a cloud machine's systemd gives it.
        least_free_disk_bytes: a start is refused when the host's disk has less; running sandboxes may still
            fill it, since what they may write is promised more than once.
        start_timeout_s: from the start of runsc until guestd says that it is ready; 0.1 s on a quiet
            machine, seconds on one that starts dozens at once.
        probe_timeout_s: how long a sandbox may take to answer whether it lives; milliseconds when it does.
        kill_timeout_s: how long killed processes may take to be gone; freeing a gigabyte takes 0.1 s.
        remove_timeout_s: how long control groups may stay busy after that.
        memory_look_s: pause between looks at the memory of the sandboxes that are near their promise, since
            a crossing is not always reported; one look reads two small files.
        memory_near: what "near" is: the part of the promise that, once exceeded, has a sandbox looked at so.
        memory_survey_s: pause between looks at all sandboxes; some 20 µs for each.
        memory_kills_a_look: processes killed one after another before use is looked at from the start again;
            beyond, the guest does not get its memory down, and the wall decides.
        memory_kill_pause_s: how long a killed process may take to give its memory back before the next is
            killed; 20-70 ms were seen.
        events: events that nobody has read yet; more would mean that nobody reads.
    """

    memory_reserve_bytes: int = 128 * MIB
    outer_processes_factor: int = 4
    outer_processes_base: int = 256
    shm_bytes: int = 64 * MIB
    open_files: int = 1_048_576
    least_free_disk_bytes: int = 512 * MIB
    start_timeout_s: float = 30.0
    probe_timeout_s: float = 2.0
    kill_timeout_s: float = 20.0
    remove_timeout_s: float = 5.0
    memory_look_s: float = 0.1
    memory_near: float = 0.75
    memory_survey_s: float = 1.0
    memory_kills_a_look: int = 64
    memory_kill_pause_s: float = 0.1
    events: int = 10_000
