package guestd_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/sys/unix"

	"atoll.dev/dataplane/guestd"
	"atoll.dev/dataplane/guestd/commands"
	guestv1 "atoll.dev/dataplane/internal/gen/atoll/guest/v1"
	"atoll.dev/dataplane/internal/gen/atoll/guest/v1/guestv1connect"
	"atoll.dev/dataplane/internal/gen/filesystem"
	"atoll.dev/dataplane/internal/gen/filesystem/filesystemconnect"
	"atoll.dev/dataplane/internal/gen/process"
	"atoll.dev/dataplane/internal/gen/process/processconnect"
)

const token = "a-token"

// One process has one reaper.
var (
	reaper *commands.Reaper
	groups *commands.Groups
)

func TestMain(m *testing.M) {
	name := fmt.Sprintf("atoll-guestd-test-%d", os.Getpid())
	own, err := os.MkdirTemp("", "atoll-cgroup") // Mounted only on a host that has no hierarchy: never over one of v1.
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	mounts := []string{"/sys/fs/cgroup/unified", "/sys/fs/cgroup", own}
	if groups, err = commands.NewGroups(name, mounts...); err != nil {
		fmt.Fprintln(os.Stderr, "these tests need root and a cgroup2 hierarchy:", err)
		os.Exit(1)
	}
	reaper = commands.NewReaper(groups.Sweep)
	code := m.Run()
	groups.Close()
	for _, mount := range mounts {
		_ = os.Remove(filepath.Join(mount, name))
	}
	_ = unix.Unmount(own, 0)
	_ = os.Remove(own)
	os.Exit(code)
}

// daemon is a guestd on loopback, which is its gateway too.
type daemon struct {
	url, privateURL string
	root            string
}

func start(t *testing.T, gateway string) *daemon {
	t.Helper()
	root := t.TempDir()
	for _, dir := range []string{"etc", "run"} {
		if err := os.Mkdir(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	server := guestd.New(guestd.Options{
		Version: "test", Gateways: []netip.Addr{netip.MustParseAddr(gateway)}, Reaper: reaper, Groups: groups, Root: root,
	})
	ctx, stop := context.WithCancel(context.Background())
	public, private := listen(t), listen(t)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = server.Serve(ctx, public, private)
	}()
	t.Cleanup(func() { stop(); <-ended })
	return &daemon{url: "http://" + public.Addr().String(), privateURL: "http://" + private.Addr().String(), root: root}
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return listener
}

func (d *daemon) guest() guestv1connect.GuestServiceClient {
	return guestv1connect.NewGuestServiceClient(http.DefaultClient, d.privateURL, connect.WithProtoJSON())
}

func (d *daemon) configure(generation uint64, change func(*guestv1.Configuration)) error {
	c := &guestv1.Configuration{
		Version: 1, Generation: generation, AccessToken: token, DefaultUser: "root", DefaultWorkdir: "/tmp",
		Env: map[string]string{"A": "b"}, Identity: &guestv1.Identity{SandboxId: "i0", TemplateId: "t", TeamId: "default"},
	}
	if change != nil {
		change(c)
	}
	_, err := d.guest().Configure(context.Background(), connect.NewRequest(&guestv1.ConfigureRequest{Configuration: c}))
	return err
}

func configured(t *testing.T) *daemon {
	t.Helper()
	d := start(t, "127.0.0.1")
	if err := d.configure(1, nil); err != nil {
		t.Fatal(err)
	}
	return d
}

func authorize(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
		req.Header().Set("X-Access-Token", token)
		return next(ctx, req)
	}
}

func (d *daemon) files(options ...connect.ClientOption) filesystemconnect.FilesystemClient {
	options = append(options, connect.WithInterceptors(connect.UnaryInterceptorFunc(authorize)))
	return filesystemconnect.NewFilesystemClient(http.DefaultClient, d.url, options...)
}

func (d *daemon) processes() processconnect.ProcessClient {
	return processconnect.NewProcessClient(http.DefaultClient, d.url, connect.WithInterceptors(connect.UnaryInterceptorFunc(authorize)))
}

func (d *daemon) request(t *testing.T, method, path string, body io.Reader, header map[string]string) *http.Response {
	t.Helper()
	request, err := http.NewRequest(method, d.url+path, body)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("X-Access-Token", token)
	for name, value := range header {
		request.Header.Set(name, value)
	}
	answer, err := http.DefaultTransport.RoundTrip(request)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = answer.Body.Close() })
	return answer
}

