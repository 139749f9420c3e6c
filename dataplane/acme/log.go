package acme

import (
	"context"
	"log/slog"
	"slices"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// newLogger has what certmagic warns of stand in our log. Its lesser words are many, and ours say the same.
func newLogger(log *slog.Logger) *zap.Logger { return zap.New(slogCore{log: log}) }

type slogCore struct {
	log    *slog.Logger
	fields []zapcore.Field
}

func (slogCore) Enabled(level zapcore.Level) bool { return level >= zapcore.WarnLevel }

func (c slogCore) With(fields []zapcore.Field) zapcore.Core {
	return slogCore{log: c.log, fields: slices.Concat(c.fields, fields)}
}

func (c slogCore) Check(entry zapcore.Entry, checked *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if c.Enabled(entry.Level) {
		return checked.AddCore(entry, c)
	}
	return checked
}

func (c slogCore) Write(entry zapcore.Entry, fields []zapcore.Field) error {
	level := slog.LevelWarn
	if entry.Level >= zapcore.ErrorLevel {
		level = slog.LevelError
	}
	known := zapcore.NewMapObjectEncoder()
	for _, field := range slices.Concat(c.fields, fields) {
		field.AddTo(known)
	}
	c.log.Log(context.Background(), level, "acme: "+entry.Message, "about", known.Fields)
	return nil
}

func (slogCore) Sync() error { return nil }
