package edge

import (
	"context"
	"encoding/json"
	"net/http"
	"net/netip"
	"os"
	"time"
)

// status is what the server reads before it takes over a running edge.
type status struct {
	Version     string    `json:"version"`
	PID         int       `json:"pid"`
	Listen      []string  `json:"listen"`
	TLSListen   []string  `json:"tls_listen"`
	StartedAt   time.Time `json:"started_at"`
	Routes      int       `json:"routes"`
	Connections int64     `json:"connections"`
	// Certificate is nothing where TLS is not spoken.
	Certificate *shownCertificate `json:"certificate"`
	Flags       flags             `json:"flags"`
}

// shownCertificate is what clients are shown now.
type shownCertificate struct {
	// Signed says whether the authority of the flags has signed it, or whether it stands in until then.
	Signed bool      `json:"signed"`
	EndsAt time.Time `json:"ends_at"`
	// Failure is why the last try to have one signed failed; empty when it did not. FailedAt is when.
	Failure  string    `json:"failure,omitempty"`
	FailedAt time.Time `json:"failed_at,omitzero"`
}

// flags is what we were started with.
type flags struct {
	Listen        []string     `json:"listen"`
	TLSListen     []string     `json:"tls_listen"`
	TLSCert       string       `json:"tls_cert"`
	TLSKey        string       `json:"tls_key"`
	Domain        string       `json:"domain"`
	ZoneListen    string       `json:"zone_listen"`
	ZoneAddresses []netip.Addr `json:"zone_addresses"`
	PublicZone    string       `json:"public_zone"`
	ACMEDirectory string       `json:"acme_directory"`
	ACMEEmail     string       `json:"acme_email"`
	ACMEStorage   string       `json:"acme_storage"`
	ACMERoots     string       `json:"acme_roots"`
	API           string       `json:"api"`
	Control       string       `json:"control"`
	Admin         string       `json:"admin"`
	DNSListen     string       `json:"dns_listen"`
	EgressListen  string       `json:"egress_listen"`
	EgressMark    int          `json:"egress_mark"`
	EgressCA      string       `json:"egress_ca"`
	EgressRoots   string       `json:"egress_roots"`
	// EgressProxyNetworks in CIDR form.
	EgressProxyNetworks []netip.Prefix `json:"egress_proxy_networks"`
	Range               string         `json:"range"`
	Log                 string         `json:"log"`
	LogBytes            int64          `json:"log_bytes"`
	LogFiles            int            `json:"log_files"`
}

// adminServer serves the server, on a socket that only the home's owner can open.
func (e *Edge) adminServer() *http.Server {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, http.StatusOK, e.status())
	})
	mux.HandleFunc("DELETE /v1/routes/{id}", func(w http.ResponseWriter, r *http.Request) {
		e.routes.forget(r.PathValue("id"))
		e.policies.Forget(r.PathValue("id"), "")
		w.WriteHeader(http.StatusNoContent)
	})
	mux.HandleFunc("POST /v1/routes/{id}/retire", e.retire)
	mux.HandleFunc("POST /v1/routes/{id}/ask-again", func(w http.ResponseWriter, r *http.Request) {
		e.routes.askAgain(r.PathValue("id"))
		w.WriteHeader(http.StatusNoContent)
	})
	mux.HandleFunc("DELETE /v1/egress/{id}", func(w http.ResponseWriter, r *http.Request) {
		e.policies.Forget(r.PathValue("id"), r.URL.Query().Get("unless"))
		w.WriteHeader(http.StatusNoContent)
	})
	mux.HandleFunc("POST /v1/upstreams", e.judgeUpstream)
	mux.HandleFunc("POST /v1/stop", func(w http.ResponseWriter, _ *http.Request) {
		// Whole before we begin to end, which closes this connection too.
		w.Header().Set("Content-Length", "0")
		w.WriteHeader(http.StatusAccepted)
		_ = http.NewResponseController(w).Flush()
		e.Stop()
	})
	return &http.Server{Handler: mux, ReadHeaderTimeout: e.config.Limits.HeaderTime}
}

// retire forgets a route that no request used for so long, and says how long that takes at least.
func (e *Edge) retire(w http.ResponseWriter, r *http.Request) {
	var question struct {
		IdleMS int64 `json:"idle_ms"`
	}
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 4<<10)).Decode(&question); err != nil || question.IdleMS <= 0 {
		writeJSON(w, http.StatusBadRequest, map[string]string{"message": "idle_ms is a number above 0"})
		return
	}
	left := e.routes.retire(r.PathValue("id"), time.Duration(question.IdleMS)*time.Millisecond)
	// Rounded up: less than a millisecond is not none.
	writeJSON(w, http.StatusOK, map[string]int64{"left_ms": (left + time.Millisecond - 1).Milliseconds()})
}

// judgeUpstream says whether a proxy may be at a host, before a sandbox is given it.
func (e *Edge) judgeUpstream(w http.ResponseWriter, r *http.Request) {
	var question struct {
		Host string `json:"host"`
	}
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 4<<10)).Decode(&question); err != nil {
		writeJSON(w, http.StatusBadRequest, map[string]string{"message": err.Error()})
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), e.config.Limits.NameTotal)
	defer cancel()
	if e.egress != nil {
		if _, err := e.egress.UpstreamAddresses(ctx, question.Host); err != nil {
			writeJSON(w, http.StatusUnprocessableEntity, map[string]string{"message": err.Error()})
			return
		}
	}
	w.WriteHeader(http.StatusNoContent)
}

// Stop has Wait return.
func (e *Edge) Stop() { e.stopOnce.Do(func() { close(e.stop) }) }

func (e *Edge) status() status {
	config := &e.config
	return status{
		Version: config.Version, PID: os.Getpid(), Listen: e.addresses, TLSListen: e.tlsAddresses, StartedAt: e.started.UTC(),
		Routes: e.routes.count(), Connections: e.open.Load(), Certificate: e.certificate(),
		Flags: flags{
			Listen: config.Listen, TLSListen: config.TLSListen, TLSCert: config.TLSCert, TLSKey: config.TLSKey, Domain: config.Domain, ZoneListen: config.ZoneListen, ZoneAddresses: config.ZoneAddresses,
			PublicZone: config.PublicZoneListen, ACMEDirectory: config.ACMEDirectory, ACMEEmail: config.ACMEEmail, ACMEStorage: config.ACMEStorage, ACMERoots: config.ACMERoots,
			API: config.API, Control: config.Control, Admin: config.Admin,
			DNSListen: config.NamesListen, EgressListen: config.EgressListen, EgressMark: config.EgressMark,
			EgressCA: config.EgressCA, EgressRoots: config.EgressRoots, EgressProxyNetworks: config.EgressProxyNetworks, Range: config.Range.String(),
			Log: config.LogFile, LogBytes: config.LogBytes, LogFiles: config.LogFiles,
		},
	}
}

func (e *Edge) certificate() *shownCertificate {
	shown := e.shown.Load()
	if shown == nil {
		return nil
	}
	found := &shownCertificate{EndsAt: shown.ends()}
	if manager := e.acme.Load(); manager != nil {
		failed := manager.Failure()
		found.Signed, found.Failure, found.FailedAt = manager.Certificate() != nil, failed.Message, failed.At
	}
	return found
}
