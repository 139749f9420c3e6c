package edge

import (
	"context"
	"net"
	"net/netip"
	"slices"
)

// peers are the networks of who may ask.
type peers []netip.Prefix

func (p peers) contains(address netip.Addr) bool {
	return slices.ContainsFunc(p, func(network netip.Prefix) bool { return network.Contains(address) })
}

var (
	// loopback are the addresses by which this machine asks itself.
	loopback = peers{netip.MustParsePrefix("127.0.0.0/8")}
	anybody  = peers{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}
)

// startZone serves this machine, where the home's domain is known. All of the machine asks from one address, so that
// its share is everything.
func startZone(ctx context.Context, config *Config, known *zone, failed chan<- error) (*names, error) {
	limits := config.Limits
	limits.NameQuestionsPerSandbox = limits.NameQuestions
	limits.NameConnectionsPerSandbox = limits.NameConnections
	limits.NameRate, limits.NameBurst = limits.ZoneRate, int(limits.ZoneRate)
	n := newNames(config, loopback, &limits)
	n.zone = known
	return n, n.listen(ctx, config.ZoneListen, failed)
}

// startPublicZone serves everybody, with the home's domain and nothing else.
func startPublicZone(ctx context.Context, config *Config, known *zone, failed chan<- error) (*names, error) {
	limits := config.Limits
	limits.NameRate, limits.NameBurst = limits.PublicNameRate, limits.PublicNameBurst
	n := newNames(config, anybody, &limits)
	n.zone, n.zoneOnly = known, true
	return n, n.listen(ctx, config.PublicZoneListen, failed)
}

// shareOf returns by what a share is told from others: who has one address of IPv6 has 2^64 of them.
func shareOf(address net.Addr) (netip.Addr, bool) {
	from, ok := addressOf(address)
	if ok && from.Is6() {
		return netip.PrefixFrom(from, 64).Masked().Addr(), true
	}
	return from, ok
}
