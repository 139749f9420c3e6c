// Package edge is the door to every sandbox: it finds the sandbox that a request is for and carries bytes both ways.
//
// A request goes client → door → findTarget → routes (which ask the server once a sandbox) → lease → sandbox,
// or to the server's API. Names that sandboxes look up go through here too (names.go).
// The edge decides nothing about sandboxes, keeps nothing on disk but what an authority on the network signed, and
// outlives the server.
package edge

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"atoll.dev/dataplane/acme"
	"atoll.dev/dataplane/egress"
	"atoll.dev/dataplane/volumes"
)

// Config is what an edge is told when it starts.
type Config struct {
	// Version is shown in the status.
	Version string
	// Listen are the addresses for clients.
	Listen []string
	// Domain is what names of the API and of sandboxes end in over TLS; requests go by their first label alone.
	Domain string
	// TLSListen are the addresses for clients that speak TLS, with the certificate and key in these files.
	TLSListen       []string
	TLSCert, TLSKey string
	// API and Control are the server's sockets; Admin is ours.
	API, Control, Admin string
	// NamesListen is the address for sandboxes' DNS questions; empty for none.
	NamesListen string
	// EgressListen is the address for sandboxes' connections that go by domains; empty for none.
	// EgressMark is the kernel's mark on what is sent to the world for sandboxes; 0 for none.
	EgressListen string
	EgressMark   int
	// EgressCA is a file with the authority that signs what sandboxes are shown for names of their rules; empty: no rule
	// works. EgressRoots is a file with authorities that servers of these names may be signed by, beside the host's.
	EgressCA    string
	EgressRoots string
	// EgressProxyNetworks are where sandboxes' proxies may be, though no sandbox reaches it.
	EgressProxyNetworks []netip.Prefix
	// Range holds the addresses of all sandboxes; nothing else is connected to, and nobody else may ask names.
	Range netip.Prefix
	// ZoneListen is where names of the domain are answered with ZoneAddresses, for programs of this machine, and all other
	// names as the host's resolvers do; empty for nowhere.
	ZoneListen    string
	ZoneAddresses []netip.Addr
	// PublicZoneListen is where names of the domain, and no others, are answered for everybody; empty for nowhere.
	PublicZoneListen string
	// ACMEDirectory is the address of an authority that is to sign our certificate; empty: none. ACMEEmail is told to it,
	// ACMEStorage is a directory of this alone, ACMERoots a file with authorities that its own certificate may be signed
	// by, beside the host's. Until it has signed one, TLSCert is shown.
	ACMEDirectory, ACMEEmail, ACMEStorage, ACMERoots string
	// Resolvers is the file that names the host's resolvers; /etc/resolv.conf unless said otherwise.
	Resolvers string
	// LogFile is where the log stands, LogBytes its length, LogFiles how many older ones are kept beside it.
	LogFile  string
	LogBytes int64
	LogFiles int
	Limits   Limits
	Log      *slog.Logger
}

// Edge is a running edge.
type Edge struct {
	config  Config
	started time.Time

	routes     *routes
	newcomers  *newcomers
	prover     *prover
	forward    *forwarder
	api        *apiForwarder
	volumes    *volumes.Handler
	public     *http.Server
	secure     *http.Server
	admin      *http.Server
	names      *names
	zone       *names
	publicZone *names
	known      *zone
	shown      atomic.Pointer[certificate]
	acme       atomic.Pointer[acme.Manager]
	policies   *egress.Policies
	egress     *egress.Proxy

	addresses    []string
	tlsAddresses []string
	open         atomic.Int64
	stop         chan struct{}
	stopOnce     sync.Once
	serving      sync.WaitGroup
	failed       chan error
}

