// Package wire is what the services of the daemon's port share of HTTP: plain answers, which are JSON bodies with a
// numeric code, and the header by which callers of streams say how much silence they bear.
package wire

import (
	"encoding/json"
	"net/http"
	"strconv"
	"time"

	"atoll.dev/dataplane/guestd/limits"
)

type failure struct {
	Code    int    `json:"code"`
	Message string `json:"message"`
}

// Error answers with {"code": code, "message": message}.
func Error(w http.ResponseWriter, code int, message string) {
	h := w.Header()
	h.Del("Content-Length")
	h.Set("X-Content-Type-Options", "nosniff")
	JSON(w, code, failure{Code: code, Message: message})
}

// JSON answers with value.
func JSON(w http.ResponseWriter, code int, value any) {
	body, err := json.Marshal(value)
	if err != nil {
		http.Error(w, `{"code":500,"message":"internal error"}`, http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_, _ = w.Write(append(body, '\n')) // The client may be gone: nobody to tell.
}

// KeepAlive reads the seconds of silence after which a stream says that it lives.
func KeepAlive(header http.Header) time.Duration {
	seconds, err := strconv.ParseUint(header.Get("Keepalive-Ping-Interval"), 10, 31)
	if err != nil || seconds == 0 {
		return limits.KeepAlive
	}
	return max(time.Duration(seconds)*time.Second, limits.KeepAliveLeast)
}
