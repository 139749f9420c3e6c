"""What operators can change about the gVisor runtime: each with its default and its reason."""

from dataclasses import dataclass

MIB = 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class GVisorOptions:
    """
    Limits and patience of the gVisor runtime. Sizes in bytes, times in seconds.

    Attributes:
        memory_reserve_bytes: the host's wall stands so much above the promised memory. It holds the sentry
            itself (some 30 MB), and what programs take until one is killed: 10 to 30 MB when one of them is
            greedy, 300 MB when ten are at once on two cores. A sentry that needs a thread while it stands at
            the wall ends, and the machine with it (with 128 MiB in three of eight such storms, with 640 MiB
            in one of 28), so the wall keeps out of the way of what guestd can end.
        memory_wall_step_bytes: on cgroup v1 programs wait at the wall until it is set so much higher, and one
            of them is killed. They take 1.5 GB in each second that a busy host lets the server wait for the
            processor, so the wall alone would fall under load.
        memory_wall_steps: how often the wall is set higher; then the machine has its end.
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
        pause_timeout_s: how long programs may take to stand still for a checkpoint; milliseconds, unless the
            sandbox hangs or waits for the host's disk.
        save_timeout_s: for writing a checkpoint, beside what its size needs.
        save_bytes_a_second: what a slow disk takes at least; 512 MB were written and synced in 1.1 s.
        probe_timeout_s: how long a sandbox may take to answer whether it lives; milliseconds when it does.
        hung_timeout_s: the same for one that does not accept connections: after that it is ended, so longer
            than a host that is overloaded keeps an answer back.
        kill_timeout_s: how long killed processes may take to be gone; freeing a gigabyte takes 0.1 s.
        remove_timeout_s: how long control groups may stay busy after that.
        memory_near: the part of the promise that, once exceeded, has a sandbox looked at again and again. The
            kernel tells when it is exceeded, but not when the cache of files holds the use there for good.
        memory_growth: how fast memory can grow, in bytes per second: the next look is taken before it could
            have reached the promise. One program filled 1.5 GB/s.
        memory_look_s: the shortest pause between looks at one sandbox. A look takes 50 µs, so one that stays
            right below its promise costs 1 % of a core.
        memory_survey_s: the longest pause between looks at a sandbox that is above ``memory_near`` or not far
            below, or of which the kernel does not tell.
        memory_told_survey_s: the same for one that is well below (three quarters of that), where the kernel
            tells when it comes near (on cgroup v2: when it is at its promise), so that a look finds nothing
            that was not told. A look takes 10 µs.
        memory_kills_a_look: how often processes are killed before use is looked at from the start again;
            beyond, the guest does not get its memory down, and the wall decides.
        memory_kill_pause_s: how long a killed process may take to give its memory back before the next is
            killed, unless memory grows meanwhile; 20-70 ms were seen on a quiet machine.
        memory_refused_pause_s: a guest that was asked to kill and refused is asked again after so long, not
            at once: its sentry is probed each time, and root inside can have every call refused.
        events: events that nobody has read yet; more mean that nobody reads. Then events are lost, and all
            machines are looked at instead.
    """

    memory_reserve_bytes: int = 640 * MIB
    memory_wall_step_bytes: int = 16 * MIB
    memory_wall_steps: int = 8
    outer_processes_factor: int = 4
    outer_processes_base: int = 256
    shm_bytes: int = 64 * MIB
    open_files: int = 1_048_576
    least_free_disk_bytes: int = 512 * MIB
    start_timeout_s: float = 30.0
    pause_timeout_s: float = 10.0
    save_timeout_s: float = 30.0
    save_bytes_a_second: int = 50 * MIB
    probe_timeout_s: float = 2.0
    hung_timeout_s: float = 10.0
    kill_timeout_s: float = 20.0
    remove_timeout_s: float = 5.0
    memory_near: float = 0.6
    memory_growth: int = 2048 * MIB
    memory_look_s: float = 0.005
    memory_survey_s: float = 1.0
    memory_told_survey_s: float = 15.0
    memory_kills_a_look: int = 64
    memory_kill_pause_s: float = 0.3
    memory_refused_pause_s: float = 2.0
    events: int = 10_000
