// Package signals keeps the guest's signals from guestd, and guestd's handlers from the guest's commands.
package signals

import (
	"os"
	"os/signal"

	"golang.org/x/sys/unix"
)

// Signals are numbered from 1 to this.
const last = 64

// Take handles every signal that can be taken, so that none of the guest's ends its PID 1.
// They are handled by doing nothing, not ignored: commands would inherit that. Number 33 too, whose handler in the Go
// runtime ends the process when a guest sends it: so nothing in guestd may use syscall.AllThreadsSyscall.
func Take() {
	var swallowed []unix.Signal
	var notified []os.Signal
	for number := unix.Signal(1); number <= last; number++ {
		switch number {
		case unix.SIGKILL, unix.SIGSTOP: // Nobody can.
		case unix.SIGCHLD, unix.SIGURG: // Ours, and the Go runtime's.
		case unix.SIGILL, unix.SIGTRAP, unix.SIGABRT, unix.SIGBUS, unix.SIGFPE, unix.SIGSEGV, unix.SIGSYS,
			unix.SIGSTKFLT, unix.SIGPROF, unix.SIGPIPE:
			// The runtime needs its handler for those that we raise ourselves.
			notified = append(notified, number)
		default:
			swallowed = append(swallowed, number)
		}
	}
	signal.Notify(make(chan os.Signal, 1), notified...)
	swallow(swallowed)
}
