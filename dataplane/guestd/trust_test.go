package guestd_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"golang.org/x/sys/unix"

	guestv1 "atoll.dev/dataplane/internal/gen/atoll/guest/v1"
)

const certificate = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"

func (d *daemon) trust(authorities string) error {
	_, err := d.guest().Trust(context.Background(), connect.NewRequest(&guestv1.TrustRequest{Authorities: authorities}))
	return err
}

func (d *daemon) put(t *testing.T, path, content string) string {
	t.Helper()
	path = filepath.Join(d.root, path)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func (d *daemon) env(t *testing.T) string {
	t.Helper()
	return text(t, d.request(t, "GET", "/envs", nil, nil))
}

func TestAuthoritiesAreAddedToTheSystemsListOnce(t *testing.T) {
	d := configured(t)
	bundle := d.put(t, "etc/ssl/certs/ca-certificates.crt", "theirs")
	for range 2 {
		if err := d.trust(certificate); err != nil {
			t.Fatal(err)
		}
	}
	content, err := os.ReadFile(bundle)
	if err != nil || string(content) != "theirs\n"+certificate {
		t.Errorf("%q %v", content, err)
	}
	own, err := os.ReadFile(filepath.Join(d.root, "usr/local/share/ca-certificates/atoll-egress.crt"))
	if err != nil || string(own) != certificate {
		t.Errorf("%q %v", own, err)
	}
	for _, want := range []string{
		`"SSL_CERT_FILE":"/etc/ssl/certs/ca-certificates.crt"`, `"REQUESTS_CA_BUNDLE":"/etc/ssl/certs/ca-certificates.crt"`,
		`"NODE_EXTRA_CA_CERTS":"/usr/local/share/ca-certificates/atoll-egress.crt"`, `"A":"b"`,
	} {
		if env := d.env(t); !strings.Contains(env, want) {
			t.Errorf("no %s in %s", want, env)
		}
	}
	if err := d.configure(2, nil); err != nil || !strings.Contains(d.env(t), "NODE_EXTRA_CA_CERTS") {
		t.Error("forgotten by the next configuration", err)
	}
}

func TestFilesThatTheTemplateNamesGetThemToo(t *testing.T) {
	d := start(t, "127.0.0.1")
	err := d.configure(1, func(c *guestv1.Configuration) { c.Env["NODE_EXTRA_CA_CERTS"] = "/opt/more.pem" })
	if err != nil {
		t.Fatal(err)
	}
	more := d.put(t, "opt/more.pem", "")
	if err := d.trust(certificate); err != nil {
		t.Fatal(err)
	}
	if content, _ := os.ReadFile(more); string(content) != certificate {
		t.Errorf("%q", content)
	}
	if env := d.env(t); !strings.Contains(env, `"NODE_EXTRA_CA_CERTS":"/opt/more.pem"`) || strings.Contains(env, "SSL_CERT_FILE") {
		t.Error(env)
	}
}

func TestOddListsHoldNothingUp(t *testing.T) {
	d := configured(t)
	if err := os.MkdirAll(filepath.Join(d.root, "etc/ssl/certs"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(filepath.Join(d.root, "etc/ssl/certs/ca-certificates.crt"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("nowhere", filepath.Join(d.root, "etc/ssl/cert.pem")); err != nil {
		t.Fatal(err)
	}
	if err := d.trust(certificate); err != nil {
		t.Error(err)
	}
}

func TestWhatIsNoAuthorityIsNotTrusted(t *testing.T) {
	d := configured(t)
	for _, wrong := range []string{"", "hello", certificate + strings.Repeat("x", 64<<10)} {
		if err := d.trust(wrong); connect.CodeOf(err) != connect.CodeInvalidArgument {
			t.Errorf("%.20q: %v", wrong, err)
		}
	}
	if err := start(t, "127.0.0.1").trust(certificate); connect.CodeOf(err) != connect.CodeFailedPrecondition {
		t.Error(err)
	}
}