// Start listens on every address and serves; it returns when all of them accept.
func Start(ctx context.Context, config Config) (*Edge, error) {
	e := &Edge{
		config: config, started: time.Now(), stop: make(chan struct{}),
		// One for each server below.
		failed: make(chan error, len(config.Listen)+len(config.TLSListen)+8),
	}
	if config.Domain != "" {
		e.known = newZone(config.Domain, config.ZoneAddresses)
	}
	limits := &e.config.Limits
	control := newControl(config.Control, limits)
	e.policies = egress.NewPolicies(control.egressAt)
	e.prover = newProver(control, limits)
	e.routes = newRoutes(control.route, config.Range.Masked(), limits, config.Log)
	e.routes.suspect = control.suspect
	e.routes.complain = control.silent
	e.forward = newForwarder(e.routes, limits, config.Log)
	e.newcomers = newNewcomers(e.routes, limits)
	e.api = newAPIForwarder(config.API, limits, e.newcomers, config.Log)
	e.volumes = volumes.NewHandler(control.volume, volumes.DefaultLimits())
	e.public = e.publicServer()
	e.secure = e.secureServer()
	e.admin = e.adminServer()
	if err := e.listen(ctx, control.valuesAt); err != nil {
		e.close()
		return nil, err
	}
	return e, nil
}

func (e *Edge) listen(ctx context.Context, values askValues) error {
	// First, since a second edge of the same home must not take anything from the one that runs.
	admin, err := listenPrivately(e.config.Admin)
	if err != nil {
		return fmt.Errorf("admin socket: %w", err)
	}
	e.serve(e.admin, admin)
	free := make(chan struct{}, e.config.Limits.Connections)
	for _, address := range e.config.Listen {
		listener, err := listenTCP(ctx, address)
		if err != nil {
			return err
		}
		e.addresses = append(e.addresses, listener.Addr().String())
		e.serve(e.public, newDoor(listener, free, &e.open))
	}
	if err := e.loadShown(); err != nil {
		return err
	}
	if err := e.listenNames(ctx, values); err != nil {
		return err
	}
	// Behind the names, by which it is asked at once, and before the first client who is shown something.
	if err := e.startACME(); err != nil {
		return err
	}
	return e.listenTLS(ctx, free)
}

func (e *Edge) listenNames(ctx context.Context, values askValues) error {
	if e.config.NamesListen != "" {
		names, err := startNames(ctx, &e.config, e.policies.DNSServers, e.failed)
		if err != nil {
			return err
		}
		e.names = names
		if err := e.listenEgress(ctx, values); err != nil {
			return err
		}
	}
	for _, one := range []struct {
		listen string
		start  func(context.Context, *Config, *zone, chan<- error) (*names, error)
		into   **names
	}{{e.config.ZoneListen, startZone, &e.zone}, {e.config.PublicZoneListen, startPublicZone, &e.publicZone}} {
		if one.listen == "" {
			continue
		}
		started, err := one.start(ctx, &e.config, e.known, e.failed)
		if err != nil {
			return fmt.Errorf("names of %s: %w", e.config.Domain, err)
		}
		*one.into = started
	}
	return nil
}

type askValues = func(context.Context, netip.Addr, []string) (map[string]string, error)

// listenEgress takes what the fence leads to us; names are resolved by the name server's means.
func (e *Edge) listenEgress(ctx context.Context, values askValues) error {
	if e.config.EgressListen == "" {
		return nil
	}
	listener, err := listenConfig().Listen(ctx, "tcp", e.config.EgressListen)
	if err != nil {
		return err
	}
	limits := &e.config.Limits
	door := newPeerDoor(listener, peers{e.config.Range.Masked()}, limits.EgressConnections, limits.EgressConnectionsPerSandbox)
	dialer := &net.Dialer{Control: egress.Marked(e.config.EgressMark)}
	config := egress.Config{
		Policies: e.policies, Resolve: e.names.lookup, Original: egress.OriginalDestination, Closed: egress.IsClosed,
		Dial: dialer.DialContext, DialProxy: (&net.Dialer{}).DialContext, ProxyNetworks: e.config.EgressProxyNetworks,
		Values: values, Limits: egress.DefaultLimits(), Log: e.config.Log,
	}
	if e.config.EgressCA != "" {
		if config.Authority, err = egress.LoadAuthority(e.config.EgressCA, config.Limits.Certificates); err != nil {
			listener.Close()
			return fmt.Errorf("egress authority: %w", err)
		}
	}
	if config.Roots, err = rootsWith(e.config.EgressRoots); err != nil {
		listener.Close()
		return fmt.Errorf("authorities of servers: %w", err)
	}
	e.egress = egress.Start(door, config)
	return nil
}

