package edge

import "time"

// Limits are the bounds of an edge. All of them stand here; tests shorten some.
type Limits struct {
	// Connections is how many clients may be connected at once; more wait in the kernel's queue.
	// Each costs some 50 KB while it streams, so this is about 400 MB at the worst.
	Connections int
	// HeaderBytes bounds a request's line and headers (431 above). The server's own bound is 64 KB,
	// and net/http adds 4 KB of slack to what it is told.
	HeaderBytes int
	// HeaderTime is how long a client may take to send its headers: more than any honest line needs,
	// too little for somebody who sends one byte at a time to hold many connections.
	HeaderTime time.Duration
	// ClientIdle is how long a client's connection may stay open between requests.
	// E2B's servers keep theirs for 620 s, and clients expect to find a pooled one alive.
	ClientIdle time.Duration
	// LeftoverTime is how long we go on reading a body whose request has been answered already.
	LeftoverTime time.Duration
	// Streams bounds the requests on one HTTP/2 connection; net/http's own default.
	Streams int

	// SandboxRequests is how many requests one sandbox may have in flight (429 above),
	// so that one of them cannot take all of Connections.
	SandboxRequests int
	// SmallCall is the size up to which a call of guestd is read whole before it is handed on. Longer ones
	// are files, and carried as they come.
	SmallCall int64
	// Lifts is how many large bodies may be carried inside of the kernel at once; more are read and written. Each
	// holds up to 256 KB there and as much memory here, and two descriptors.
	Lifts int
	// AnswerHeaderBytes bounds what a sandbox may send before its body, informational answers included.
	AnswerHeaderBytes int64
	// ConnectTime is how long a sandbox may take to accept a connection, and for a handshake of TLS behind that. It is
	// on this machine: only one that hangs needs more than milliseconds, and one under load answers its SYN after 1 s
	// at the latest.
	ConnectTime time.Duration
	// GuestSilence is how long guestd may owe the answer to a request that it has as a whole before the server is told,
	// which asks it itself. The longest honest silences are longer, and cost one question; see silence.go.
	GuestSilence time.Duration
	// TunnelTime is how long guestd may take to connect to a loopback port inside.
	TunnelTime time.Duration
	// ConnectPauses are waited between the attempts at a port that is not open (yet): what E2B's proxy does.
	ConnectPauses []time.Duration
	// GreetTime bounds what is done for a new sandbox before its first request; it takes milliseconds.
	GreetTime time.Duration
	// IdlePerSandbox is how many unused connections of each kind are kept to one sandbox: to guestd, to other ports,
	// and for gRPC.
	IdlePerSandbox int
	// DaemonIdle is how long an unused connection to guestd is kept; guestd keeps its end longer.
	DaemonIdle time.Duration
	// PortIdle is the same for users' programs. Node and uvicorn close after 5 s, gunicorn after 2 s:
	// a request sent while the other end closes is lost, so we let go first.
	PortIdle time.Duration

	// Lookups is how many questions to the server may be under way at once.
	Lookups int
	// Proofs is how many questions may be under way that the server answers by trying every sandbox.
	Proofs int
	// LookupTime bounds one question. The server may resume the sandbox before it answers: that takes a tenth of a
	// second, and seconds where memory is unpacked first. It goes on when we do not wait any more.
	LookupTime time.Duration
	// ServerAway is how long requests wait while the server restarts, which takes 2 to 3 s.
	ServerAway time.Duration
	// RouteCheck is the least time between two questions about a sandbox that cannot be connected to.
	RouteCheck time.Duration
	// APIIdle is how long an unused connection to the server is kept; the server keeps its end 620 s.
	APIIdle time.Duration
	// APIBodyTime is how long a client may take to send the body of an API request: 1 MB at most.
	APIBodyTime time.Duration

	// StopTime is how long requests under way may go on after we were told to end, and questions to a name server
	// behind them.
	StopTime time.Duration

	// NameQuestions is how many DNS questions may be under way, and NameQuestionsPerSandbox how many of one
	// sandbox: npm asks some 50 at once. More are dropped, as by a full queue: resolvers ask again.
	NameQuestions           int
	NameQuestionsPerSandbox int
	// NameRate and NameBurst bound one sandbox's questions per second, so that it cannot have the host's
	// resolver refuse us all. npm, which caches nothing, asks in bursts of hundreds.
	NameRate  float64
	NameBurst int
	// ZoneRate bounds the questions per second of this machine, all its programs together: a program that asks in a
	// circle must not take a core.
	ZoneRate float64
	// PublicNameRate and PublicNameBurst bound the answers a second that the world gets at one address (64 bits of an
	// IPv6 one): senders can be made up, and what is answered hits who really has the address. A large resolver asks
	// for each name once a minute.
	PublicNameRate  float64
	PublicNameBurst int
	// NameTime is how long one resolver may take, over UDP and again over TCP; NameTotal bounds all of them together.
	// Resolvers in sandboxes give up after 5 s.
	NameTime  time.Duration
	NameTotal time.Duration
	// NameSources is how many sandboxes' rates are remembered before those at rest are dropped; as long as that many
	// are not at rest, no other address is answered.
	NameSources int

	// NameConnections is how many TCP connections to the name server may be open, NameConnectionsPerSandbox how many
	// of one sandbox. TCP is for the rare answer that UDP is too small for; each costs one of the edge's descriptors,
	// of which there can be as few as 20,000 for all, clients included.
	NameConnections           int
	NameConnectionsPerSandbox int

	// EgressConnections is how many connections to the world by name may be open, EgressConnectionsPerSandbox how many
	// of one sandbox. Each costs two descriptors, of which there can be as few as 20,000.
	EgressConnections           int
	EgressConnectionsPerSandbox int

	// ACMECheck is the time between two looks at whether a certificate by ACME is to be renewed: it has weeks left then,
	// or, of the kind that holds for days, two of them.
	ACMECheck time.Duration

	// LogRate and LogBurst bound the lines a second that faults may write: the log must not fill the disk.
	LogRate  float64
	LogBurst int
}

