// Loopback is the raw side of the benchmarks, and their load.
//
//	loopback serve DIR              plain HTTP: GET and PUT of files in DIR; prints its address
//	loopback load URL N C [K=V]...  N GETs of URL by C clients, headers K=V; prints requests per second
//	loopback call URL N [K=V]...    N POSTs of standard input to URL, one after the other on one connection, which
//	                                prints how long each took, in milliseconds, and the last answer to standard error;
//	                                GETs if standard input is empty
//	loopback streams URL N [K=V]... N POSTs of standard input to URL at once, whose answers are Connect's streams of
//	                                events; prints the SHA-256 of each one's output
//
// It stands outside the dataplane on purpose: nothing here is part of Atoll.
package main

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(args []string) error {
	switch {
	case len(args) == 2 && args[0] == "serve":
		return serve(args[1])
	case len(args) >= 4 && args[0] == "load":
		n, err := strconv.Atoi(args[2])
		if err != nil {
			return err
		}
		clients, err := strconv.Atoi(args[3])
		if err != nil {
			return err
		}
		return load(args[1], n, clients, args[4:])
	case len(args) >= 3 && args[0] == "call":
		n, err := strconv.Atoi(args[2])
		if err != nil {
			return err
		}
		return call(args[1], n, args[3:])
	case len(args) >= 3 && args[0] == "streams":
		n, err := strconv.Atoi(args[2])
		if err != nil {
			return err
		}
		return streams(args[1], n, args[3:])
	}
	return fmt.Errorf("usage: loopback serve DIR | loopback load URL N C [K=V]... | loopback call|streams URL N [K=V]...")
}

func serve(dir string) error {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println(listener.Addr())
	return http.Serve(listener, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		path := filepath.Join(dir, filepath.Base(r.URL.Path))
		if r.Method == http.MethodGet {
			http.ServeFile(w, r, path)
			return
		}
		file, err := os.Create(path)
		if err == nil {
			_, err = io.Copy(file, r.Body)
			file.Close()
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
		}
	}))
}

func load(url string, n, clients int, headers []string) error {
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: clients}}
	var left, failed atomic.Int64
	left.Store(int64(n))
	var wait sync.WaitGroup
	start := time.Now()
	for range clients {
		wait.Go(func() {
			for left.Add(-1) >= 0 {
				if _, err := ask(client, http.MethodGet, url, nil, headers); err != nil {
					failed.Add(1)
				}
			}
		})
	}
	wait.Wait()
	if failed.Load() > 0 {
		return fmt.Errorf("%d of %d requests failed", failed.Load(), n)
	}
	fmt.Printf("%.1f\n", float64(n)/time.Since(start).Seconds())
	return nil
}

func call(url string, n int, headers []string) error {
	// One call at a time needs one thread: more would look for work on the cores that are measured.
	runtime.GOMAXPROCS(1)
	body, err := io.ReadAll(os.Stdin)
	if err != nil {
		return err
	}
	method := http.MethodPost
	if len(body) == 0 {
		method = http.MethodGet
	}
	client := &http.Client{}
	var last []byte
	for range n {
		start := time.Now()
		if last, err = ask(client, method, url, body, headers); err != nil {
			return err
		}
		fmt.Printf("%.3f\n", time.Since(start).Seconds()*1e3)
	}
	_, err = os.Stderr.Write(last)
	return err
}

func streams(url string, n int, headers []string) error {
	body, err := io.ReadAll(os.Stdin)
	if err != nil {
		return err
	}
	// Each has a connection of its own, as each command of a client has.
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	sums := make([]string, n)
	var wait sync.WaitGroup
	for i := range sums {
		wait.Go(func() {
			sum, err := stream(client, url, body, headers)
			if err != nil {
				fmt.Fprintln(os.Stderr, err)
				sum = "none"
			}
			sums[i] = sum
		})
	}
	wait.Wait()
	fmt.Println(strings.Join(sums, "\n"))
	return nil
}

// stream reads one command's events: five bytes of flags and length before each.
func stream(client *http.Client, url string, body []byte, headers []string) (string, error) {
	answer, err := begin(client, http.MethodPost, url, body, headers)
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	reader := bufio.NewReaderSize(answer.Body, 64<<10)
	sum := sha256.New()
	var head [5]byte
	var message struct {
		Event struct {
			Data struct{ Stdout []byte }
			End  *struct{ Status string }
		}
		Error json.RawMessage
	}
	for ended := false; ; ended = ended || message.Event.End != nil {
		if _, err := io.ReadFull(reader, head[:]); err != nil {
			return "", err
		}
		content := make([]byte, binary.BigEndian.Uint32(head[1:]))
		if _, err := io.ReadFull(reader, content); err != nil {
			return "", err
		}
		message.Event.Data.Stdout, message.Event.End = nil, nil
		if err := json.Unmarshal(content, &message); err != nil {
			return "", err
		}
		if head[0]&2 != 0 {
			if message.Error != nil || !ended {
				return "", fmt.Errorf("ended early: %s", content)
			}
			return hex.EncodeToString(sum.Sum(nil)), nil
		}
		sum.Write(message.Event.Data.Stdout)
	}
}

func ask(client *http.Client, method, url string, body []byte, headers []string) ([]byte, error) {
	answer, err := begin(client, method, url, body, headers)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	content, err := io.ReadAll(answer.Body)
	if err != nil {
		return nil, err
	}
	if answer.StatusCode >= http.StatusMultipleChoices {
		return nil, fmt.Errorf("status %s: %s", answer.Status, content)
	}
	return content, nil
}

func begin(client *http.Client, method, url string, body []byte, headers []string) (*http.Response, error) {
	request, err := http.NewRequest(method, url, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	for _, header := range headers {
		name, value, _ := strings.Cut(header, "=")
		request.Header.Set(name, value)
	}
	return client.Do(request)
}