func text(t *testing.T, answer *http.Response) string {
	t.Helper()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

type result struct {
	stdout, stderr string
	end            *process.ProcessEvent_EndEvent
}

func run(t *testing.T, d *daemon, header map[string]string, script string) (*result, error) {
	t.Helper()
	stdin := false
	req := connect.NewRequest(&process.StartRequest{
		Process: &process.ProcessConfig{Cmd: "/bin/sh", Args: []string{"-c", script}}, Stdin: &stdin,
	})
	req.Header().Set("X-Access-Token", token)
	for name, value := range header {
		req.Header().Set(name, value)
	}
	stream, err := d.processes().Start(context.Background(), req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = stream.Close() }()
	r := &result{}
	for stream.Receive() {
		event := stream.Msg().GetEvent()
		r.stdout += string(event.GetData().GetStdout())
		r.stderr += string(event.GetData().GetStderr())
		if event.GetEnd() != nil {
			r.end = event.GetEnd()
		}
	}
	return r, stream.Err()
}

func TestNothingIsAnsweredBeforeTheFirstConfiguration(t *testing.T) {
	d := start(t, "127.0.0.1")

	if got := d.request(t, "GET", "/health", nil, nil).StatusCode; got != http.StatusNoContent {
		t.Errorf("health: %d", got)
	}
	for _, path := range []string{"/files?path=/etc/passwd", "/envs", "/metrics"} {
		if got := d.request(t, "GET", path, nil, nil).StatusCode; got != http.StatusServiceUnavailable {
			t.Errorf("%s: %d", path, got)
		}
	}
}

func TestConfigurationIsVersionedAndOnlyGrows(t *testing.T) {
	d := configured(t)

	cases := map[string]struct {
		generation uint64
		change     func(*guestv1.Configuration)
		code       connect.Code
	}{
		"the same generation": {1, nil, connect.CodeFailedPrecondition},
		"an unknown version":  {2, func(c *guestv1.Configuration) { c.Version = 2 }, connect.CodeInvalidArgument},
		"a bad host name":     {2, func(c *guestv1.Configuration) { c.Identity.Hostname = "a b" }, connect.CodeInvalidArgument},
		"a bad machine id":    {2, func(c *guestv1.Configuration) { c.Identity.MachineId = "x" }, connect.CodeInvalidArgument},
		"a bad variable":      {2, func(c *guestv1.Configuration) { c.Env = map[string]string{"A=": ""} }, connect.CodeInvalidArgument},
		"a bad name server": {2, func(c *guestv1.Configuration) { c.Network = &guestv1.Network{DnsServers: []string{"x"}} },
			connect.CodeInvalidArgument},
		"a volume at the root": {2, func(c *guestv1.Configuration) {
			c.Volumes = []*guestv1.Volume{{Source: "/a", Path: "/"}}
		}, connect.CodeInvalidArgument},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			if err := d.configure(c.generation, c.change); connect.CodeOf(err) != c.code {
				t.Errorf("got %v", err)
			}
		})
	}
	if err := d.configure(2, func(c *guestv1.Configuration) { c.Env = map[string]string{"A": "c"} }); err != nil {
		t.Fatal(err)
	}
	if got := text(t, d.request(t, "GET", "/envs", nil, nil)); !strings.Contains(got, `"A":"c"`) {
		t.Errorf("envs: %s", got)
	}
}

func TestThePrivatePortAnswersTheGatewayOnly(t *testing.T) {
	d := start(t, "169.254.1.1")

	if err := d.configure(1, nil); err == nil {
		t.Error("somebody else configured it")
	}
}

func TestPublicCallersMustShowTheToken(t *testing.T) {
	d := configured(t)

	for _, path := range []string{"/envs", "/metrics"} {
		answer := d.request(t, "GET", path, nil, map[string]string{"X-Access-Token": "wrong"})
		if answer.StatusCode != http.StatusUnauthorized {
			t.Errorf("%s: %d", path, answer.StatusCode)
		}
	}
	client := filesystemconnect.NewFilesystemClient(http.DefaultClient, d.url)
	_, err := client.Stat(context.Background(), connect.NewRequest(&filesystem.StatRequest{Path: "/"}))
	if connect.CodeOf(err) != connect.CodeUnauthenticated {
		t.Errorf("stat: %v", err)
	}
	for _, path := range []string{"/init", "/freeze", "/atoll.guest.v1.GuestService/Configure"} {
		if got := d.request(t, "POST", path, strings.NewReader("{}"), nil).StatusCode; got != http.StatusNotFound {
			t.Errorf("%s: %d", path, got)
		}
	}
}

