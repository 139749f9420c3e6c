package edge

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// badBodies are what clients send instead of a body; the requests say that one follows.
var badBodies = map[string]struct{ header, body string }{
	"no chunk length":     {"Transfer-Encoding: chunked", "zz\r\n{}\r\n0\r\n\r\n"},
	"endless length":      {"Transfer-Encoding: chunked", "fffffffffffffffffff\r\n{}"},
	"endless extension":   {"Transfer-Encoding: chunked", "2;" + strings.Repeat("x", 100_000) + "\r\n{}\r\n0\r\n\r\n"},
	"chunk without end":   {"Transfer-Encoding: chunked", "2\r\n{}zz0\r\n\r\n"},
	"endless trailers":    {"Transfer-Encoding: chunked", "2\r\n{}\r\n0\r\n" + strings.Repeat("X: y\r\n", 20_000) + "\r\n"},
	"negative length":     {"Transfer-Encoding: chunked", "-2\r\n{}\r\n0\r\n\r\n"},
	"trailer without end": {"Transfer-Encoding: chunked", "2\r\n{}\r\n0\r\nX"},
}

func TestABodyThatIsNoneIsTheClientsFaultAndEndsItsConnection(t *testing.T) {
	h := newHome(t)
	reads := func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			panic(http.ErrAbortHandler)
		}
		fmt.Fprint(w, "read")
	}
	serveUnix(t, h.config.API, http.HandlerFunc(reads))
	s := h.newSandbox()
	s.serve(3000, reads)
	places := map[string]string{"API": "", "sandbox": fmt.Sprintf("%s: %s\r\n%s: 3000\r\n", idHeader, s.id, portHeader)}

	for place, headers := range places {
		for name, bad := range badBodies {
			t.Run(place+"/"+name, func(t *testing.T) {
				conn, err := net.Dial("tcp", strings.TrimPrefix(h.url, "http://"))
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
				// Behind the body comes what must not be taken for a request.
				fmt.Fprintf(conn, "POST /x HTTP/1.1\r\nHost: x\r\n%s%s\r\n\r\n%s", headers, bad.header, bad.body)
				fmt.Fprint(conn, "\r\nGET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n")
				_ = conn.(*net.TCPConn).CloseWrite()

				// A reset after the answer says that we did not read the rest.
				answers, _ := io.ReadAll(conn)

				if !bytes.HasPrefix(answers, []byte("HTTP/1.1 400 ")) || bytes.Count(answers, []byte("HTTP/1.1 ")) != 1 {
					t.Errorf("%.300q", answers)
				}
			})
		}
	}
}

func TestABodyThatBreaksAfterItsAnswerEndsItsConnection(t *testing.T) {
	h := newHome(t)
	answers := func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/x" {
			t.Errorf("%s was taken for a request", r.URL.Path)
		}
		// All of it, whatever the body may be.
		_ = http.NewResponseController(w).EnableFullDuplex()
		fmt.Fprint(w, "early\r\n")
	}
	serveUnix(t, h.config.API, http.HandlerFunc(answers))
	s := h.newSandbox()
	s.serve(3000, answers)
	places := map[string]string{"API": "", "sandbox": fmt.Sprintf("%s: %s\r\n%s: 3000\r\n", idHeader, s.id, portHeader)}

	for place, headers := range places {
		for name, bad := range badBodies {
			t.Run(place+"/"+name, func(t *testing.T) {
				conn, err := net.Dial("tcp", strings.TrimPrefix(h.url, "http://"))
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
				fmt.Fprintf(conn, "POST /x HTTP/1.1\r\nHost: x\r\n%s%s\r\n\r\n", headers, bad.header)
				answer := bufio.NewReader(conn)
				for line := ""; line != "early\r\n"; {
					if line, err = answer.ReadString('\n'); err != nil {
						t.Fatal(err)
					}
				}

				fmt.Fprint(conn, bad.body+"\r\nGET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n")
				rest, _ := io.ReadAll(answer)

				if bytes.Contains(rest, []byte("HTTP/1.1 ")) {
					t.Errorf("%.300q", rest)
				}
			})
		}
	}
}
