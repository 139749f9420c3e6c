"""Every bound of the interpreter, with the reason for its value."""

# What E2B's clients ask for.
PORT = 49999
# Clients' proxies keep a connection for 600 s.
KEEP_ALIVE_S = 640
# Silence after which a stream says that it lives, for the proxies on its way.
SILENCE_S = 5.0
# What an item is held for that something is due behind: each write costs a client half a millisecond.
HELD_S = 0.05
# What is sent at once of items that wait.
BATCH_BYTES = 64 << 10
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
# Of output of one execution; then it is interrupted. Clients hold all of it in memory, and so do we while a
# client is slow: a kernel whose messages nobody takes keeps them itself, and drops some in the end.
OUTPUT_BYTES = 64 << 20
# Messages that are read ahead: the library's 1,000, with a megabyte each, would be all memory.
MESSAGES_AHEAD = 2
# Variables of one execution, and their size: they become a line of code.
ENV_VARIABLES = 256
ENV_BYTES = 512 << 10
