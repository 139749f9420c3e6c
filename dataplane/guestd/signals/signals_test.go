package signals

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

const helperVariable = "ATOLL_TEST_TAKES_SIGNALS"

func TestMain(m *testing.M) {
	if os.Getenv(helperVariable) != "" {
		os.Exit(takesSignals())
	}
	os.Exit(m.Run())
}

// takesSignals is the process that the test below sends signals to: for each line it gets, it runs a child.
func takesSignals() int {
	Take()
	lines := bufio.NewScanner(os.Stdin)
	for fmt.Println("ready"); lines.Scan(); {
		out, err := exec.Command("cat", "/proc/self/status").Output()
		if err != nil {
			fmt.Println(err)
			return 1
		}
		fmt.Println(strings.ReplaceAll(string(out), "\n", " "))
	}
	return 0
}

func TestNoSignalEndsUsAndNoneReachesACommand(t *testing.T) {
	helper := exec.Command(os.Args[0], "-test.run=^$")
	helper.Env = append(os.Environ(), helperVariable+"=1")
	in, err := helper.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := helper.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := helper.Start(); err != nil {
		t.Fatal(err)
	}
	stuck := time.AfterFunc(30*time.Second, func() { _ = helper.Process.Kill() })
	defer stuck.Stop()
	lines := bufio.NewScanner(out)
	if !lines.Scan() || lines.Text() != "ready" {
		t.Fatalf("the helper did not start: %q", lines.Text())
	}
	for range 3 {
		for number := syscall.Signal(1); number <= last; number++ {
			if number == syscall.SIGKILL || number == syscall.SIGSTOP {
				continue
			}
			if err := helper.Process.Signal(number); err != nil {
				t.Fatalf("signal %d: %v", number, err)
			}
		}
		if _, err := in.Write([]byte("go on\n")); err != nil {
			t.Fatal(err)
		}
		if !lines.Scan() {
			t.Fatalf("the signals ended it: %v", helper.Wait())
		}
		child := regexp.MustCompile(` SigBlk:\t0+ SigIgn:\t0+ SigCgt:\t0+ `)
		if !child.MatchString(lines.Text()) {
			t.Fatalf("a child does not start with signals as they should be: %q", lines.Text())
		}
	}
	_ = in.Close()
	if err := helper.Wait(); err != nil {
		t.Errorf("it did not end as it should: %v", err)
	}
}
