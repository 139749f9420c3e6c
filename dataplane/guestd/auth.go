package guestd

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"

	"connectrpc.com/connect"

	"atoll.dev/dataplane/guestd/accounts"
	"atoll.dev/dataplane/guestd/commands"
	"atoll.dev/dataplane/guestd/files"
	"atoll.dev/dataplane/guestd/settings"
	"atoll.dev/dataplane/guestd/wire"
)

const (
	tokenHeader = "X-Access-Token"
	// unauthorized is the text that clients match.
	unauthorized = "unauthorized access, please provide a valid access token or method signing if supported"
)

type settingsKey struct{}

// configured refuses every request before the first Configure.
// A request lives under one configuration, whatever comes while it runs.
func (s *Server) configured(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		current := s.settings.Get()
		if current == nil {
			wire.Error(w, http.StatusServiceUnavailable, "the sandbox is starting: it has not been configured yet")
			return
		}
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), settingsKey{}, current)))
	})
}

func settingsOf(r *http.Request) *settings.Settings {
	return r.Context().Value(settingsKey{}).(*settings.Settings)
}

func equal(a, b string) bool { return subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1 }

// authorized demands the access token, if there is one.
func (s *Server) authorized(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if token := settingsOf(r).AccessToken; token != "" && !equal(r.Header.Get(tokenHeader), token) {
			wire.Error(w, http.StatusUnauthorized, unauthorized)
			return
		}
		next(w, r)
	}
}

// rpc authorizes a call, finds out who asks, and keeps Start's timeout from the RPC library (see commands).
func (s *Server) rpc(next http.Handler) http.Handler {
	errorWriter := connect.NewErrorWriter()
	return s.authorized(func(w http.ResponseWriter, r *http.Request) {
		name, _, _ := r.BasicAuth()
		who, err := caller(settingsOf(r), name)
		if err != nil {
			_ = errorWriter.Write(w, r, connect.NewError(connect.CodeUnauthenticated, err)) // The client may be gone.
			return
		}
		ctx, w := commands.WithStream(accounts.WithCaller(r.Context(), who), w)
		r = r.WithContext(ctx)
		r.Header.Del(commands.StartTimeoutHeader)
		if r.URL.Path == "/process.Process/Start" && r.Header.Get(commands.TimeoutHeader) != "" {
			r.Header.Set(commands.StartTimeoutHeader, r.Header.Get(commands.TimeoutHeader))
			r.Header.Del(commands.TimeoutHeader)
		}
		next.ServeHTTP(w, r)
	})
}

// signed takes the access token or a signature of the query.
func (s *Server) signed(operation string, next func(http.ResponseWriter, *http.Request, *accounts.Caller)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		current := settingsOf(r)
		if err := checkSignature(current.AccessToken, r.Header.Get(tokenHeader), r.URL.Query(), operation, unixNow()); err != nil {
			wire.Error(w, http.StatusUnauthorized, err.Error())
			return
		}
		name := r.URL.Query().Get("username")
		if name == "" {
			name, _, _ = r.BasicAuth()
		}
		who, err := caller(current, name)
		if err != nil {
			wire.Error(w, http.StatusUnauthorized, err.Error())
			return
		}
		next(w, r, who)
	}
}

// checkSignature decides about one request for a file. The texts are matched by clients.
func checkSignature(token, shown string, query url.Values, operation string, now int64) error {
	switch {
	case token == "":
		return nil
	case shown != "":
		if !equal(shown, token) {
			return errors.New("access token present in header but does not match")
		}
		return nil
	case query.Get("signature") == "":
		return errors.New("missing signature query parameter")
	}
	expiration := query.Get("signature_expiration")
	until, err := strconv.ParseInt(expiration, 10, 64)
	if expiration != "" && (err != nil || expiration != strconv.FormatInt(until, 10)) {
		return errors.New("invalid signature")
	}
	expected := signature(query.Get("path"), operation, query.Get("username"), token, expiration)
	if !equal(query.Get("signature"), expected) {
		return errors.New("invalid signature")
	}
	if expiration != "" && until < now {
		return errors.New("signature is already expired")
	}
	return nil
}

func signature(path, operation, user, token, expiration string) string {
	text := fmt.Sprintf("%s:%s:%s:%s", path, operation, user, token)
	if expiration != "" {
		text += ":" + expiration
	}
	sum := sha256.Sum256([]byte(text))
	return "v1_" + base64.RawStdEncoding.EncodeToString(sum[:])
}

// compose answers POST /files/compose.
func (s *Server) compose(w http.ResponseWriter, r *http.Request) {
	name, perform, err := files.ComposeUser(w, r)
	if err != nil {
		wire.Error(w, http.StatusBadRequest, err.Error())
		return
	}
	who, err := caller(settingsOf(r), name)
	if err != nil {
		wire.Error(w, http.StatusUnauthorized, err.Error())
		return
	}
	perform(who)
}

// serveEnv answers GET /envs: the variables that every command gets.
func (s *Server) serveEnv(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	wire.JSON(w, http.StatusOK, settingsOf(r).Env)
}
