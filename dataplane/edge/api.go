package edge

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"os"
	"time"
)

// apiForwarder carries requests to the server's API.
type apiForwarder struct {
	limits *Limits
	proxy  *httputil.ReverseProxy
}

func newAPIForwarder(socket string, limits *Limits, newcomers *newcomers, log *slog.Logger) *apiForwarder {
	return &apiForwarder{limits: limits, proxy: &httputil.ReverseProxy{
		Rewrite: func(pr *httputil.ProxyRequest) {
			pr.Out.URL.Scheme, pr.Out.URL.Host = "http", "api"
			pr.Out.URL.RawQuery = pr.In.URL.RawQuery
			pr.Out.Host = pr.In.Host
			pr.Out.Header.Del("X-Real-Ip")
			// The API has nothing to upgrade to.
			pr.Out.Header.Del("Upgrade")
			pr.Out.Header.Del("Connection")
			pr.Out.Header.Del("Http2-Settings")
			pr.SetXForwarded()
		},
		Transport:     newAPITransport(socket, limits),
		FlushInterval: -1,
		BufferPool:    buffers,
		ModifyResponse: func(answer *http.Response) error {
			newcomers.saw(answer)
			return nil
		},
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			explainAPI(w, r, err, log)
		},
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}}
}

// apiTransport keeps connections for what may be sent again if one of them breaks.
//
// A kept connection can end in the moment in which it is used, which happens whenever the server restarts. net/http
// then sends a GET once more by itself. Anything else gets a connection of its own: that costs a tenth of a
// millisecond, and is accepted by a server that lives or not at all.
type apiTransport struct{ kept, fresh *http.Transport }

func newAPITransport(socket string, limits *Limits) *apiTransport {
	kept := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialPatiently(ctx, socket, limits)
		},
		DisableCompression:     true,
		MaxIdleConns:           64,
		MaxIdleConnsPerHost:    64,
		IdleConnTimeout:        limits.APIIdle,
		MaxResponseHeaderBytes: limits.AnswerHeaderBytes,
		ExpectContinueTimeout:  time.Second,
		WriteBufferSize:        bufferBytes,
		ReadBufferSize:         bufferBytes,
	}
	fresh := kept.Clone()
	fresh.DisableKeepAlives = true
	fresh.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
		conn, err := dialPatiently(ctx, socket, limits)
		if err != nil {
			return nil, err
		}
		return &apiConn{Conn: conn}, nil
	}
	return &apiTransport{kept: kept, fresh: fresh}
}

func (t *apiTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	if isSafe(r.Method) && r.Body == nil {
		return t.kept.RoundTrip(r)
	}
	return t.fresh.RoundTrip(r)
}

// apiConn is a connection to the server that carries one request.
type apiConn struct {
	net.Conn
	words lastWords
}

func (c *apiConn) Write(p []byte) (int, error) { return c.words.write(c.Conn, p) }

func (t *apiTransport) CloseIdleConnections() { t.kept.CloseIdleConnections() }

func isSafe(method string) bool {
	return method == http.MethodGet || method == http.MethodHead || method == http.MethodOptions
}

func (f *apiForwarder) serve(w http.ResponseWriter, r *http.Request) {
	body := openBody(w, r, f.limits)
	defer body.leave()
	if hasBody(r) {
		// Without a bound, somebody without a key could hold connections by sending a byte now and then.
		_ = body.control.SetReadDeadline(time.Now().Add(f.limits.APIBodyTime))
		body.whenRead = func() { _ = body.control.SetReadDeadline(time.Time{}) }
		r = r.WithContext(context.WithValue(r.Context(), bodyKey{}, body))
		r.Body = body
	}
	f.proxy.ServeHTTP(w, r)
}

type bodyKey struct{}

func explainAPI(w http.ResponseWriter, r *http.Request, err error, log *slog.Logger) {
	body, sent := r.Context().Value(bodyKey{}).(*clientBody)
	switch {
	case sent && errors.Is(body.failure(), os.ErrDeadlineExceeded):
		writeAPIError(w, http.StatusRequestTimeout, "The request's body took too long")
	case r.Context().Err() != nil:
		// The client is gone. Returning would be an answer of 200.
		panic(http.ErrAbortHandler)
	case sent && body.unreadable():
		body.closeAfter(w)
		writeAPIError(w, http.StatusBadRequest, unreadableBody)
	case errors.Is(err, errServerAway):
		log.Error("request not forwarded: the server does not answer", "error", err)
		w.Header().Set("Retry-After", "1")
		writeAPIError(w, http.StatusServiceUnavailable, serverAwayMessage)
	default:
		log.Error("request lost: the server ended before it answered", "error", err)
		if !isSafe(r.Method) {
			// It may have been acted on.
			w.Header().Set("Should-Retry", "false")
		}
		writeAPIError(w, http.StatusBadGateway, "The server ended before it answered")
	}
}
