package edge

import (
	"io"
	"net"
	"net/http"
	"sync"
)

// liftedAnswer is the body of an answer whose first read carries all of it to the client.
type liftedAnswer struct {
	io.ReadCloser
	lifts *lifts
	from  *sandboxConn
	to    *answerWriter
}

// liftAnswer has a large answer lifted if neither connection is encrypted or multiplexed.
func liftAnswer(response *http.Response) {
	under := exchangeOf(response.Request.Context())
	from, plain := under.conn.(*sandboxConn)
	if under.answer == nil || !plain || under.multiplexed || response.ContentLength < liftedBytes || response.Body == http.NoBody {
		return
	}
	if from.tcp() != nil {
		response.Body = &liftedAnswer{ReadCloser: response.Body, lifts: under.lifts, from: from, to: under.answer}
	}
}

// Read comes with all of it behind it; there is nothing left for the caller to write.
func (a *liftedAnswer) Read([]byte) (int, error) {
	if _, err := a.to.lift(a); err != nil {
		return 0, err
	}
	return 0, io.EOF
}

// rest is what net/http hands on to the client's connection when it has sent the headers.
type rest struct {
	io.Reader
	answer *liftedAnswer
}

// copyTo sends what is left of the answer.
func (r *rest) copyTo(client *net.TCPConn) (int64, error) {
	from := r.answer.from
	l := r.answer.lifts.begin(from.tcp(), client)
	if l == nil {
		return copyPieces(client, r.Reader)
	}
	defer r.answer.lifts.end(l)
	from.lift.Store(l)
	defer from.lift.CompareAndSwap(l, nil)
	return l.copyTo(client, nil, r.Reader)
}

// answerWriter is a client's, in HTTP/1.1 without TLS.
type answerWriter struct {
	http.ResponseWriter
	client *client

	mu     sync.Mutex
	lifted bool
}

// answerWriterFor returns nil for other clients.
func answerWriterFor(w http.ResponseWriter, r *http.Request) *answerWriter {
	client, plain := r.Context().Value(clientKey{}).(*client)
	if !plain || r.ProtoMajor != 1 || r.Method == http.MethodHead {
		return nil
	}
	return &answerWriter{ResponseWriter: w, client: client}
}

// Unwrap is for http.ResponseController.
func (w *answerWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// FlushError is called while we lift, too: the proxy flushes the headers from another goroutine.
func (w *answerWriter) FlushError() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.lifted {
		return nil
	}
	return http.NewResponseController(w.ResponseWriter).Flush()
}

func (w *answerWriter) lift(answer *liftedAnswer) (int64, error) {
	w.mu.Lock()
	w.lifted = true
	w.mu.Unlock()
	// net/http would hold back headers and body until it has enough to guess their type from.
	if err := http.NewResponseController(w.ResponseWriter).Flush(); err != nil {
		return 0, err
	}
	return w.ResponseWriter.(io.ReaderFrom).ReadFrom(&rest{Reader: answer.ReadCloser, answer: answer})
}
