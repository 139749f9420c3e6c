package guestd

import (
	"fmt"
	"math"
	"net/http"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"atoll.dev/dataplane/guestd/wire"
)

// meter tells what the sandbox uses, measured when somebody asks: the CPU between two questions.
type meter struct {
	mu   sync.Mutex
	at   time.Time
	used time.Duration
}

func newMeter() *meter {
	return &meter{at: time.Now(), used: cpuUsed()}
}

type metricsAnswer struct {
	Timestamp   int64   `json:"ts"`
	CPUCount    int     `json:"cpu_count"`
	CPUUsed     float64 `json:"cpu_used_pct"`
	MemTotal    uint64  `json:"mem_total"`
	MemUsed     uint64  `json:"mem_used"`
	MemCache    uint64  `json:"mem_cache"`
	MemTotalMiB uint64  `json:"mem_total_mib"`
	MemUsedMiB  uint64  `json:"mem_used_mib"`
	DiskUsed    uint64  `json:"disk_used"`
	DiskTotal   uint64  `json:"disk_total"`
}

func (s *Server) serveMetrics(w http.ResponseWriter, r *http.Request) {
	answer := metricsAnswer{Timestamp: unixNow(), CPUCount: runtime.NumCPU(), CPUUsed: s.metrics.percent()}
	memory := meminfo()
	answer.MemTotal = memory["MemTotal"]
	if promised := settingsOf(r).MemoryBytes; promised > 0 && (answer.MemTotal == 0 || promised < answer.MemTotal) {
		answer.MemTotal = promised
	}
	answer.MemCache = memory["Cached"] + memory["Buffers"]
	if spare := memory["MemFree"] + answer.MemCache; memory["MemTotal"] > spare {
		answer.MemUsed = memory["MemTotal"] - spare
	}
	answer.MemTotalMiB, answer.MemUsedMiB = answer.MemTotal>>20, answer.MemUsed>>20
	var disk unix.Statfs_t
	if unix.Statfs("/", &disk) == nil {
		answer.DiskTotal = disk.Blocks * uint64(disk.Bsize)
		answer.DiskUsed = (disk.Blocks - disk.Bfree) * uint64(disk.Bsize)
	}
	w.Header().Set("Cache-Control", "no-store")
	wire.JSON(w, http.StatusOK, answer)
}

// percent is of all CPUs together, since the last question.
func (m *meter) percent() float64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	now, used := time.Now(), cpuUsed()
	passed, worked := now.Sub(m.at), used-m.used
	if passed <= 0 {
		return 0
	}
	m.at, m.used = now, used
	share := 100 * float64(worked) / float64(passed) / float64(runtime.NumCPU())
	return math.Round(min(max(share, 0), 100)*100) / 100
}

// cpuUsed is the CPU time of everything in the sandbox: what its root cgroup counts, or /proc/stat where it has none.
func cpuUsed() time.Duration {
	for _, mount := range CgroupMounts {
		content, err := os.ReadFile(mount + "/cpu.stat")
		if err != nil {
			continue
		}
		var microseconds int64
		if _, err := fmt.Sscanf(string(content), "usage_usec %d", &microseconds); err == nil {
			return time.Duration(microseconds) * time.Microsecond
		}
	}
	return cpuUsedByKernel()
}

func cpuUsedByKernel() time.Duration {
	content, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0
	}
	var user, nice, system int64
	if _, err := fmt.Sscanf(string(content), "cpu %d %d %d", &user, &nice, &system); err != nil {
		return 0
	}
	const tick = 10 * time.Millisecond // USER_HZ is 100 everywhere.
	return time.Duration(user+nice+system) * tick
}

// meminfo reads /proc/meminfo, in bytes.
func meminfo() map[string]uint64 {
	values := map[string]uint64{}
	content, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return values
	}
	for line := range strings.Lines(string(content)) {
		name, rest, found := strings.Cut(line, ":")
		fields := strings.Fields(rest)
		if !found || len(fields) == 0 {
			continue
		}
		if n, err := strconv.ParseUint(fields[0], 10, 54); err == nil {
			values[name] = n << 10
		}
	}
	return values
}
