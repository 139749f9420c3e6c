// Package settings holds what the sandbox was told last.
// A value is immutable once published; readers take one pointer and see one configuration.
package settings

import "sync/atomic"

// Settings is one configuration of the sandbox.
type Settings struct {
	Generation  uint64
	SandboxID   string
	Env         map[string]string // for every command, E2B_* of the identity included
	AccessToken string            // empty: nobody has to show one
	User        string            // who runs commands that name nobody
	Workdir     string            // where; empty: the user's home
	MemoryBytes uint64            // 0: what the kernel says
}

// Current is the configuration in force; its zero value says that there is none yet.
type Current struct {
	settings atomic.Pointer[Settings]
}

// Get returns the configuration, nil before the first.
func (c *Current) Get() *Settings { return c.settings.Load() }

// Set publishes s, which nobody changes any more.
func (c *Current) Set(s *Settings) { c.settings.Store(s) }
