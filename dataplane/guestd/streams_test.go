package guestd_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	"atoll.dev/dataplane/guestd/commands"
	"atoll.dev/dataplane/internal/gen/process"
	"atoll.dev/dataplane/internal/gen/process/processconnect"
)

// command is one that a test talks to while it runs.
type command struct {
	t      *testing.T
	client processconnect.ProcessClient
	stream *connect.ServerStreamForClient[process.StartResponse]
	pid    uint32
}

func begin(t *testing.T, d *daemon, request *process.StartRequest) *command {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	req := connect.NewRequest(request)
	req.Header().Set("X-Access-Token", token)
	stream, err := d.processes().Start(ctx, req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = stream.Close() })
	if !stream.Receive() {
		t.Fatal(stream.Err())
	}
	return &command{t: t, client: d.processes(), stream: stream, pid: stream.Msg().GetEvent().GetStart().GetPid()}
}

func shell(script string, stdin bool) *process.StartRequest {
	return &process.StartRequest{
		Process: &process.ProcessConfig{Cmd: "/bin/sh", Args: []string{"-c", script}}, Stdin: &stdin,
	}
}

func (c *command) selector() *process.ProcessSelector {
	return &process.ProcessSelector{Selector: &process.ProcessSelector_Pid{Pid: c.pid}}
}

// rest collects everything up to the end.
func (c *command) rest() (output []byte, end *process.ProcessEvent_EndEvent) {
	c.t.Helper()
	for c.stream.Receive() {
		event := c.stream.Msg().GetEvent()
		output = append(output, event.GetData().GetStdout()...)
		output = append(output, event.GetData().GetPty()...)
		if event.GetEnd() != nil {
			end = event.GetEnd()
		}
	}
	if err := c.stream.Err(); err != nil {
		c.t.Fatal(err)
	}
	return output, end
}

// until reads output until it contains text.
func (c *command) until(text string) {
	c.t.Helper()
	var output []byte
	for !bytes.Contains(output, []byte(text)) {
		if !c.stream.Receive() {
			c.t.Fatalf("the stream ended (%v) after %q", c.stream.Err(), output)
		}
		output = append(output, c.stream.Msg().GetEvent().GetData().GetStdout()...)
	}
}

func (c *command) signal(signal process.Signal) error {
	_, err := c.client.SendSignal(context.Background(), connect.NewRequest(&process.SendSignalRequest{Process: c.selector(), Signal: signal}))
	return err
}

func (c *command) input(data string) error {
	_, err := c.client.SendInput(context.Background(), connect.NewRequest(&process.SendInputRequest{
		Process: c.selector(), Input: &process.ProcessInput{Input: &process.ProcessInput_Stdin{Stdin: []byte(data)}},
	}))
	return err
}

func TestInputReachesACommandUntilItIsClosed(t *testing.T) {
	c := begin(t, configured(t), shell("cat", true))

	if err := c.input("one "); err != nil {
		t.Fatal(err)
	}
	if err := c.input("two"); err != nil {
		t.Fatal(err)
	}
	if _, err := c.client.CloseStdin(context.Background(), connect.NewRequest(&process.CloseStdinRequest{Process: c.selector()})); err != nil {
		t.Fatal(err)
	}
	output, end := c.rest()

	if string(output) != "one two" || end.GetExitCode() != 0 {
		t.Errorf("%q %v", output, end)
	}
}

func TestACommandWithoutInputRefusesIt(t *testing.T) {
	c := begin(t, configured(t), shell("sleep 60", false))

	err := c.input("x")

	if connect.CodeOf(err) != connect.CodeInternal {
		t.Errorf("got %v", err)
	}
	if err := c.signal(process.Signal_SIGNAL_SIGKILL); err != nil {
		t.Error(err)
	}
	c.rest()
}

