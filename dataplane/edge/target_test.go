package edge

import (
	"net/http"
	"net/url"
	"testing"
)

const someID = "iabcdefghij0123456789"

func requestTo(host, path string, headers map[string]string) *http.Request {
	parsed, err := url.ParseRequestURI(path)
	if err != nil {
		parsed = &url.URL{Path: path}
	}
	r := &http.Request{Method: http.MethodPost, Host: host, URL: parsed, Header: http.Header{}}
	for name, value := range headers {
		r.Header.Set(name, value)
	}
	return r
}

func TestFindTarget(t *testing.T) {
	routed := map[string]string{idHeader: someID, portHeader: "3000"}
	daemon := map[string]string{idHeader: someID, portHeader: "49983"}
	for name, test := range map[string]struct {
		host    string
		path    string
		headers map[string]string
		want    target
		refused *refusal
	}{
		"nothing says sandbox":        {host: "127.0.0.1:80", want: target{}},
		"api host":                    {host: "api.sbx.test:8443", want: target{}},
		"machine with digits":         {host: "10-0-0-5.example.com", want: target{}},
		"no host at all":              {host: "", want: target{}},
		"headers at localhost":        {host: "localhost:80", headers: routed, want: target{someID, 3000}},
		"headers at IPv4":             {host: "10.1.2.3", headers: routed, want: target{someID, 3000}},
		"headers at IPv6":             {host: "[::1]:80", headers: routed, want: target{someID, 3000}},
		"headers at the sandbox host": {host: "sandbox.sbx.test", headers: routed, want: target{someID, 3000}},
		"host name":                   {host: "8080-" + someID + ".localhost:80", want: target{someID, 8080}},
		"host name in capitals":       {host: "8080-IABCDEFGHIJ0123456789.LOCALHOST", want: target{someID, 8080}},
		"host name with a dot":        {host: "8080-" + someID + ".localhost.", want: target{someID, 8080}},
		"old host name":               {host: "8080-" + someID + "-6532622b.e2b.app", want: target{someID, 8080}},
		"host name beats headers":     {host: "8080-iaaaaaaaaaaaaaaaaaaaa.x", headers: routed, want: target{"iaaaaaaaaaaaaaaaaaaaa", 8080}},
		"old id in header": {host: "localhost",
			headers: map[string]string{idHeader: someID + "-6532622b", portHeader: "1"}, want: target{someID, 1}},
		"id without port":   {host: "localhost", headers: map[string]string{idHeader: someID}, refused: missingHeader},
		"port without id":   {host: "localhost", headers: map[string]string{portHeader: "1"}, refused: missingHeader},
		"id empty":          {host: "localhost", headers: map[string]string{idHeader: "", portHeader: "1"}, refused: badID},
		"id of other form":  {host: "localhost", headers: map[string]string{idHeader: "../../etc", portHeader: "1"}, refused: badID},
		"id too long":       {host: "localhost", headers: map[string]string{idHeader: someID + "a", portHeader: "1"}, refused: badID},
		"id with new line":  {host: "localhost", headers: map[string]string{idHeader: someID + "\n", portHeader: "1"}, refused: badID},
		"host with bad id":  {host: "3000-abc.localhost", refused: badID},
		"port 0":            {host: "localhost", headers: map[string]string{idHeader: someID, portHeader: "0"}, refused: badPort},
		"port too large":    {host: "localhost", headers: map[string]string{idHeader: someID, portHeader: "65536"}, refused: badPort},
		"port with sign":    {host: "localhost", headers: map[string]string{idHeader: someID, portHeader: "+80"}, refused: badPort},
		"port with zeros":   {host: "localhost", headers: map[string]string{idHeader: someID, portHeader: "000080"}, refused: badPort},
		"port is no number": {host: "localhost", headers: map[string]string{idHeader: someID, portHeader: "http"}, refused: badPort},
		"private port":      {host: "localhost", headers: map[string]string{idHeader: someID, portHeader: "49982"}, refused: badPort},
		"private, leading 0": {host: "localhost",
			headers: map[string]string{idHeader: someID, portHeader: "049982"}, refused: badPort},
		"private port by host": {host: "49982-" + someID + ".localhost", refused: badPort},
		"host is open bracket": {host: "[::1", refused: badHost},
		"daemon":               {host: "localhost", headers: daemon, path: "/health", want: target{someID, daemonPort}},
		"daemon, similar":      {host: "localhost", headers: daemon, path: "/initial", want: target{someID, daemonPort}},
		"init":                 {host: "localhost", headers: daemon, path: "/init", refused: controlRoute},
		"init, two slashes":    {host: "localhost", headers: daemon, path: "//init", refused: controlRoute},
		"init, encoded":        {host: "localhost", headers: daemon, path: "/%69nit", refused: controlRoute},
		"init, encoded slash":  {host: "localhost", headers: daemon, path: "/%2Finit", refused: controlRoute},
		"init, dot":            {host: "localhost", headers: daemon, path: "/./init", refused: controlRoute},
		"init, dots":           {host: "localhost", headers: daemon, path: "/files/../init", refused: controlRoute},
		"init, slash behind":   {host: "localhost", headers: daemon, path: "/init/", refused: controlRoute},
		"init, capitals":       {host: "localhost", headers: daemon, path: "/INIT", refused: controlRoute},
		"init, query":          {host: "localhost", headers: daemon, path: "/init?x=1", refused: controlRoute},
		"init, parameter":      {host: "localhost", headers: daemon, path: "/init;x=1", refused: controlRoute},
		"init, backslash":      {host: "localhost", headers: daemon, path: "/%5Cinit", refused: controlRoute},
		"init, no slash":       {host: "localhost", headers: daemon, path: "init", refused: controlRoute},
		"freeze by host":       {host: "49983-" + someID + ".localhost", path: "/freeze", refused: controlRoute},
		"init of a program":    {host: "localhost", headers: routed, path: "/init", want: target{someID, 3000}},
	} {
		t.Run(name, func(t *testing.T) {
			if test.path == "" {
				test.path = "/"
			}
			got, refused := findTarget(requestTo(test.host, test.path, test.headers))
			if got != test.want || refused != test.refused {
				t.Errorf("got %+v, %v; want %+v, %v", got, refused, test.want, test.refused)
			}
		})
	}
}

