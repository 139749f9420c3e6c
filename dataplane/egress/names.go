package egress

import (
	"net"
	"net/netip"
	"regexp"
	"strings"
)

// aName is what DNS takes for the name of a host: labels of up to 63 characters, in lower case.
var aName = regexp.MustCompile(`^([a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?\.)*[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?$`)

// mostName is how long a name may be.
const mostName = 253

// plainName returns a claimed name as it is compared, and whether it is one: no address, in no form.
func plainName(claimed string) (string, bool) {
	name := strings.ToLower(strings.TrimSuffix(claimed, "."))
	if len(name) > mostName || !aName.MatchString(name) {
		return "", false
	}
	last := name[strings.LastIndexByte(name, '.')+1:]
	// "127.1", "0x7f.1": some resolvers take these for addresses.
	if strings.Trim(last, "0123456789") == "" || strings.HasPrefix(last, "0x") {
		return "", false
	}
	return name, true
}

// hostOf returns the name in a Host header that may carry this port only.
func hostOf(header, port string) (string, bool) {
	host := header
	if strings.Contains(header, ":") {
		named, stated, err := net.SplitHostPort(header)
		if err != nil || stated != port {
			return "", false
		}
		host = named
	}
	return plainName(host)
}

// matches compares a name with a domain, or with "*." and a domain for all below it.
func matches(name, domain string) bool {
	if below, ok := strings.CutPrefix(domain, "*"); ok {
		return len(name) > len(below) && strings.HasSuffix(name, below)
	}
	return name == domain
}

// closed are addresses that no name may lead to. The fence has the same list, and the host's own addresses and
// links besides; here it only tells the reason.
var closed = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("100.64.0.0/10"),
	netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("169.254.0.0/16"), netip.MustParsePrefix("172.16.0.0/12"),
	netip.MustParsePrefix("192.0.0.0/24"), netip.MustParsePrefix("192.88.99.0/24"), netip.MustParsePrefix("192.168.0.0/16"),
	netip.MustParsePrefix("198.18.0.0/15"), netip.MustParsePrefix("224.0.0.0/4"), netip.MustParsePrefix("240.0.0.0/4"),
	netip.MustParsePrefix("168.63.129.16/32"),
	netip.MustParsePrefix("::/96"), netip.MustParsePrefix("::ffff:0:0:0/96"), netip.MustParsePrefix("64:ff9b::/96"),
	netip.MustParsePrefix("64:ff9b:1::/48"), netip.MustParsePrefix("100::/64"), netip.MustParsePrefix("2001::/23"),
	netip.MustParsePrefix("2002::/16"), netip.MustParsePrefix("fc00::/7"), netip.MustParsePrefix("fe80::/10"),
	netip.MustParsePrefix("fec0::/10"), netip.MustParsePrefix("ff00::/8"),
}

// IsClosed says whether an address is one that no sandbox reaches.
func IsClosed(address netip.Addr) bool {
	address = address.Unmap().WithZone("")
	return containedIn(address, closed)
}
