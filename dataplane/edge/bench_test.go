package edge

import (
	"io"
	"log/slog"
	"net/http"
	"testing"
)

// Each pair is the same request, to the program and through the edge: the difference is what the edge costs.

func benchmarkHome(b *testing.B) (*sandbox, *http.Client) {
	h := newHome(b, func(c *Config) { c.Log = slog.New(slog.DiscardHandler) })
	s := h.newSandbox()
	s.serve(daemonPort, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet && r.URL.Path == "/file" {
			w.Header().Set("Content-Length", "104857600")
			piece := make([]byte, 1<<20)
			for range 100 {
				_, _ = w.Write(piece)
			}
			return
		}
		_, _ = io.CopyBuffer(struct{ io.Writer }{io.Discard}, r.Body, make([]byte, 64<<10))
	})
	return s, h.client
}

func (s *sandbox) direct(method, path string, body io.Reader) *http.Request {
	r := s.request(method, path, daemonPort, body)
	r.URL.Host = s.address + ":49983"
	return r
}

func benchmarkRequest(b *testing.B, client *http.Client, size int64, make func() *http.Request) {
	b.SetBytes(size)
	buffer := [64 << 10]byte{}
	for b.Loop() {
		response, err := client.Do(make())
		if err != nil {
			b.Fatal(err)
		}
		if _, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, response.Body, buffer[:]); err != nil {
			b.Fatal(err)
		}
		response.Body.Close()
		if response.StatusCode != http.StatusOK {
			b.Fatal(response.Status)
		}
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

func BenchmarkRequest(b *testing.B) {
	s, client := benchmarkHome(b)
	b.Run("direct", func(b *testing.B) {
		benchmarkRequest(b, client, 0, func() *http.Request { return s.direct(http.MethodGet, "/", nil) })
	})
	b.Run("edge", func(b *testing.B) {
		benchmarkRequest(b, client, 0, func() *http.Request { return s.request(http.MethodGet, "/", daemonPort, nil) })
	})
}

func BenchmarkDownload100MB(b *testing.B) {
	s, client := benchmarkHome(b)
	const size = 100 << 20
	b.Run("direct", func(b *testing.B) {
		benchmarkRequest(b, client, size, func() *http.Request { return s.direct(http.MethodGet, "/file", nil) })
	})
	b.Run("edge", func(b *testing.B) {
		benchmarkRequest(b, client, size, func() *http.Request { return s.request(http.MethodGet, "/file", daemonPort, nil) })
	})
}

func BenchmarkUpload100MB(b *testing.B) {
	s, client := benchmarkHome(b)
	const size = 100 << 20
	with := func(r *http.Request) *http.Request { r.ContentLength = size; return r }
	b.Run("direct", func(b *testing.B) {
		benchmarkRequest(b, client, size, func() *http.Request {
			return with(s.direct(http.MethodPost, "/file", io.LimitReader(zeros{}, size)))
		})
	})
	b.Run("edge", func(b *testing.B) {
		benchmarkRequest(b, client, size, func() *http.Request {
			return with(s.request(http.MethodPost, "/file", daemonPort, io.LimitReader(zeros{}, size)))
		})
	})
}