func TestACommandThatIgnoresSIGTERMIsKilled(t *testing.T) {
	c := begin(t, configured(t), shell("trap '' TERM; echo ready; while :; do sleep 0.1; done", false))
	c.until("ready")

	if err := c.signal(process.Signal_SIGNAL_SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := c.signal(process.Signal_SIGNAL_SIGKILL); err != nil {
		t.Fatal(err)
	}
	_, end := c.rest()

	if end.GetExitCode() != -1 || end.GetExited() || end.GetStatus() != "signal: killed" {
		t.Errorf("%v", end)
	}
	if err := c.signal(process.Signal_SIGNAL_SIGKILL); connect.CodeOf(err) != connect.CodeNotFound {
		t.Errorf("a command that ended got a signal: %v", err)
	}
}

func TestSIGKILLReachesWhatAnEndedCommandLeftRunning(t *testing.T) {
	c := begin(t, configured(t), shell("setsid sleep 300 >/dev/null 2>&1 & echo $!", false))
	output, _ := c.rest()

	if err := c.signal(process.Signal_SIGNAL_SIGKILL); err != nil {
		t.Fatal(err)
	}

	// Whoever adopted it may not have reaped it yet.
	stat, err := os.ReadFile("/proc/" + strings.TrimSpace(string(output)) + "/stat")
	if err == nil && !strings.Contains(string(stat), ") Z ") {
		t.Errorf("it lives on: %s", stat)
	}
	if err := c.signal(process.Signal_SIGNAL_SIGKILL); connect.CodeOf(err) != connect.CodeNotFound {
		t.Errorf("nobody is left, and yet: %v", err)
	}
}

func TestALateReaderGetsStartAndEnd(t *testing.T) {
	c := begin(t, configured(t), shell("exit 5", false))
	c.rest()

	req := connect.NewRequest(&process.ConnectRequest{Process: c.selector()})
	req.Header().Set("X-Access-Token", token)
	stream, err := c.client.Connect(context.Background(), req)
	if err != nil {
		t.Fatal(err)
	}
	var events []*process.ProcessEvent
	for stream.Receive() {
		events = append(events, stream.Msg().GetEvent())
	}

	if len(events) != 2 || events[0].GetStart().GetPid() != c.pid || events[1].GetEnd().GetExitCode() != 5 {
		t.Errorf("%v %v", events, stream.Err())
	}
}

func TestOfTwoCommandsWithOneTagTheNewestIsFound(t *testing.T) {
	d := configured(t)
	tag := "twice"
	first, second := shell("sleep 60", false), shell("sleep 60", false)
	first.Tag, second.Tag = &tag, &tag
	a, b := begin(t, d, first), begin(t, d, second)

	_, err := b.client.SendSignal(context.Background(), connect.NewRequest(&process.SendSignalRequest{
		Process: &process.ProcessSelector{Selector: &process.ProcessSelector_Tag{Tag: tag}}, Signal: process.Signal_SIGNAL_SIGKILL,
	}))
	if err != nil {
		t.Fatal(err)
	}

	b.rest()
	if err := a.signal(process.Signal_SIGNAL_SIGKILL); err != nil {
		t.Errorf("the first was hit: %v", err)
	}
	a.rest()
}

func TestATerminalHasASizeAndIsTheUsers(t *testing.T) {
	request := shell("tty && stty size && stat -c %U $(tty)", true)
	request.Pty = &process.PTY{Size: &process.PTY_Size{Cols: 91, Rows: 17}}
	c := begin(t, configured(t), request)

	output, end := c.rest()

	text := string(output)
	if !strings.Contains(text, "/dev/pts/") || !strings.Contains(text, "17 91") || !strings.Contains(text, "root") || end.GetExitCode() != 0 {
		t.Errorf("%q %v", text, end)
	}
}

func TestACommandThatClosesItsOutputLivesOn(t *testing.T) {
	before := time.Now()
	c := begin(t, configured(t), shell("exec >&- 2>&-; sleep 1; exit 6", false))

	_, end := c.rest()

	if end.GetExitCode() != 6 || time.Since(before) < time.Second {
		t.Errorf("%v after %s", end, time.Since(before))
	}
}

func TestAllOutputComesBeforeTheEndWhateverItsBytes(t *testing.T) {
	c := begin(t, configured(t), shell(`head -c 3000000 /dev/zero; printf '\377\376end'`, false))

	output, end := c.rest()

	if len(output) != 3_000_005 || !bytes.HasSuffix(output, []byte("\xff\xfeend")) || end == nil {
		t.Errorf("%d bytes, end %v", len(output), end)
	}
}

func TestACommandRunsOnWhenItsClientVanishes(t *testing.T) {
	d := configured(t)
	marker := t.TempDir() + "/done"
	conn, err := net.Dial("tcp", strings.TrimPrefix(d.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	body := `{"process":{"cmd":"/bin/sh","args":["-c","head -c 50000000 /dev/zero; touch ` + marker + `"]},"stdin":false}`
	frame := string(append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(body))), body...))
	request := fmt.Sprintf("POST /process.Process/Start HTTP/1.1\r\nHost: x\r\nX-Access-Token: %s\r\n"+
		"Content-Type: application/connect+json\r\nContent-Length: %d\r\n\r\n%s", token, len(frame), frame)
	if _, err := conn.Write([]byte(request)); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Read(make([]byte, 512)); err != nil {
		t.Fatal(err)
	}
	if err := conn.Close(); err != nil {
		t.Fatal(err)
	}

	waitForFile(t, marker)
}

