package guestd

import (
	"fmt"
	"net/url"
	"strings"
	"testing"

	guestv1 "atoll.dev/dataplane/internal/gen/atoll/guest/v1"
	"google.golang.org/protobuf/encoding/protojson"
)

func TestSignaturesOpenOnePathUntilTheyExpire(t *testing.T) {
	valid := url.Values{
		"path": {"/a"}, "username": {"user"}, "signature_expiration": {"100"},
		"signature": {signature("/a", "read", "user", "token", "100")},
	}
	with := func(name, value string) url.Values {
		changed := url.Values{}
		for key, values := range valid {
			changed[key] = values
		}
		changed.Set(name, value)
		return changed
	}
	for name, c := range map[string]struct {
		query     url.Values
		operation string
		shown     string
		now       int64
		message   string
	}{
		"as made":           {valid, "read", "", 100, ""},
		"too late":          {valid, "read", "", 101, "signature is already expired"},
		"another operation": {valid, "write", "", 1, "invalid signature"},
		"another path":      {with("path", "/b"), "read", "", 1, "invalid signature"},
		"another user":      {with("username", "root"), "read", "", 1, "invalid signature"},
		"a later end":       {with("signature_expiration", "200"), "read", "", 1, "invalid signature"},
		"an end with zeros": {with("signature_expiration", "0100"), "read", "", 1, "invalid signature"},
		"none":              {with("signature", ""), "read", "", 1, "missing signature query parameter"},
		"the token":         {url.Values{}, "read", "token", 1, ""},
		"a wrong token":     {valid, "read", "other", 1, "access token present in header but does not match"},
	} {
		t.Run(name, func(t *testing.T) {
			got := ""
			if err := checkSignature("token", c.shown, c.query, c.operation, c.now); err != nil {
				got = err.Error()
			}
			if got != c.message {
				t.Errorf("%q, not %q", got, c.message)
			}
		})
	}
}

func FuzzSignature(f *testing.F) {
	f.Add("path=/a&signature=v1_x&signature_expiration=1", "read")
	f.Fuzz(func(t *testing.T, query, operation string) {
		values, err := url.ParseQuery(query)
		if err != nil {
			return
		}
		if err := checkSignature("a token that nobody guesses", "", values, operation, 0); err == nil {
			t.Fatalf("%q opened", query)
		}
	})
}

func FuzzLoopbackPort(f *testing.F) {
	for _, seed := range []string{"127.0.0.1:80", "127.0.0.1:49982", "[::1]:80", "127.0.0.1:", "x", "127.0.0.1:+1"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, target string) {
		port, err := loopbackPort(target)
		if err == nil && (port == 0 || port == PrivatePort || target != fmt.Sprintf("127.0.0.1:%d", port)) {
			t.Fatalf("%q led to %d", target, port)
		}
	})
}

func FuzzConfiguration(f *testing.F) {
	f.Add(`{"version":1,"generation":"1","identity":{"hostname":"a"},"volumes":[{"source":"/a","path":"/b"}]}`)
	f.Fuzz(func(t *testing.T, text string) {
		c := &guestv1.Configuration{}
		if protojson.Unmarshal([]byte(text), c) != nil || checkConfiguration(c) != nil {
			return
		}
		if strings.ContainsAny(c.GetIdentity().GetHostname(), " \n\t") {
			t.Fatal("a host name with white space was taken")
		}
		for _, v := range c.GetVolumes() {
			if v.GetPath() == "/" || strings.Contains(v.GetPath(), "..") && strings.Contains(v.GetPath(), "/../") {
				t.Fatalf("volume at %q", v.GetPath())
			}
		}
	})
}
