package commands

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/creack/pty"

	"atoll.dev/dataplane/guestd/accounts"
	"atoll.dev/dataplane/guestd/limits"
	"atoll.dev/dataplane/internal/gen/process"
)

// defaultPath is what commands get when guestd itself was started without a PATH.
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

func invalid(format string, args ...any) error {
	return connect.NewError(connect.CodeInvalidArgument, fmt.Errorf(format, args...))
}

func startError(err error) error {
	var busy *BusyError
	var start *StartError
	switch {
	case errors.As(err, &busy), errors.Is(err, errTooManyReaders):
		return connect.NewError(connect.CodeResourceExhausted, err)
	case errors.As(err, &start):
		return connect.NewError(connect.CodeInvalidArgument, err)
	}
	return connect.NewError(connect.CodeInternal, err)
}

// newSpec checks what a caller wants to run.
func newSpec(caller *accounts.Caller, req *process.StartRequest, timeout time.Duration) (*Spec, error) {
	config := req.GetProcess()
	if err := checkArguments(config); err != nil {
		return nil, err
	}
	if err := CheckEnv(config.GetEnvs()); err != nil {
		return nil, invalid("%s", err)
	}
	if len(req.GetTag()) > limits.NameBytes {
		return nil, invalid("tag is longer than %d bytes", limits.NameBytes)
	}
	dir, err := workingDirectory(caller, config.GetCwd())
	if err != nil {
		return nil, err
	}
	spec := &Spec{
		Config: config, Env: environment(caller, config.GetEnvs()), Dir: dir, User: caller.User,
		Tag: req.Tag, Stdin: req.Stdin == nil || req.GetStdin(), Timeout: timeout,
	}
	if req.GetPty() != nil {
		if spec.Size, err = terminalSize(req.GetPty()); err != nil {
			return nil, err
		}
	}
	return spec, nil
}

func checkArguments(config *process.ProcessConfig) error {
	if config.GetCmd() == "" {
		return invalid("cmd is empty")
	}
	if len(config.GetArgs()) > limits.Arguments {
		return invalid("more than %d arguments", limits.Arguments)
	}
	if strings.ContainsRune(config.GetCmd(), 0) {
		return invalid("cmd contains a NUL byte")
	}
	for _, arg := range config.GetArgs() {
		if strings.ContainsRune(arg, 0) {
			return invalid("an argument contains a NUL byte")
		}
	}
	return nil
}

// CheckEnv refuses variables that cannot be handed to a program.
func CheckEnv(env map[string]string) error {
	if len(env) > limits.EnvVariables {
		return fmt.Errorf("more than %d environment variables", limits.EnvVariables)
	}
	total := 0
	for key, value := range env {
		if key == "" || strings.ContainsAny(key, "=\x00") || strings.ContainsRune(value, 0) {
			return fmt.Errorf("environment variable '%.64q' is not one", key)
		}
		total += len(key) + len(value) + 2
	}
	if total > limits.EnvBytes {
		return fmt.Errorf("environment is larger than %d bytes", limits.EnvBytes)
	}
	return nil
}

func environment(caller *accounts.Caller, request map[string]string) map[string]string {
	path := os.Getenv("PATH")
	if path == "" {
		path = defaultPath
	}
	env := map[string]string{"PATH": path, "HOME": caller.User.Home, "USER": caller.User.Name, "LOGNAME": caller.User.Name}
	for key, value := range caller.Settings.Env {
		env[key] = value
	}
	for key, value := range request {
		env[key] = value
	}
	return env
}

// workingDirectory resolves cwd. A home that does not exist is no reason to refuse a command that named no place.
func workingDirectory(caller *accounts.Caller, cwd string) (string, error) {
	dir, err := caller.Resolve(cwd)
	if err != nil {
		return "", invalid("%s", err)
	}
	info, err := os.Stat(dir)
	switch {
	case err == nil && info.IsDir():
		return dir, nil
	case err == nil:
		return "", invalid("cwd '%s' is not a directory", dir)
	case cwd == "" && caller.Settings.Workdir == "":
		return "/", nil
	}
	return "", invalid("cwd '%s' does not exist", dir)
}

func terminalSize(p *process.PTY) (*pty.Winsize, error) {
	cols, rows := p.GetSize().GetCols(), p.GetSize().GetRows()
	if cols > limits.TerminalSide || rows > limits.TerminalSide {
		return nil, invalid("a terminal has at most %d rows and columns", limits.TerminalSide)
	}
	return &pty.Winsize{Cols: uint16(cols), Rows: uint16(rows)}, nil
}
