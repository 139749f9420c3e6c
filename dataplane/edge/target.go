package edge

import (
	"net/http"
	"path"
	"regexp"
	"strconv"
	"strings"
)

const (
	// daemonPort is where guestd serves users, privatePort where it serves the server, and nobody else.
	daemonPort  = 49983
	privatePort = 49982

	idHeader   = "E2b-Sandbox-Id"
	portHeader = "E2b-Sandbox-Port"
)

// target is where a request goes: to a port of a sandbox, or to the API, which has no id.
type target struct {
	id   string
	port int
}

func (t target) isAPI() bool { return t.id == "" }

// refusal says why a request goes nowhere.
type refusal struct {
	status  int
	message string
}

var (
	// sandboxID is what the server makes; E2B's clients may add "-<client id>" to it, an old form.
	sandboxID = regexp.MustCompile(`^(i[a-z0-9]{20})(-[a-z0-9]{1,64})?$`)
	// sandboxLabel is the first label of a host name that means a sandbox. A letter must follow the dash:
	// "10-0-0-5.example.com" is a name that people give to machines.
	sandboxLabel = regexp.MustCompile(`^([0-9]+)-([a-z][a-z0-9-]*)$`)
)

var (
	missingHeader = &refusal{http.StatusBadRequest, "missing header"}
	badID         = &refusal{http.StatusBadRequest, "Invalid sandbox ID"}
	badPort       = &refusal{http.StatusBadRequest, "Invalid sandbox port"}
	badHost       = &refusal{http.StatusBadRequest, "Invalid host"}
	controlRoute  = &refusal{http.StatusNotFound, "not found"}
	noTunnels     = &refusal{http.StatusMethodNotAllowed, "CONNECT is not served here"}
)

// controlRoutes are guestd's paths that are for the server only.
var controlRoutes = map[string]bool{
	"/init": true, "/freeze": true, "/unfreeze": true, "/collapse": true,
	"/fsfreeze": true, "/fsthaw": true, "/upgrade": true,
}

// findTarget reads where a request goes.
//
// A host name that means a sandbox wins over headers, so that a page served by one sandbox cannot reach another
// under its own name. Else the headers decide, and what has neither is for the API.
func findTarget(r *http.Request) (target, *refusal) {
	if r.Method == http.MethodConnect {
		return target{}, noTunnels
	}
	host, ok := hostName(r.Host)
	if !ok {
		return target{}, badHost
	}
	label, _, _ := strings.Cut(host, ".")
	if parts := sandboxLabel.FindStringSubmatch(label); parts != nil {
		return parseTarget(parts[2], parts[1], r.URL.Path)
	}
	ids, ports := r.Header.Values(idHeader), r.Header.Values(portHeader)
	switch {
	case len(ids) == 0 && len(ports) == 0:
		return target{}, nil
	case len(ids) == 0 || len(ports) == 0:
		return target{}, missingHeader
	case len(ids) > 1:
		return target{}, badID
	case len(ports) > 1:
		return target{}, badPort
	}
	return parseTarget(ids[0], ports[0], r.URL.Path)
}

func parseTarget(untrustedID, untrustedPort, urlPath string) (target, *refusal) {
	id := sandboxID.FindStringSubmatch(untrustedID)
	if id == nil {
		return target{}, badID
	}
	// ParseUint takes no sign; five digits are enough for every port.
	port, err := strconv.ParseUint(untrustedPort, 10, 16)
	if err != nil || len(untrustedPort) > 5 || port == 0 || port == privatePort {
		return target{}, badPort
	}
	if port == daemonPort && isControlRoute(urlPath) {
		return target{}, controlRoute
	}
	return target{id: id[1], port: int(port)}, nil
}

// isControlRoute judges a path as the most lenient router would read it: decoded (urlPath is), cleaned,
// without a trailing slash, in any case.
func isControlRoute(urlPath string) bool {
	clean := strings.ToLower(path.Clean("/" + strings.ReplaceAll(urlPath, `\`, "/")))
	if controlRoutes[clean] {
		return true
	}
	// A router that decodes once more than we do, or drops what is behind a semicolon, finds no other path.
	first, _, _ := strings.Cut(strings.TrimPrefix(clean, "/"), "/")
	first, _, _ = strings.Cut(first, ";")
	return controlRoutes["/"+strings.TrimSpace(first)]
}

// hostName returns the lower-case name in a Host header, without its port.
func hostName(host string) (string, bool) {
	if len(host) > 255+6 {
		return "", false
	}
	if name, found := strings.CutPrefix(host, "["); found {
		name, _, found = strings.Cut(name, "]")
		return name, found
	}
	name, _, _ := strings.Cut(host, ":")
	return strings.ToLower(strings.TrimSuffix(name, ".")), true
}
