package edge

import (
	"crypto/subtle"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// trafficHeader is what clients show of a sandbox whose ports are not public.
const trafficHeader = "E2b-Traffic-Access-Token"

// ingress is whom the server lets to a sandbox's ports other than the daemon's, and how programs there are asked.
type ingress struct {
	// TrafficToken must be shown; empty: nothing.
	TrafficToken string `json:"traffic_token"`
	// MaskHost is what programs see as Host; empty: what the client sent.
	MaskHost string `json:"mask_host"`
	// HTTPSPorts are where programs speak HTTPS.
	HTTPSPorts []int `json:"https_ports"`
}

func (i *ingress) equal(other *ingress) bool {
	return i.TrafficToken == other.TrafficToken && i.MaskHost == other.MaskHost && slices.Equal(i.HTTPSPorts, other.HTTPSPorts)
}

func (i *ingress) isHTTPS(to target) bool {
	return to.port != daemonPort && slices.Contains(i.HTTPSPorts, to.port)
}

// refuse says why a request is not for this client; nil: it is. The daemon asks for a token of its own.
func (i *ingress) refuse(r *http.Request, to target) *problem {
	if i.TrafficToken == "" || to.port == daemonPort {
		return nil
	}
	shown := r.Header.Values(trafficHeader)
	switch {
	case len(shown) == 0:
		return noTraffic(to, "Sandbox is secured with traffic access token. Token header 'e2b-traffic-access-token' is missing")
	case len(shown) > 1 || subtle.ConstantTimeCompare([]byte(shown[0]), []byte(i.TrafficToken)) != 1:
		return noTraffic(to, "Sandbox is secured with traffic access token. Provided token in header 'e2b-traffic-access-token' is invalid")
	}
	return nil
}

func noTraffic(to target, message string) *problem {
	return &problem{SandboxID: to.id, Message: message, Port: to.port, Code: http.StatusForbidden, definite: true}
}

// apply makes the request for the program on a port.
func (i *ingress) apply(out *http.Request, to target) {
	// The token is the client's secret and says nothing to programs.
	out.Header.Del(trafficHeader)
	if to.port == daemonPort {
		return
	}
	if i.MaskHost != "" {
		out.Host = strings.ReplaceAll(i.MaskHost, "${PORT}", strconv.Itoa(to.port))
	}
	if i.isHTTPS(to) {
		out.URL.Scheme = "https"
	}
}
