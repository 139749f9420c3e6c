package edge

import (
	"context"
	"io"
	"log/slog"
	"sync/atomic"

	"golang.org/x/time/rate"
)

// NewLog returns a log of JSON lines, at most so many a second: what strangers can cause must not fill the disk.
// The next line that is written says how many were not.
func NewLog(out io.Writer, limits Limits) *slog.Logger {
	return slog.New(&boundedHandler{
		Handler: slog.NewJSONHandler(out, nil),
		shared:  &logBound{limiter: rate.NewLimiter(rate.Limit(limits.LogRate), limits.LogBurst)},
	})
}

type logBound struct {
	limiter *rate.Limiter
	dropped atomic.Int64
}

type boundedHandler struct {
	slog.Handler
	shared *logBound
}

func (h *boundedHandler) Handle(ctx context.Context, record slog.Record) error {
	if !h.shared.limiter.Allow() {
		h.shared.dropped.Add(1)
		return nil
	}
	if dropped := h.shared.dropped.Swap(0); dropped > 0 {
		record.AddAttrs(slog.Int64("lines_dropped", dropped))
	}
	return h.Handler.Handle(ctx, record)
}

func (h *boundedHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &boundedHandler{Handler: h.Handler.WithAttrs(attrs), shared: h.shared}
}

func (h *boundedHandler) WithGroup(name string) slog.Handler {
	return &boundedHandler{Handler: h.Handler.WithGroup(name), shared: h.shared}
}
