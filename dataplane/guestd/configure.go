package guestd

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"path"
	"regexp"
	"strings"
	"sync"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/sys/unix"

	"atoll.dev/dataplane/guestd/commands"
	"atoll.dev/dataplane/guestd/journal"
	"atoll.dev/dataplane/guestd/limits"
	"atoll.dev/dataplane/guestd/settings"
	guestv1 "atoll.dev/dataplane/internal/gen/atoll/guest/v1"
	"atoll.dev/dataplane/internal/gen/atoll/guest/v1/guestv1connect"
)

// configurationVersion is the meaning of Configuration that this guestd knows.
const configurationVersion = 1

// guestService answers the host.
type guestService struct {
	guestv1connect.UnimplementedGuestServiceHandler
	server *Server

	mu      sync.Mutex        // one configuration at a time
	mounted map[string]string // volume path → source
	// trusting is what points programs to the authorities that Trust has added; nil: none were.
	trusting map[string]string
	launched *commands.Command // the start command, whether it still runs or not; nil: none was
	// carried is what was carried out last, so that a claim, which somebody waits for, writes only what is new.
	carried *guestv1.Configuration
}

// Configure checks a configuration, carries it out and publishes it: wholly, or with an error not at all
// (what it wrote into /etc stays written; the host sends the message again).
//
// Files that cannot be written are no error, and the journal tells of them: they are the guest's own, and a sandbox
// whose programs have put a directory in the place of one, or filled a disk, is still to come back.
func (g *guestService) Configure(ctx context.Context, req *connect.Request[guestv1.ConfigureRequest]) (*connect.Response[guestv1.ConfigureResponse], error) {
	untrusted := req.Msg.GetConfiguration()
	if err := checkConfiguration(untrusted); err != nil {
		return nil, connect.NewError(connect.CodeInvalidArgument, err)
	}
	c := untrusted
	g.mu.Lock()
	defer g.mu.Unlock()
	if last := g.server.settings.Get(); last != nil && c.GetGeneration() <= last.Generation {
		return nil, connect.NewError(connect.CodeFailedPrecondition,
			fmt.Errorf("generation %d is not newer than %d", c.GetGeneration(), last.Generation))
	}
	unwritten, err := g.carryOut(c)
	if err != nil {
		return nil, err
	}
	next := newSettings(c)
	if g.trusting != nil {
		next.Env = withDefaults(next.Env, g.trusting)
	}
	last := g.server.settings.Get()
	unwritten = errors.Join(unwritten, g.announce(next, last != nil && !c.GetClaimed()))
	if last == nil || last.SandboxID != next.SandboxID {
		g.server.journal.Reset() // What was before happened to another.
	}
	g.note(unwritten)
	g.server.settings.Set(next)
	if c.GetWaits() {
		g.server.rehearseCommand(ctx, next)
	}
	return connect.NewResponse(&guestv1.ConfigureResponse{Version: g.server.options.Version}), nil
}

// carryOut also returns what of the guest's own files it could not write.
func (g *guestService) carryOut(c *guestv1.Configuration) (unwritten, err error) {
	setClock(c)
	var known *guestv1.Configuration
	if c.GetClaimed() {
		known = g.carried
	}
	g.carried = nil
	if g.server.options.Root == "/" {
		if err := setHostname(c.GetIdentity().GetHostname()); err != nil {
			return nil, connect.NewError(connect.CodeInternal, fmt.Errorf("hostname: %w", err))
		}
	}
	unwritten = writeIdentity(g.server.options.Root, c, known)
	if most := c.GetLimits().GetProcesses(); known == nil || most != known.GetLimits().GetProcesses() {
		if err := g.server.options.Groups.SetMax(most); err != nil {
			return nil, connect.NewError(connect.CodeFailedPrecondition, err)
		}
	}
	if unwritten == nil {
		g.carried = &guestv1.Configuration{Identity: c.GetIdentity(), Network: c.GetNetwork(), Limits: c.GetLimits()}
	}
	for _, volume := range c.GetVolumes() {
		if err := g.mount(volume); err != nil {
			return nil, err
		}
	}
	return unwritten, nil
}

// note tells whoever reads the sandbox's log which of its files could not be written, if any.
func (g *guestService) note(unwritten error) {
	if unwritten != nil {
		g.server.journal.Add(journal.Warn, "files of the sandbox could not be written",
			journal.Field{Name: "error", Value: unwritten.Error()})
	}
}

// setClock sets a clock that is wrong, where that is allowed; gVisor's follows the host's and takes no orders.
func setClock(c *guestv1.Configuration) {
	if c.GetTime() == nil {
		return
	}
	now := c.GetTime().AsTime()
	if off := time.Since(now); off.Abs() <= limits.ClockSkew {
		return
	}
	spec := unix.NsecToTimespec(now.UnixNano())
	_ = unix.ClockSettime(unix.CLOCK_REALTIME, &spec)
}

func newSettings(c *guestv1.Configuration) *settings.Settings {
	env := maps.Clone(c.GetEnv())
	if env == nil {
		env = map[string]string{}
	}
	maps.Copy(env, identityEnv(c.GetIdentity()))
	user := c.GetDefaultUser()
	if user == "" {
		user = "root"
	}
	return &settings.Settings{
		Generation:  c.GetGeneration(),
		SandboxID:   c.GetIdentity().GetSandboxId(),
		Env:         env,
		AccessToken: c.GetAccessToken(),
		User:        user,
		Workdir:     c.GetDefaultWorkdir(),
		MemoryBytes: c.GetLimits().GetMemoryBytes(),
	}
}