func waitForFile(t *testing.T, path string) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if _, err := os.Stat(path); err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%s does not appear", path)
		}
	}
}

// connectAgain re-attaches to a command and collects what comes up to its end.
func connectAgain(t *testing.T, c *command, recent string) (output []byte, answer http.Header, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	req := connect.NewRequest(&process.ConnectRequest{Process: c.selector()})
	req.Header().Set("X-Access-Token", token)
	if recent != "" {
		req.Header().Set(commands.RecentHeader, recent)
	}
	stream, err := c.client.Connect(ctx, req)
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = stream.Close() }()
	for stream.Receive() {
		output = append(output, stream.Msg().GetEvent().GetData().GetStdout()...)
	}
	return output, stream.ResponseHeader(), stream.Err()
}

func TestWhoComesBackGetsRecentOutputOnlyWhenAsked(t *testing.T) {
	d := configured(t)
	running := begin(t, d, shell("echo past; read line; echo future", true))
	running.until("past")
	_ = running.stream.Close()
	type outcome struct {
		output []byte
		answer http.Header
		err    error
	}
	plain, asked := make(chan outcome, 1), make(chan outcome, 1)
	for recent, told := range map[string]chan outcome{"": plain, "true": asked} {
		go func() {
			output, answer, err := connectAgain(t, running, recent)
			told <- outcome{output, answer, err}
		}()
	}
	time.Sleep(300 * time.Millisecond) // Both are attached: one of them must not see the past.
	input := connect.NewRequest(&process.SendInputRequest{
		Process: running.selector(), Input: &process.ProcessInput{Input: &process.ProcessInput_Stdin{Stdin: []byte("\n")}},
	})
	input.Header().Set("X-Access-Token", token)
	if _, err := running.client.SendInput(context.Background(), input); err != nil {
		t.Fatal(err)
	}

	one, two := <-plain, <-asked
	if one.err != nil || string(one.output) != "future\n" || one.answer.Get("Atoll-Recent-Bytes") != "" {
		t.Fatalf("without asking: %q %v %v", one.output, one.answer, one.err)
	}
	if two.err != nil || string(two.output) != "past\nfuture\n" || two.answer.Get("Atoll-Recent-Bytes") != "5" || two.answer.Get("Atoll-Lost-Bytes") != "0" {
		t.Fatalf("asking: %q %v %v", two.output, two.answer, two.err)
	}
	if output, _, err := connectAgain(t, running, "true"); err != nil || string(output) != "past\nfuture\n" {
		t.Fatalf("after the end: %q %v", output, err)
	}
	if _, _, err := connectAgain(t, running, "perhaps"); connect.CodeOf(err) != connect.CodeInvalidArgument {
		t.Fatalf("nonsense: %v", err)
	}
}