func TestACommandEndsWithItsCodeAndOutput(t *testing.T) {
	d := configured(t)

	r, err := run(t, d, nil, "echo out $A $E2B_SANDBOX_ID; echo err >&2; pwd; exit 3")
	if err != nil {
		t.Fatal(err)
	}
	if r.stdout != "out b i0\n/tmp\n" || r.stderr != "err\n" {
		t.Errorf("output %q %q", r.stdout, r.stderr)
	}
	if r.end.GetExitCode() != 3 || !r.end.GetExited() || r.end.GetStatus() != "exit status 3" || r.end.GetError() != "exit status 3" {
		t.Errorf("end %v", r.end)
	}
}

func TestASignalIsMinusOne(t *testing.T) {
	r, err := run(t, configured(t), nil, "kill -9 $$")
	if err != nil {
		t.Fatal(err)
	}
	if r.end.GetExitCode() != -1 || r.end.GetStatus() != "signal: killed" {
		t.Errorf("end %v", r.end)
	}
}

func TestATimeoutEndsTheCommandWithSessionsOfItsOwn(t *testing.T) {
	d := configured(t)
	marker := filepath.Join(t.TempDir(), "survived")

	_, err := run(t, d, map[string]string{"Connect-Timeout-Ms": "300"},
		fmt.Sprintf("setsid sh -c 'sleep 2; touch %s' & sleep 60", marker))

	if connect.CodeOf(err) != connect.CodeDeadlineExceeded {
		t.Errorf("got %v", err)
	}
	time.Sleep(2500 * time.Millisecond) // Longer than the survivor would take.
	if _, err := os.Stat(marker); err == nil {
		t.Error("a descendant lived on")
	}
}

func TestWhatACommandLeftRunningLivesOnAndDoesNotHoldItsEnd(t *testing.T) {
	d := configured(t)
	marker := filepath.Join(t.TempDir(), "lives")
	before := time.Now()

	r, err := run(t, d, nil, fmt.Sprintf("(sleep 2; touch %s) & echo done", marker))
	if err != nil || r.stdout != "done\n" {
		t.Fatalf("%v %v", r, err)
	}
	if took := time.Since(before); took > 1500*time.Millisecond {
		t.Errorf("the end came after %s", took)
	}
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		if _, err := os.Stat(marker); err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatal("what was left running was killed")
		}
	}
}

