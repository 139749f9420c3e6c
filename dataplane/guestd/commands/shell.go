package commands

import (
	"time"

	"atoll.dev/dataplane/guestd/accounts"
	"atoll.dev/dataplane/internal/gen/process"
)

// ShellSpec is a line for caller's login shell, without input. tag is what lists call it; empty: nothing.
func ShellSpec(caller *accounts.Caller, line, tag string, timeout time.Duration) (*Spec, error) {
	noInput := false
	request := &process.StartRequest{
		Process: &process.ProcessConfig{Cmd: "/bin/bash", Args: []string{"-l", "-c", line}},
		Stdin:   &noInput,
	}
	if tag != "" {
		request.Tag = &tag
	}
	return newSpec(caller, request, timeout)
}
