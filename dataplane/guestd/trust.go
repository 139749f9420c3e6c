package guestd

import (
	"context"
	"encoding/pem"
	"errors"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"connectrpc.com/connect"
	"golang.org/x/sys/unix"

	"atoll.dev/dataplane/guestd/limits"
	guestv1 "atoll.dev/dataplane/internal/gen/atoll/guest/v1"
)

// bundles are the system's lists of authorities: Debian's, Red Hat's, Alpine's.
var bundles = []string{"etc/ssl/certs/ca-certificates.crt", "etc/pki/tls/certs/ca-bundle.crt", "etc/ssl/cert.pem"}

// ownAuthorities is where update-ca-certificates finds ours again.
const ownAuthorities = "usr/local/share/ca-certificates/atoll-egress.crt"

// Which list programs read that bring one of their own. The first two replace theirs, the last one adds to it.
var (
	listVariables = []string{"SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"}
	moreVariable  = "NODE_EXTRA_CA_CERTS"
	// pointed may name files of the template's.
	pointed = append([]string{moreVariable, "CURL_CA_BUNDLE", "PIP_CERT"}, listVariables...)
)

// Trust adds authorities to the system's lists, and points programs there that have their own. As in Configure, files
// that cannot be written are no error.
func (g *guestService) Trust(_ context.Context, req *connect.Request[guestv1.TrustRequest]) (*connect.Response[guestv1.TrustResponse], error) {
	authorities := req.Msg.GetAuthorities()
	if block, _ := pem.Decode([]byte(authorities)); block == nil || len(authorities) > limits.AuthorityBytes {
		return nil, connect.NewError(connect.CodeInvalidArgument, errors.New("authorities is no certificate in PEM form, or too long"))
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	current := g.server.settings.Get()
	if current == nil {
		return nil, connect.NewError(connect.CodeFailedPrecondition, errors.New("not configured yet"))
	}
	root := g.server.options.Root
	unwritten := writeFile(filepath.Join(root, ownAuthorities), authorities, 0o644)
	files := slices.Clone(bundles)
	for _, name := range pointed {
		if file := current.Env[name]; filepath.IsAbs(file) {
			files = append(files, file)
		}
	}
	system := ""
	for _, file := range files {
		switch err := appendOnce(filepath.Join(root, file), authorities); {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			unwritten = errors.Join(unwritten, err)
		case system == "" && slices.Contains(bundles, file):
			system = "/" + file
		}
	}
	g.trusting = trustEnv(system)
	changed := *current
	changed.Env = withDefaults(current.Env, g.trusting)
	g.server.settings.Set(&changed)
	g.note(unwritten)
	return connect.NewResponse(&guestv1.TrustResponse{}), nil
}

// trustEnv points programs to the system's list; empty: there is none.
func trustEnv(system string) map[string]string {
	env := map[string]string{moreVariable: "/" + ownAuthorities}
	if system != "" {
		for _, name := range listVariables {
			env[name] = system
		}
	}
	return env
}

func withDefaults(env, defaults map[string]string) map[string]string {
	whole := maps.Clone(defaults)
	maps.Copy(whole, env)
	return whole
}

// appendOnce appends text to a regular file that does not hold it; the guest may have put anything in its place.
func appendOnce(path, text string) error {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_APPEND|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }()
	info, err := file.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fs.ErrNotExist
	}
	old, err := io.ReadAll(io.LimitReader(file, limits.BundleBytes))
	if err != nil {
		return err
	}
	if strings.Contains(string(old), text) {
		return nil
	}
	if len(old) > 0 && old[len(old)-1] != '\n' {
		text = "\n" + text
	}
	_, err = file.WriteString(text)
	return err
}
