// Package limits names every bound of guestd, in one place, with the reason for its value.
// The guest is hostile and so are some callers: nothing that either can make grow is without a bound here.
package limits

import "time"

// The public and the private port.
const (
	// HeaderBytes bounds a request's headers; metadata takes 4 KiB of it, signatures and proxies the rest.
	HeaderBytes = 64 << 10
	// HeaderTimeout is how long a client may take to send its headers.
	HeaderTimeout = 30 * time.Second
	// IdleTimeout closes a connection without a request; longer than the 600 s that proxies keep theirs.
	IdleTimeout = 640 * time.Second
	// MessageBytes bounds one RPC message: clients send a command's whole input as one.
	MessageBytes = 16 << 20
	// CompressFrom is the smallest RPC message that is worth compressing for clients that ask for it.
	CompressFrom = 4 << 10
	// CORSMaxAge is how many seconds browsers keep the answer to a preflight request.
	CORSMaxAge = 7200
)

// The tunnel to loopback ports.
const (
	// Tunnels bounds tunnels that are open at once: the edge's own bound for a sandbox is lower.
	Tunnels = 2048
	// TunnelDial bounds connecting to a loopback port; a full backlog makes it wait.
	TunnelDial = 5 * time.Second
)

// Configuration.
const (
	// EnvVariables and EnvBytes bound the variables of the sandbox and those of one command:
	// the kernel takes 128 KiB for one string and about 2 MiB together.
	EnvVariables = 4096
	EnvBytes     = 1 << 20
	// NameBytes bounds user names, tags and volume names.
	NameBytes = 256
	// PathBytes is the kernel's own bound for a path.
	PathBytes = 4096
	// HostnameBytes is the kernel's own bound for a host name.
	HostnameBytes = 64
	// AuthorityBytes bounds what programs are told to trust: a few certificates.
	AuthorityBytes = 64 << 10
	// BundleBytes bounds what is read of a system's list of authorities; Debian's has 0.25 MB.
	BundleBytes = 8 << 20
	// TokenBytes bounds the access token.
	TokenBytes = 1024
	// NameServers is how many the C library reads.
	NameServers = 3
	// Volumes bounds the mounts of one sandbox.
	Volumes = 64
	// Processes is the highest process limit that can be asked for: Linux' own bound for pids.
	Processes = 4 << 20
	// ClockSkew is how wrong the clock may be before it is set.
	ClockSkew = time.Second
)

// HooksTimeout bounds what a sandbox runs after a restore before it lets anybody in: whoever resumes it waits.
const HooksTimeout = 2 * time.Second

// RehearsalTimeout bounds what a machine rehearses before it waits to be somebody's; it takes some 20 ms.
const RehearsalTimeout = 2 * time.Second

// The template's start command.
const (
	// LaunchTimeout is the longest that a template may take to be ready.
	LaunchTimeout = 300 * time.Second
	// LaunchPause is the time between two probes: short at first, since many programs are ready soon, then longer,
	// since a probe starts a shell.
	LaunchPause     = 20 * time.Millisecond
	LaunchPauseMost = 250 * time.Millisecond
	// LaunchOutput is how much of the end of what the command and its probe said is kept for an error: the host
	// reads answers of 4 KiB.
	LaunchOutput = 512
	// LaunchCommandBytes bounds the command and the probe.
	LaunchCommandBytes = 64 << 10
)

// Users.
//
// CachedUsers bounds the users that are remembered between calls.
const CachedUsers = 64