func (e *Edge) serve(server *http.Server, listener net.Listener) {
	e.serving.Go(func() {
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			e.failed <- err
		}
	})
}

// Addresses returns where clients are served in the clear, with the ports that the kernel chose.
func (e *Edge) Addresses() []string { return e.addresses }

// TLSAddresses returns where clients are served over TLS, with the ports that the kernel chose.
func (e *Edge) TLSAddresses() []string { return e.tlsAddresses }

// Wait returns when the context ends, somebody asked us to stop, or something broke; then nothing is served any more.
func (e *Edge) Wait(ctx context.Context) error {
	var failure error
	select {
	case <-ctx.Done():
	case <-e.stop:
	case failure = <-e.failed:
	}
	e.drain()
	return failure
}

// drain lets requests under way end, for a bounded time, and cuts the rest.
func (e *Edge) drain() {
	ctx, cancel := context.WithTimeout(context.Background(), e.config.Limits.StopTime)
	defer cancel()
	// What is left then is closed below.
	var both sync.WaitGroup
	both.Go(func() { _ = e.public.Shutdown(ctx) })
	both.Go(func() { _ = e.secure.Shutdown(ctx) })
	both.Wait()
	e.close()
}

func (e *Edge) close() {
	if e.egress != nil {
		e.egress.Close()
	}
	if manager := e.acme.Load(); manager != nil {
		manager.Close()
	}
	for _, names := range []*names{e.names, e.zone, e.publicZone} {
		if names != nil {
			names.close()
		}
	}
	// Their listeners are gone whatever these say.
	_ = e.public.Close()
	_ = e.secure.Close()
	e.newcomers.stop()
	e.routes.forgetAll()
	_ = e.admin.Close()
	e.serving.Wait()
}

func (e *Edge) publicServer() *http.Server {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	return e.clientServer(protocols)
}

func (e *Edge) clientServer(protocols *http.Protocols) *http.Server {
	limits := &e.config.Limits
	return &http.Server{
		Handler:           http.HandlerFunc(e.dispatch),
		Protocols:         protocols,
		ConnContext:       withClient,
		MaxHeaderBytes:    limits.HeaderBytes,
		ReadHeaderTimeout: limits.HeaderTime,
		IdleTimeout:       limits.ClientIdle,
		HTTP2:             &http.HTTP2Config{MaxConcurrentStreams: limits.Streams},
		// What clients do wrong is not our fault and no news.
		ErrorLog: slog.NewLogLogger(e.config.Log.Handler(), slog.LevelDebug),
	}
}

func (e *Edge) dispatch(w http.ResponseWriter, r *http.Request) {
	to, refused := findTarget(r)
	switch {
	case refused != nil:
		writeAPIError(w, refused.status, refused.message)
	case !to.isAPI():
		e.forward.serve(w, r, to)
	case strings.HasPrefix(r.URL.Path, volumes.Prefix):
		e.volumes.ServeHTTP(w, r)
	default:
		if shown := findProof(r); shown != nil {
			e.serveProven(w, r, shown)
			return
		}
		e.api.serve(w, r)
	}
}

func (e *Edge) serveProven(w http.ResponseWriter, r *http.Request, shown *proof) {
	id, err := e.prover.identify(r.Context(), shown)
	if err != nil {
		shown.refuse(w, err)
		return
	}
	e.forward.serve(w, r, target{id: id, port: daemonPort})
}
