package edge

import (
	"context"
	"errors"
	"net/http"
	"strings"
)

// proof is what a request shows instead of a sandbox's id: its access token, or a signature made with it.
// Signed URLs of E2B's clients say nothing else where all sandboxes share one address, and older clients leave the
// routing headers out of some requests. It is always guestd that is meant; guestd judges what it is shown itself.
type proof struct {
	token  string
	signed *signedFile
}

// signedFile is the query of a signed URL.
type signedFile struct {
	Path      string `json:"path"`
	Operation string `json:"operation"`
	User      string `json:"user"`
	Expires   string `json:"expires"`
	Signature string `json:"signature"`
}

const (
	tokenHeader = "X-Access-Token"
	// proofBytes bounds a token or signature, and signedBytes what was signed: a path of the kernel's greatest length.
	proofBytes  = 1024
	signedBytes = 8192
)

// findProof returns what a request for a path of guestd's shows, nil if it shows nothing.
func findProof(r *http.Request) *proof {
	if !isDaemonPath(r.URL.Path) {
		return nil
	}
	if token := r.Header.Get(tokenHeader); token != "" && len(token) <= proofBytes {
		return &proof{token: token}
	}
	if r.URL.Path != "/files" {
		return nil
	}
	query := r.URL.Query()
	signed := &signedFile{
		Path: query.Get("path"), User: query.Get("username"), Operation: "read",
		Expires: query.Get("signature_expiration"), Signature: query.Get("signature"),
	}
	if r.Method == http.MethodPost {
		signed.Operation = "write"
	}
	if signed.Signature == "" || len(signed.Signature) > proofBytes || len(r.URL.RawQuery) > signedBytes {
		return nil
	}
	return &proof{signed: signed}
}

// isDaemonPath: the API has none of these.
func isDaemonPath(path string) bool {
	return path == "/files" || path == "/files/compose" || path == "/envs" ||
		strings.HasPrefix(path, "/process.Process/") || strings.HasPrefix(path, "/filesystem.Filesystem/")
}

// prover finds out whose proof is shown. Few may ask at once: the server tries every sandbox.
type prover struct {
	control *control
	slots   chan struct{}
}

func newProver(control *control, limits *Limits) *prover {
	return &prover{control: control, slots: make(chan struct{}, limits.Proofs)}
}

// identify returns a sandbox's id, or errNotFound.
func (p *prover) identify(ctx context.Context, shown *proof) (string, error) {
	select {
	case p.slots <- struct{}{}:
		defer func() { <-p.slots }()
	case <-ctx.Done():
		return "", ctx.Err()
	}
	return p.control.identify(ctx, shown)
}

// refuse answers as guestd does: clients match its words.
func (p *proof) refuse(w http.ResponseWriter, err error) {
	var refused *serverRefusal
	switch {
	case errors.As(err, &refused) && !refused.mayPass():
		writeAPIError(w, refused.status, refused.message)
	case !errors.Is(err, errNotFound):
		w.Header().Set("Retry-After", "1")
		writeAPIError(w, http.StatusServiceUnavailable, serverAwayMessage)
	case p.signed != nil:
		writeAPIError(w, http.StatusUnauthorized, "invalid signature")
	default:
		writeAPIError(w, http.StatusUnauthorized,
			"unauthorized access, please provide a valid access token or method signing if supported")
	}
}
