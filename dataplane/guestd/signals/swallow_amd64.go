package signals

import (
	"os/signal"
	"unsafe"

	"golang.org/x/sys/unix"
)

// sigaction is the kernel's struct of that name.
type sigaction struct {
	handler  uintptr
	flags    uint64
	restorer uintptr
	mask     uint64
}

// From the kernel's signal.h; no package has them.
const (
	saRestorer = 0x04000000
	saOnStack  = 0x08000000
	saRestart  = 0x10000000
)

// In swallow_amd64.s: functions of the kernel's calling convention.
var handlerPC, restorerPC uintptr

// swallow gives signals a handler that does nothing, instead of the runtime's.
//
// The runtime resets each of its own handlers in every child that it forks, one call after the other: about fifty,
// which made a command's start a millisecond dearer. These are reset by execve itself. In the moment before it, when
// the child shares our memory, they do no harm: they touch nothing.
func swallow(signals []unix.Signal) {
	action := sigaction{
		handler: handlerPC, restorer: restorerPC,
		flags: saOnStack | saRestart | saRestorer,
		// One at a time: the frames of many would not fit on the small stack that signals have.
		mask: ^uint64(0),
	}
	for _, number := range signals {
		signal.Ignore(number) // The runtime lets go of it.
		// It fails for no signal that can be taken.
		_, _, _ = unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(number), uintptr(unsafe.Pointer(&action)), 0, unsafe.Sizeof(action.mask), 0, 0)
	}
}
