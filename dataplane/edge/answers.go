package edge

import (
	"bytes"
	"encoding/json"
	"errors"
	"html/template"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"syscall"
)

// problem is an answer of our own about a sandbox. E2B's clients read its message; the order of its fields
// is theirs too.
type problem struct {
	SandboxID string `json:"sandboxId"`
	Message   string `json:"message"`
	Port      int    `json:"port,omitempty"`
	Code      int    `json:"code"`

	// retryAfter, in seconds, says that the same request may do later; definite that it never will.
	retryAfter int
	definite   bool
}

func notFound(id string) *problem {
	return &problem{SandboxID: id, Message: "The sandbox was not found", Code: http.StatusBadGateway, definite: true}
}

// cutOff begins as notFound does: by that, clients know a sandbox that does not run. Which of the two it was, the server
// knows, and would wake the sandbox to tell. A route is also taken back where the sandbox got another address, or its owner
// changed who may reach it; whoever asks again finds out.
func cutOff(id string) *problem {
	return &problem{
		SandboxID: id, Message: "The sandbox was not found any more: it was paused or ended while it had this request",
		Code: http.StatusBadGateway, definite: true,
	}
}

func inTransition(id string) *problem {
	return &problem{
		SandboxID: id, Message: "The sandbox is still transitioning. Please try again later.", Code: http.StatusConflict,
	}
}

func portClosed(t target) *problem {
	return &problem{
		SandboxID: t.id, Message: "The sandbox is running but port is not open", Port: t.port, Code: http.StatusBadGateway,
	}
}

func noConnection(t target) *problem {
	return &problem{
		SandboxID: t.id, Message: "The sandbox is running but accepted no connection in time", Port: t.port,
		Code: http.StatusGatewayTimeout,
	}
}

// badAnswer names what the kernel said of the connection, if that was it. What the program said stays with it.
func badAnswer(t target, err error) *problem {
	message := "The program on the port gave no valid HTTP answer"
	var operation *net.OpError
	var number syscall.Errno
	switch {
	case errors.As(err, &operation) && errors.As(err, &number):
		message += ": " + operation.Op + ": " + number.Error()
	case errors.Is(err, io.EOF):
		message += ": it closed the connection"
	}
	return &problem{SandboxID: t.id, Message: message, Port: t.port, Code: http.StatusBadGateway, definite: true}
}

func badBody(t target) *problem {
	return &problem{SandboxID: t.id, Message: unreadableBody, Port: t.port, Code: http.StatusBadRequest, definite: true}
}

// unreadableBody is the client's fault, on whichever side of the edge it was found.
const unreadableBody = "The request's body ended early or is not framed as HTTP has it"

func tooManyRequests(t target) *problem {
	return &problem{
		SandboxID: t.id, Message: "Too many connections to the sandbox", Port: t.port,
		Code: http.StatusTooManyRequests, retryAfter: 1,
	}
}

// serverAwayMessage is what clients hear while nobody serves the API; which of the two it is, we cannot see.
const serverAwayMessage = "The server does not answer: it is starting, or has ended. Please try again later."

func serverAwayFor(id string) *problem {
	return &problem{
		SandboxID: id, Message: serverAwayMessage,
		Code: http.StatusServiceUnavailable, retryAfter: 1,
	}
}

// refusedBy says in the server's words why a sandbox was not woken. To clients 409 means that it is in transition, or
// that a directory exists already; what a sandbox's state forbids is a resume that is denied.
func refusedBy(refused *serverRefusal, id string) *problem {
	told := &problem{SandboxID: id, Message: refused.message, Code: refused.status, definite: true}
	switch {
	case refused.status == http.StatusConflict:
		told.Code = http.StatusForbidden
	case refused.mayPass():
		// Not 502, which tells clients that there is no such sandbox.
		told.Code, told.retryAfter, told.definite = http.StatusServiceUnavailable, 1, false
	}
	return told
}

var page = template.Must(template.New("problem").Parse(`<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{{.Message}}</title></head>
<body style="font-family: sans-serif; margin: 4em auto; max-width: 40em">
<h1>{{.Message}}</h1>
<p>Sandbox <code>{{.SandboxID}}</code>{{if .Port}}, port <code>{{.Port}}</code>{{end}}</p>
</body></html>
`))

// write answers with a page where a person navigates, with JSON everywhere else.
func (p *problem) write(w http.ResponseWriter, r *http.Request) {
	p.hint(w.Header())
	if !isNavigation(r) {
		writeJSON(w, p.Code, p)
		return
	}
	var text bytes.Buffer
	_ = page.Execute(&text, p) // The page is ours, and so are the fields.
	writeWhole(w, p.Code, "text/html; charset=utf-8", text.Bytes())
}

// hint tells clients that retry by themselves what to do.
func (p *problem) hint(header http.Header) {
	if p.retryAfter > 0 {
		header.Set("Retry-After", strconv.Itoa(p.retryAfter))
	}
	if p.definite {
		header.Set("Should-Retry", "false")
	}
}

func isNavigation(r *http.Request) bool {
	if mode := r.Header.Get("Sec-Fetch-Mode"); mode != "" {
		return mode == "navigate"
	}
	return r.Method == http.MethodGet && strings.Contains(r.Header.Get("Accept"), "text/html")
}

// apiError is the form of errors on the API's side.
type apiError struct {
	Code    int    `json:"code"`
	Message string `json:"message"`
}

func writeAPIError(w http.ResponseWriter, status int, message string) {
	writeJSON(w, status, apiError{Code: status, Message: message})
}

func writeJSON(w http.ResponseWriter, status int, body any) {
	text, _ := json.Marshal(body) // The types are ours.
	writeWhole(w, status, "application/json", append(text, '\n'))
}

// writeWhole says how long the answer is, so that a client knows its end while we read what the client still sends.
func writeWhole(w http.ResponseWriter, status int, kind string, text []byte) {
	w.Header().Set("Content-Type", kind)
	w.Header().Set("Content-Length", strconv.Itoa(len(text)))
	w.WriteHeader(status)
	_, _ = w.Write(text) // The client may be gone; there is nobody else to tell.
}
