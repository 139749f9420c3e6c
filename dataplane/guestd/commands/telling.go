package commands

import (
	"time"

	"atoll.dev/dataplane/guestd/journal"
	"atoll.dev/dataplane/internal/gen/process"
)

// logger is what E2B's clients filter lines of commands by.
var logger = journal.Field{Name: "logger", Value: "process"}

// tellStarted notes a start, with what was run and by whom; never its environment, where secrets are.
func (t *Table) tellStarted(c *Command, spec *Spec) {
	t.events.Add(journal.Info, "process started", append(described(spec), journal.Field{Name: "pid", Value: c.pid})...)
}

// tellRefused notes a start that failed.
func (t *Table) tellRefused(spec *Spec, err error) {
	t.events.Add(journal.Warn, "process not started", append(described(spec), journal.Field{Name: "error", Value: err.Error()})...)
}

// tellEnded notes how a command ended.
func (t *Table) tellEnded(c *Command, end *process.ProcessEvent_EndEvent) {
	fields := []journal.Field{
		logger, {Name: "pid", Value: c.pid}, {Name: "exit_code", Value: end.GetExitCode()}, {Name: "status", Value: end.GetStatus()},
		{Name: "milliseconds", Value: time.Since(c.started).Milliseconds()},
	}
	if end.GetError() != "" && end.GetError() != end.GetStatus() {
		fields = append(fields, journal.Field{Name: "error", Value: end.GetError()})
	}
	t.events.Add(journal.Info, "process ended", fields...)
}

func described(spec *Spec) []journal.Field {
	fields := []journal.Field{
		logger, {Name: "cmd", Value: spec.Config.GetCmd()}, {Name: "args", Value: spec.Config.GetArgs()},
		{Name: "user", Value: spec.User.Name}, {Name: "cwd", Value: spec.Dir},
	}
	if spec.Tag != nil {
		fields = append(fields, journal.Field{Name: "tag", Value: *spec.Tag})
	}
	return fields
}
