// Package guestd is PID 1 of every sandbox: E2B's daemon protocol on port 49983, the host's orders on port 49982.
//
// Before the host's first Configure the public port answers 503 to everything but GET /health.
// Nothing here ticks: an idle guestd sleeps until the kernel has something for it.
//
// What it needs from the runtime:
//   - to be PID 1, as root, without a terminal, standard input /dev/null, standard output a pipe: it writes the line
//     "ready" there when both ports listen, and then points 0, 1 and 2 at /dev/null;
//   - the capabilities of a container's root and CAP_SYS_ADMIN: to mount cgroup2 where there is none, to bind volumes
//     and to set the host name (CAP_SYS_TIME to set the clock; without it the clock stays as it is);
//   - cgroup v2 inside: in gVisor the flag --in-sandbox-cgroup=v2 of runsc (with it, clone3 into a cgroup, cgroup.kill and
//     pids.max work); a mount of type "cgroup" at /sys/fs/cgroup in the OCI spec is used if it is there, otherwise
//     guestd mounts the hierarchy at /run/atoll/cgroup, which only root can enter. Each command runs in a cgroup of its
//     own below /atoll, whose pids.max is the configured limit; guestd stays outside;
//   - in gVisor --allow-suid, for sudo;
//   - /proc, /dev with /dev/pts, and a writable /run and /etc;
//   - nothing of /dev/shm or /tmp.
//
// Linux exempts the init process from the OOM killer, and gVisor has none: guestd needs no oom_score_adj.
package guestd
