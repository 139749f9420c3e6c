"""The flags that every call of runsc gets."""

FLAGS = (
    "--network=sandbox",
    # sudo works inside.
    "--allow-suid",
    # guestd keeps each command in a group of its own; version 2 can kill a group.
    "--in-sandbox-cgroup=v2",
    # Checked and raised by `atoll up`, once, and not at each start.
    "--host-settings=ignore",
    # A checkpoint of a sandbox that goes on marks its connections as ended, unless it is told this.
    "--allow-connected-on-save",
)