var (
	hostnamePattern  = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?$`)
	machineIDPattern = regexp.MustCompile(`^[0-9a-f]{32}$`)
	identifier       = regexp.MustCompile(`^[A-Za-z0-9._:/@-]*$`)
)

// checkConfiguration refuses what would half work: nothing is carried out before everything is right.
func checkConfiguration(c *guestv1.Configuration) error {
	if c.GetVersion() != configurationVersion {
		return fmt.Errorf("version %d of the configuration is not known, only %d", c.GetVersion(), configurationVersion)
	}
	if c.GetGeneration() == 0 {
		return errors.New("generation is missing")
	}
	checks := []error{
		checkIdentity(c.GetIdentity()),
		commands.CheckEnv(c.GetEnv()),
		checkDefaults(c),
		checkNetwork(c.GetNetwork()),
		checkVolumes(c.GetVolumes()),
	}
	if c.GetTime() != nil {
		checks = append(checks, c.GetTime().CheckValid())
	}
	if c.GetLimits().GetProcesses() > limits.Processes {
		checks = append(checks, fmt.Errorf("limits.processes is at most %d", limits.Processes))
	}
	return errors.Join(checks...)
}

func checkIdentity(id *guestv1.Identity) error {
	if h := id.GetHostname(); h != "" && (len(h) > limits.HostnameBytes || !hostnamePattern.MatchString(h)) {
		return fmt.Errorf("identity.hostname '%.80q' is not one", h)
	}
	if m := id.GetMachineId(); m != "" && !machineIDPattern.MatchString(m) {
		return errors.New("identity.machine_id is not 32 lower-case hexadecimal digits")
	}
	for _, name := range []string{id.GetSandboxId(), id.GetTemplateId(), id.GetTeamId()} {
		if len(name) > limits.NameBytes || !identifier.MatchString(name) {
			return fmt.Errorf("identity holds '%.80q', which is no id", name)
		}
	}
	return nil
}

func checkDefaults(c *guestv1.Configuration) error {
	if len(c.GetAccessToken()) > limits.TokenBytes {
		return fmt.Errorf("access_token is longer than %d bytes", limits.TokenBytes)
	}
	if len(c.GetDefaultUser()) > limits.NameBytes || strings.ContainsAny(c.GetDefaultUser(), ":\n\x00") {
		return errors.New("default_user is not a user name")
	}
	dir := c.GetDefaultWorkdir()
	if len(dir) > limits.PathBytes || strings.ContainsRune(dir, 0) {
		return errors.New("default_workdir is not a path")
	}
	return nil
}

func checkNetwork(n *guestv1.Network) error {
	if len(n.GetDnsServers()) > limits.NameServers {
		return fmt.Errorf("network.dns_servers has more than %d", limits.NameServers)
	}
	for _, server := range n.GetDnsServers() {
		if _, err := netip.ParseAddr(server); err != nil {
			return fmt.Errorf("network.dns_servers: '%.80q' is not an address", server)
		}
	}
	if a := n.GetAddress(); a != "" {
		if _, err := netip.ParseAddr(a); err != nil {
			return fmt.Errorf("network.address '%.80q' is not an address", a)
		}
	}
	return nil
}

func checkVolumes(volumes []*guestv1.Volume) error {
	if len(volumes) > limits.Volumes {
		return fmt.Errorf("more than %d volumes", limits.Volumes)
	}
	for _, v := range volumes {
		for _, p := range []string{v.GetSource(), v.GetPath()} {
			if !path.IsAbs(p) || path.Clean(p) != p || p == "/" || len(p) > limits.PathBytes || strings.ContainsRune(p, 0) {
				return fmt.Errorf("volume '%.80q': '%.80q' is not a clean absolute path", v.GetName(), p)
			}
		}
	}
	return nil
}

// KillGreediest kills the processes that hold most memory.
func (g *guestService) KillGreediest(_ context.Context, req *connect.Request[guestv1.KillGreediestRequest]) (*connect.Response[guestv1.KillGreediestResponse], error) {
	victims, err := g.server.table.KillGreediest(req.Msg.GetExcessBytes())
	if err != nil && len(victims) == 0 {
		return nil, connect.NewError(connect.CodeInternal, err)
	}
	answer := &guestv1.KillGreediestResponse{}
	for _, victim := range victims {
		answer.Killed = append(answer.Killed, &guestv1.KilledProcess{
			Pid: uint32(victim.PID), Command: victim.Command, ResidentBytes: victim.Resident,
		})
	}
	return connect.NewResponse(answer), nil
}

// ReadJournal returns what happened since a line.
func (g *guestService) ReadJournal(_ context.Context, req *connect.Request[guestv1.ReadJournalRequest]) (*connect.Response[guestv1.ReadJournalResponse], error) {
	g.mu.Lock() // Not while the guest becomes another.
	defer g.mu.Unlock()
	current := g.server.settings.Get()
	if current == nil || current.SandboxID != req.Msg.GetSandboxId() {
		return nil, connect.NewError(connect.CodeFailedPrecondition, errors.New("this is another sandbox"))
	}
	lines, more := g.server.journal.Read(req.Msg.GetAfter())
	return connect.NewResponse(&guestv1.ReadJournalResponse{Lines: lines, More: more}), nil
}
