package commands

import (
	"syscall"

	"google.golang.org/protobuf/proto"

	"atoll.dev/dataplane/internal/gen/process"
)

func startEvent(pid int) *process.ProcessEvent {
	return &process.ProcessEvent{Event: &process.ProcessEvent_Start{Start: &process.ProcessEvent_StartEvent{Pid: uint32(pid)}}}
}

func stdoutEvent(data []byte) *process.ProcessEvent {
	return dataEvent(&process.ProcessEvent_DataEvent{Output: &process.ProcessEvent_DataEvent_Stdout{Stdout: data}})
}

func stderrEvent(data []byte) *process.ProcessEvent {
	return dataEvent(&process.ProcessEvent_DataEvent{Output: &process.ProcessEvent_DataEvent_Stderr{Stderr: data}})
}

func terminalEvent(data []byte) *process.ProcessEvent {
	return dataEvent(&process.ProcessEvent_DataEvent{Output: &process.ProcessEvent_DataEvent_Pty{Pty: data}})
}

func dataEvent(data *process.ProcessEvent_DataEvent) *process.ProcessEvent {
	return &process.ProcessEvent{Event: &process.ProcessEvent_Data{Data: data}}
}

func keepAliveEvent() *process.ProcessEvent {
	return &process.ProcessEvent{Event: &process.ProcessEvent_Keepalive{Keepalive: &process.ProcessEvent_KeepAlive{}}}
}

// endEvent tells how the main process ended; killed is why we ended one of its processes, if we did.
// A command that got over that loss and ended well has no error.
func endEvent(status syscall.WaitStatus, killed *string) *process.ProcessEvent {
	end := &process.ProcessEvent_EndEvent{ExitCode: -1, Exited: status.Exited(), Status: describe(status)}
	if status.Exited() {
		end.ExitCode = int32(status.ExitStatus())
	}
	if !status.Exited() || status.ExitStatus() != 0 {
		end.Error = proto.String(end.Status)
		if killed != nil {
			end.Error = killed
		}
	}
	return &process.ProcessEvent{Event: &process.ProcessEvent_End{End: end}}
}

// describe says what os.ProcessState.String does: clients show it.
func describe(status syscall.WaitStatus) string {
	text := "exit status " + itoa(status.ExitStatus())
	if status.Signaled() {
		text = "signal: " + status.Signal().String()
	}
	if status.CoreDump() {
		text += " (core dumped)"
	}
	return text
}
