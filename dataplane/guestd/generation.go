package guestd

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"atoll.dev/dataplane/guestd/limits"
	"atoll.dev/dataplane/guestd/settings"
)

const (
	// generationFile holds the generation of the sandbox, a number that grows with each restore: programs that
	// keep random numbers in stock watch it, and draw new ones.
	generationFile = "run/atoll/generation"
	// hooksDir holds programs that are run after each restore, before a request is let in.
	hooksDir = "etc/atoll/restored.d"
)

// announce tells the programs inside that they go on as another generation; the error is that of the file.
// What a hook does wrong is its own affair: nobody may keep a sandbox from coming back by it.
func (g *guestService) announce(next *settings.Settings, restored bool) error {
	root := g.server.options.Root
	generation := strconv.FormatUint(next.Generation, 10)
	err := writeFile(filepath.Join(root, generationFile), generation+"\n", 0o644)
	if hooks := filepath.Join(root, hooksDir); restored && !isEmpty(hooks) {
		g.runHooks(next, hooks, generation)
	}
	return err
}

// isEmpty says whether a directory has nothing in it, or is none.
func isEmpty(path string) bool {
	// A pipe would make us wait for somebody who writes.
	dir, err := os.OpenFile(path, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NONBLOCK, 0)
	if err != nil {
		return true
	}
	defer func() { _ = dir.Close() }()
	names, _ := dir.Readdirnames(1)
	return len(names) == 0
}

// runHooks runs the hooks one after the other, by their names, as root; those that take too long are killed.
func (g *guestService) runHooks(next *settings.Settings, hooks, generation string) {
	who, err := caller(next, "root")
	if err != nil {
		return
	}
	line := fmt.Sprintf(`export ATOLL_GENERATION=%s; for hook in '%s'/*; do [ -x "$hook" ] && "$hook"; done; exit 0`,
		generation, hooks)
	running, err := follow(g.server.table, who, line, "restored", limits.HooksTimeout)
	if err != nil {
		return
	}
	defer running.leave()
	timer := time.NewTimer(limits.HooksTimeout)
	defer timer.Stop()
	select {
	case <-running.ended:
	case <-timer.C:
	}
}
