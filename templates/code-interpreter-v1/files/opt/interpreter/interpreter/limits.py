"""Every bound of the interpreter, with the reason for its value."""

# What E2B's clients ask for.
PORT = 49999
# Clients' proxies keep a connection for 600 s.
KEEP_ALIVE_S = 640
# Silence after which a stream says that it lives, for the proxies on its way.
SILENCE_S = 5.0
# A request is a piece of code; data belongs into files.
BODY_BYTES = 32 << 20
# Each context has a process of some 60 MB.
CONTEXTS = 32
# Java's kernel takes 2 s on a quiet machine.
START_S = 45.0
# What a kernel has to begin with an answer to its subscription; it takes a millisecond.
SUBSCRIBE_S = 0.2
# An interrupted kernel that goes on for so long is killed, and so is one that will not end.
INTERRUPT_S = 10.0
# An answer comes on two sockets; when one has come, the other is due.
STRAGGLER_S = 5.0
# Messages that wait for a slow client; then the kernel's own queue fills, and drops what it cannot keep.
QUEUED_MESSAGES = 256
# Of output of one execution; then it is interrupted. Clients hold all of it in memory.
OUTPUT_BYTES = 64 << 20
# Variables of one execution, and their size: they become a line of code.
ENV_VARIABLES = 256
ENV_BYTES = 512 << 10
