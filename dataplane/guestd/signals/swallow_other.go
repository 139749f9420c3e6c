//go:build !amd64

package signals

import (
	"os"
	"os/signal"

	"golang.org/x/sys/unix"
)

// swallow takes signals with the runtime's own handler; see swallow_amd64.go for what that costs.
func swallow(signals []unix.Signal) {
	taken := make([]os.Signal, 0, len(signals))
	for _, number := range signals {
		taken = append(taken, number)
	}
	signal.Notify(make(chan os.Signal, 1), taken...)
}
