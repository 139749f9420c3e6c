// Package wire writes the plain HTTP answers of the daemon's port: JSON bodies with a numeric code.
package wire

import (
	"encoding/json"
	"net/http"
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