// DefaultLimits returns what an edge runs with.
func DefaultLimits() Limits {
	return Limits{
		Connections:  8192,
		HeaderBytes:  60 << 10,
		HeaderTime:   10 * time.Second,
		ClientIdle:   620 * time.Second,
		LeftoverTime: 5 * time.Second,
		Streams:      250,

		SandboxRequests:   1024,
		SmallCall:         16 << 10,
		Lifts:             128,
		AnswerHeaderBytes: 256 << 10,
		ConnectTime:       3 * time.Second,
		GuestSilence:      10 * time.Second,
		TunnelTime:        3 * time.Second,
		ConnectPauses: []time.Duration{
			100 * time.Millisecond, 200 * time.Millisecond, 300 * time.Millisecond, 400 * time.Millisecond,
		},
		GreetTime:      2 * time.Second,
		IdlePerSandbox: 16,
		DaemonIdle:     60 * time.Second,
		PortIdle:       time.Second,

		Lookups:     64,
		Proofs:      4,
		LookupTime:  30 * time.Second,
		ServerAway:  10 * time.Second,
		RouteCheck:  time.Second,
		APIIdle:     60 * time.Second,
		APIBodyTime: 60 * time.Second,

		StopTime: 2 * time.Second,

		NameQuestions:           1024,
		NameQuestionsPerSandbox: 128,
		NameRate:                500,
		NameBurst:               2000,
		ZoneRate:                20000,
		PublicNameRate:          200,
		PublicNameBurst:         1000,
		NameTime:                2 * time.Second,
		NameTotal:               4500 * time.Millisecond,
		NameSources:             4096,

		NameConnections:           1024,
		NameConnectionsPerSandbox: 32,

		EgressConnections:           4096,
		EgressConnectionsPerSandbox: 512,

		ACMECheck: 10 * time.Minute,

		LogRate:  2,
		LogBurst: 50,
	}
}