// Commands.
const (
	// Commands bounds commands that run at once; the process limit (1,024 by default) is reached first.
	Commands = 2048
	// ProcessReserve is the part of the process limit, one in so many, that no single command can take.
	ProcessReserve = 8
	// ToldBytes is how much of a program's name an error repeats: callers may send a whole message of it.
	ToldBytes = 256
	// Arguments bounds the number of arguments; their bytes are the kernel's to refuse.
	Arguments = 64 << 10
	// OutputChunk and TerminalChunk are the most bytes of one output event, as E2B's daemon sends them.
	OutputChunk   = 32 << 10
	TerminalChunk = 16 << 10
	// SubscriberQueue is how many events wait for one reader: with the largest chunks 512 KiB.
	SubscriberQueue = 16
	// SubscriberStall is how long a full queue may hold a command up before its reader is cut off.
	SubscriberStall = 30 * time.Second
	// Subscribers bounds the readers of one command.
	Subscribers = 64
	// OutputDrain is how long output is still read after the command's end while somebody else holds its pipe:
	// shells do not wait for process substitutions, which finish a moment later.
	OutputDrain = 100 * time.Millisecond
	// DrainBytes bounds what is read after OutputDrain: the largest pipe an unprivileged process can make.
	DrainBytes = 1 << 20
	// DiscardChunk is the buffer that empties the pipe of a command that has ended.
	DiscardChunk = 4 << 10
	// Retained is how long an ended command can still be connected to, and RetainedCommands how many.
	Retained         = 60 * time.Second
	RetainedCommands = 256
	// DeadlineSteps is in how many steps a timeout is counted, and LongestDeadlineStep bounds them: a sandbox that
	// is paused loses at most one.
	DeadlineSteps       = 16
	LongestDeadlineStep = time.Second
	// KeepAlive is the silence after which a stream says that it lives, when the caller names none;
	// KeepAliveLeast keeps a caller from making guestd tick.
	KeepAlive      = 90 * time.Second
	KeepAliveLeast = time.Second
	// KillTries bounds how often a group is killed until it is empty (5 s in all: a thousand processes take long to
	// end); KillPause is the first wait between, KillPauseMost the longest.
	KillTries     = 250
	KillPause     = time.Millisecond
	KillPauseMost = 20 * time.Millisecond
	// TerminalSide bounds rows and columns: the kernel keeps 16 bits.
	TerminalSide = 1<<16 - 1
)

// The journal, and output for those who come back.
const (
	// JournalLines bounds the lines that wait for the host: at their longest 5 MB, of commands as they are 0.3 MB.
	JournalLines = 1000
	// JournalText bounds a line's message and each of its fields.
	JournalText = 1 << 10
	// RecentBytes bounds the output that is held of one command for who comes back: some screens of text.
	RecentBytes = 128 << 10
	// RecentTotal bounds that of all commands: it is the sandbox's memory, which may be 64 MiB.
	RecentTotal = 4 << 20
	// RecentOverhead is what an event takes beside its bytes, so that single characters are bounded too.
	RecentOverhead = 256
	// JournalRead bounds what the host reads at once; it reads no more anyway.
	JournalRead = 48 << 10
)

// Files.
const (
	// ListEntries bounds the answer of one ListDir: about 15 MB of JSON.
	ListEntries = 50_000
	// MetadataKeyBytes is what the kernel leaves of 255 for a name after "user.e2b.".
	MetadataKeyBytes = 246
	// MetadataBytes bounds all metadata of one file: what ext4 keeps in one block.
	MetadataBytes = 4096
	// CopyBuffer is the unit in which files are copied: in gVisor a system call costs microseconds.
	CopyBuffer = 256 << 10
	// UploadParts bounds the parts of one multipart upload.
	UploadParts = 10_000
	// ComposeSources bounds the parts that one file is composed of.
	ComposeSources = 1000
	// RequestBytes bounds the JSON body of /files/compose: its sources at their longest path.
	RequestBytes = 5 << 20
	// Watchers bounds watchers of both kinds together.
	Watchers = 128
	// WatcherUnasked is how long a polled watcher must not have been asked before another may take its room:
	// one that is gone says nothing, and only when all are taken is it looked for.
	WatcherUnasked = time.Minute
	// WatchedDirectories bounds the directories of one recursive watcher: the kernel's old default per user.
	WatchedDirectories = 8192
	// WatcherEvents is how many events wait for a client that polls; the oldest go first, and it is told.
	WatcherEvents = 4096
)