func TestUnknownUserCwdAndProgramAreRefused(t *testing.T) {
	d := configured(t)

	basic := "Basic " + base64.StdEncoding.EncodeToString([]byte("nobody-here:"))
	_, err := run(t, d, map[string]string{"Authorization": basic}, "true")
	if connect.CodeOf(err) != connect.CodeUnauthenticated || !strings.Contains(err.Error(), "invalid username: 'nobody-here'") {
		t.Errorf("user: %v", err)
	}
	for name, config := range map[string]*process.ProcessConfig{
		"cwd":  {Cmd: "true", Cwd: pointer("/no/such/dir")},
		"cmd":  {Cmd: "no-such-program"},
		"none": {},
		"nul":  {Cmd: "echo", Args: []string{"a\x00b"}},
	} {
		req := connect.NewRequest(&process.StartRequest{Process: config})
		req.Header().Set("X-Access-Token", token)
		stream, err := d.processes().Start(context.Background(), req)
		if err == nil {
			stream.Receive()
			err = stream.Err()
			_ = stream.Close()
		}
		if connect.CodeOf(err) != connect.CodeInvalidArgument {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func pointer(s string) *string { return &s }

func TestFilesGoUpAndDown(t *testing.T) {
	d := configured(t)
	dir := t.TempDir()
	path := filepath.Join(dir, "a", "b.txt")
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	_, _ = z.Write([]byte("0123456789"))
	_ = z.Close()

	answer := d.request(t, "POST", "/files?path="+path, &zipped,
		map[string]string{"Content-Type": "application/octet-stream", "Content-Encoding": "gzip"})
	if got := text(t, answer); answer.StatusCode != http.StatusOK || !strings.Contains(got, `"path":"`+path+`"`) {
		t.Fatalf("%d %s", answer.StatusCode, got)
	}
	if got := text(t, d.request(t, "GET", "/files?path="+path, nil, nil)); got != "0123456789" {
		t.Errorf("whole: %q", got)
	}
	part := d.request(t, "GET", "/files?path="+path, nil, map[string]string{"Range": "bytes=2-4"})
	if got := text(t, part); part.StatusCode != http.StatusPartialContent || got != "234" {
		t.Errorf("part: %d %q", part.StatusCode, got)
	}
}

func TestAnUploadThatIsDamagedIsTheCallersFaultAndLeavesNothing(t *testing.T) {
	d := configured(t)
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	_, _ = z.Write([]byte("0123456789"))
	_ = z.Close()
	whole := zipped.Bytes()
	for name, body := range map[string][]byte{
		"no gzip": []byte("plain"), "header only": whole[:10], "cut": whole[:len(whole)-4],
		"garbage behind the header": append(bytes.Clone(whole[:10]), bytes.Repeat([]byte{0xff}, 20)...),
		"checksum":                  append(bytes.Clone(whole[:len(whole)-8]), bytes.Repeat([]byte{1}, 8)...),
	} {
		path := filepath.Join(t.TempDir(), "file")

		answer := d.request(t, "POST", "/files?path="+path, bytes.NewReader(body),
			map[string]string{"Content-Type": "application/octet-stream", "Content-Encoding": "gzip"})

		if got := text(t, answer); answer.StatusCode != http.StatusBadRequest {
			t.Errorf("%s: %d %s", name, answer.StatusCode, got)
		}
		if _, err := os.Stat(path); !os.IsNotExist(err) {
			t.Errorf("%s: something is left: %v", name, err)
		}
	}
}

func TestManyFilesInOneForm(t *testing.T) {
	d := configured(t)
	dir := t.TempDir()
	var body bytes.Buffer
	form := multipart.NewWriter(&body)
	for _, name := range []string{"x", "y"} {
		part, err := form.CreateFormFile("file", filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		_, _ = part.Write([]byte(name))
	}
	_ = form.Close()

	answer := d.request(t, "POST", "/files", &body, map[string]string{"Content-Type": form.FormDataContentType()})

	var written []struct{ Path string }
	if err := json.Unmarshal([]byte(text(t, answer)), &written); err != nil || len(written) != 2 {
		t.Fatalf("%d %v %v", answer.StatusCode, written, err)
	}
	if got, err := os.ReadFile(filepath.Join(dir, "y")); err != nil || string(got) != "y" {
		t.Errorf("%q %v", got, err)
	}
}

func TestAFormWithoutItsEndIsRefused(t *testing.T) {
	d := configured(t)
	path := filepath.Join(t.TempDir(), "cut")
	for body, want := range map[string]int{
		"zz": http.StatusBadRequest,
		"--b\r\nContent-Disposition: form-data; name=\"file\"\r\n\r\nabc":               http.StatusBadRequest,
		"--b\r\nContent-Disposition: form-data; name=\"file\"\r\n\r\nabc\r\n--b--\r\n":  http.StatusOK,
		"--b\r\nContent-Disposition: form-data; name=\"other\"\r\n\r\nabc\r\n--b--\r\n": http.StatusOK,
	} {
		answer := d.request(t, "POST", "/files?path="+path, strings.NewReader(body),
			map[string]string{"Content-Type": "multipart/form-data; boundary=b"})
		if got := text(t, answer); answer.StatusCode != want {
			t.Errorf("%q: %d %s", body, answer.StatusCode, got)
		}
	}
}

func TestBadPathsAreRefused(t *testing.T) {
	d := configured(t)
	dir := t.TempDir()

	for path, status := range map[string]int{
		"/files?path=" + dir:                        http.StatusBadRequest,
		"/files?path=" + dir + "/none":              http.StatusNotFound,
		"/files?path=a%00b":                         http.StatusBadRequest,
		"/files?path=/dev/zero":                     http.StatusBadRequest,
		"/files?path=" + strings.Repeat("a/", 5000): http.StatusBadRequest,
		"/files?path=/x&username=nobody-here":       http.StatusUnauthorized,
	} {
		if got := d.request(t, "GET", path, nil, nil).StatusCode; got != status {
			t.Errorf("%.60s: %d, not %d", path, got, status)
		}
	}
}

func TestDirectoriesAreMadeListedMovedAndRemoved(t *testing.T) {
	d, ctx := configured(t), context.Background()
	client := d.files(connect.WithProtoJSON())
	dir := filepath.Join(t.TempDir(), "new")

	if _, err := client.MakeDir(ctx, connect.NewRequest(&filesystem.MakeDirRequest{Path: dir})); err != nil {
		t.Fatal(err)
	}
	_, err := client.MakeDir(ctx, connect.NewRequest(&filesystem.MakeDirRequest{Path: dir}))
	if connect.CodeOf(err) != connect.CodeAlreadyExists {
		t.Errorf("again: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "file"), []byte("12345"), 0o640); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("file", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	list, err := client.ListDir(ctx, connect.NewRequest(&filesystem.ListDirRequest{Path: dir}))
	if err != nil || len(list.Msg.GetEntries()) != 2 {
		t.Fatalf("%v %v", list, err)
	}
	file := list.Msg.GetEntries()[0]
	if file.GetName() != "file" || file.GetSize() != 5 || file.GetMode() != 0o640 || file.GetPermissions() != "-rw-r-----" || file.GetOwner() != "root" {
		t.Errorf("entry %v", file)
	}
	moved := filepath.Join(dir, "deep", "moved")
	if _, err := client.Move(ctx, connect.NewRequest(&filesystem.MoveRequest{Source: filepath.Join(dir, "file"), Destination: moved})); err != nil {
		t.Error(err)
	}
	if _, err := client.Remove(ctx, connect.NewRequest(&filesystem.RemoveRequest{Path: dir})); err != nil {
		t.Error(err)
	}
	_, err = client.Stat(ctx, connect.NewRequest(&filesystem.StatRequest{Path: moved}))
	if connect.CodeOf(err) != connect.CodeNotFound {
		t.Errorf("stat: %v", err)
	}
}

func TestARecursiveWatchSeesWhatAppearsInNewDirectories(t *testing.T) {
	d, ctx := configured(t), context.Background()
	client := d.files()
	dir := t.TempDir()
	made, err := client.CreateWatcher(ctx, connect.NewRequest(&filesystem.CreateWatcherRequest{Path: dir, Recursive: true}))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(dir, "a", "b"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "a", "b", "c"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for end := time.Now().Add(10 * time.Second); !seen["a/b/c"]; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("saw only %v", seen)
		}
		events, err := client.GetWatcherEvents(ctx, connect.NewRequest(&filesystem.GetWatcherEventsRequest{WatcherId: made.Msg.GetWatcherId()}))
		if err != nil {
			t.Fatal(err)
		}
		for _, event := range events.Msg.GetEvents() {
			seen[event.GetName()] = true
		}
	}
}

func TestATunnelLeadsToLoopbackOnly(t *testing.T) {
	d := configured(t)
	inside := listen(t)
	go func() {
		for {
			conn, err := inside.Accept()
			if errors.Is(err, net.ErrClosed) {
				return
			}
			_, _ = io.Copy(conn, conn)
			_ = conn.Close()
		}
	}()
	t.Cleanup(func() { _ = inside.Close() })
	address := strings.TrimPrefix(d.privateURL, "http://")

	ask := func(target string) (net.Conn, string) {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		_, _ = fmt.Fprintf(conn, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n", target, target)
		buffer := make([]byte, 19)
		n, _ := io.ReadFull(conn, buffer)
		return conn, string(buffer[:n])
	}

	conn, status := ask(inside.Addr().String())
	if !strings.HasPrefix(status, "HTTP/1.1 200 OK") {
		t.Fatal(status)
	}
	_, _ = io.WriteString(conn, "ping")
	echo := make([]byte, 4)
	if _, err := io.ReadFull(conn, echo); err != nil || string(echo) != "ping" {
		t.Errorf("%q %v", echo, err)
	}
	for _, target := range []string{"10.0.0.1:80", "127.0.0.1:49982", "127.0.0.1:0", "localhost:80", "127.0.0.1:080"} {
		if _, status := ask(target); strings.Contains(status, " 200 ") {
			t.Errorf("%s: %s", target, status)
		}
	}
}