func TestHeadersGivenTwiceAreRefused(t *testing.T) {
	for header, want := range map[string]*refusal{idHeader: badID, portHeader: badPort} {
		r := requestTo("localhost", "/", map[string]string{idHeader: someID, portHeader: "80"})
		r.Header.Add(header, r.Header.Get(header))
		if _, refused := findTarget(r); refused != want {
			t.Errorf("%s: %v", header, refused)
		}
	}
}

func FuzzFindTarget(f *testing.F) {
	f.Add("localhost:80", someID, "49983", "/%69nit")
	f.Add("49983-"+someID+"-x.localhost", "", "", "//init")
	f.Add("[::1]:80", someID+"-abc", "65535", "/a;b/../init")
	f.Add("49982-"+someID+".a", "x", "y", "\\init")
	f.Fuzz(func(t *testing.T, host, id, port, path string) {
		headers := map[string]string{}
		if id != "" {
			headers[idHeader] = id
		}
		if port != "" {
			headers[portHeader] = port
		}
		r := requestTo(host, path, headers)
		got, refused := findTarget(r)
		switch {
		case refused != nil:
			if !got.isAPI() {
				t.Errorf("refused, and goes to %+v", got)
			}
		case got.isAPI():
			if got.port != 0 || id != "" || port != "" {
				t.Errorf("%q %q %q goes to the API", host, id, port)
			}
		default:
			if !sandboxID.MatchString(got.id) || len(got.id) != 21 || got.port < 1 || got.port > 65535 || got.port == privatePort {
				t.Errorf("goes to %+v", got)
			}
			if got.port == daemonPort && controlRoutes[r.URL.Path] {
				t.Errorf("%q reaches the daemon", r.URL.Path)
			}
		}
	})
}
