package guestd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/netip"
	"time"

	"connectrpc.com/connect"
	"github.com/rs/cors"

	"atoll.dev/dataplane/guestd/accounts"
	"atoll.dev/dataplane/guestd/commands"
	"atoll.dev/dataplane/guestd/files"
	"atoll.dev/dataplane/guestd/journal"
	"atoll.dev/dataplane/guestd/limits"
	"atoll.dev/dataplane/guestd/settings"
	"atoll.dev/dataplane/internal/gen/atoll/guest/v1/guestv1connect"
	"atoll.dev/dataplane/internal/gen/filesystem/filesystemconnect"
	"atoll.dev/dataplane/internal/gen/process/processconnect"
)

// Options is what guestd is told by its command line.
type Options struct {
	Version  string
	Gateways []netip.Addr // who may call the private port
	Reaper   *commands.Reaper
	Groups   *commands.Groups
	Root     string // of /etc and /run; "/" but in tests
}

// Server answers on both ports.
type Server struct {
	options  Options
	settings settings.Current
	journal  *journal.Journal
	table    *commands.Table
	metrics  *meter
	public   *http.Server
	private  *http.Server
}

// New returns a server that knows nothing of its sandbox yet.
func New(options Options) *Server {
	s := &Server{options: options, journal: new(journal.Journal), metrics: newMeter()}
	s.table = commands.NewTable(options.Reaper, options.Groups, s.journal)
	s.public = newHTTPServer(s.publicHandler())
	s.private = newHTTPServer(s.privateHandler())
	return s
}

func newHTTPServer(handler http.Handler) *http.Server {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	return &http.Server{
		Handler:           handler,
		Protocols:         protocols,
		ReadHeaderTimeout: limits.HeaderTimeout,
		IdleTimeout:       limits.IdleTimeout,
		MaxHeaderBytes:    limits.HeaderBytes,
		ErrorLog:          log.New(io.Discard, "", 0), // Nobody reads it: the guest's own output is not ours to use.
	}
}

// Serve answers until ctx ends or a port fails.
func (s *Server) Serve(ctx context.Context, public, private net.Listener) error {
	failed := make(chan error, 2)
	go func() { failed <- s.public.Serve(public) }()
	go s.rehearse()
	go func() { failed <- s.private.Serve(onlyFrom(private, s.options.Gateways)) }()
	var err error
	select {
	case err = <-failed:
	case <-ctx.Done():
	}
	return errors.Join(err, s.public.Close(), s.private.Close())
}

func handlerOptions() []connect.HandlerOption {
	return []connect.HandlerOption{
		connect.WithReadMaxBytes(limits.MessageBytes),
		connect.WithCompressMinBytes(limits.CompressFrom),
	}
}

func (s *Server) publicHandler() http.Handler {
	guarded := http.NewServeMux()
	s.addServices(guarded)
	guarded.HandleFunc("GET /files", s.signed("read", files.Download))
	guarded.HandleFunc("POST /files", s.signed("write", files.Upload))
	guarded.HandleFunc("POST /files/compose", s.authorized(s.compose))
	guarded.HandleFunc("GET /metrics", s.authorized(s.serveMetrics))
	guarded.HandleFunc("GET /envs", s.authorized(s.serveEnv))

	open := http.NewServeMux()
	open.HandleFunc("GET /health", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Cache-Control", "no-store")
		w.WriteHeader(http.StatusNoContent)
	})
	open.Handle("/", s.configured(guarded))
	return allowOrigins(open)
}

func (s *Server) addServices(mux *http.ServeMux) {
	path, handler := processconnect.NewProcessHandler(commands.NewService(s.table), handlerOptions()...)
	mux.Handle(path, s.rpc(handler))
	path, handler = filesystemconnect.NewFilesystemHandler(files.NewService(), handlerOptions()...)
	mux.Handle(path, s.rpc(handler))
}

// allowOrigins lets pages from anywhere call: they have to show the access token like everybody.
func allowOrigins(next http.Handler) http.Handler {
	return cors.New(cors.Options{
		AllowedOrigins: []string{"*"},
		AllowedMethods: []string{http.MethodHead, http.MethodGet, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete},
		AllowedHeaders: []string{"*"},
		ExposedHeaders: []string{
			"Location", "Cache-Control", "X-Content-Type-Options", "Content-Encoding", "Connect-Content-Encoding",
			"Grpc-Status", "Grpc-Message", "Grpc-Status-Details-Bin",
		},
		MaxAge: limits.CORSMaxAge,
	}).Handler(next)
}

func (s *Server) privateHandler() http.Handler {
	mux := http.NewServeMux()
	path, handler := guestv1connect.NewGuestServiceHandler(&guestService{server: s}, handlerOptions()...)
	mux.Handle(path, handler)
	tunnel := newTunnel()
	// The library's mux would redirect CONNECT's target.
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodConnect {
			tunnel.ServeHTTP(w, r)
			return
		}
		mux.ServeHTTP(w, r)
	})
}

// Listen opens a port on every address.
func Listen(port int) (net.Listener, error) {
	// No keep-alive probes: they would wake an idle guest four times a minute for each connection that somebody keeps,
	// and who is at the other end is on the same machine.
	quiet := net.ListenConfig{KeepAlive: -1}
	listener, err := quiet.Listen(context.Background(), "tcp", fmt.Sprintf(":%d", port))
	if err != nil {
		return nil, fmt.Errorf("port %d: %w", port, err)
	}
	return listener, nil
}

// caller returns who asks: the user of the request, or the sandbox's.
func caller(current *settings.Settings, name string) (*accounts.Caller, error) {
	if name == "" {
		name = current.User
	}
	user, err := accounts.Lookup(name)
	if err != nil {
		return nil, err
	}
	return &accounts.Caller{User: user, Settings: current}, nil
}

func unixNow() int64 { return time.Now().Unix() }
