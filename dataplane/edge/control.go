package edge

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"syscall"
	"time"

	"atoll.dev/dataplane/egress"
	"atoll.dev/dataplane/volumes"
)

var (
	// errNotFound: the server knows no such running sandbox.
	errNotFound = errors.New("no such running sandbox")
	// errServerAway: the server did not answer for as long as requests wait.
	errServerAway = errors.New("the server does not answer")
)

// serverRefusal is an answer of the server that is none of those that were asked for: it does not wake a sandbox, say.
type serverRefusal struct {
	status  int
	message string
}

func (r *serverRefusal) Error() string {
	return fmt.Sprintf("the server answered %d: %s", r.status, r.message)
}

// mayPass: it is what a server says that is starting or ending, or that could not do it now.
func (r *serverRefusal) mayPass() bool {
	return r.status == http.StatusBadGateway || r.status == http.StatusServiceUnavailable
}

// mostAnswer is the length of the longest answer: ten rules of twenty headers of 2 KB, or as many secrets of 64 KB.
const mostAnswer = 32 << 20

// answer is what the server says about a sandbox.
type answer struct {
	address netip.Addr
	status  string
	ingress ingress
}

// control asks the server where sandboxes are.
type control struct {
	client *http.Client
	limits *Limits
}

func newControl(socket string, limits *Limits) *control {
	return &control{limits: limits, client: &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		},
		DisableCompression:     true,
		MaxIdleConns:           8,
		MaxIdleConnsPerHost:    8,
		IdleConnTimeout:        limits.APIIdle,
		MaxResponseHeaderBytes: 16 << 10,
	}}}
}

// route asks where a sandbox is.
func (c *control) route(ctx context.Context, id string) (answer, error) {
	return patiently(ctx, c.limits, func() (answer, error) {
		body, err := c.ask(ctx, http.MethodGet, "/v1/routes/"+id, nil)
		if err != nil {
			return answer{}, err
		}
		return parseAnswer(id, body)
	})
}

// suspect tells the server that a running sandbox accepts no connection: it looks whether that hangs.
func (c *control) suspect(ctx context.Context, id string) error {
	_, err := c.ask(ctx, http.MethodPost, "/v1/routes/"+id+"/suspect", nil)
	return err
}

// silent tells that a sandbox's guestd owes an answer for too long. Whether it hangs is the server's to find out.
func (c *control) silent(ctx context.Context, id string) error {
	_, err := c.ask(ctx, http.MethodPost, "/v1/routes/"+id+"/silent", nil)
	return err
}

// egressAt asks what the sandbox at an address reaches.
func (c *control) egressAt(ctx context.Context, address netip.Addr) (egress.Policy, error) {
	return patiently(ctx, c.limits, func() (found egress.Policy, err error) {
		body, err := c.ask(ctx, http.MethodGet, "/v1/egress/"+address.String(), nil)
		if err != nil {
			return found, err
		}
		if err := json.Unmarshal(body, &found); err != nil || found.SandboxID == "" {
			return found, fmt.Errorf("the server's answer about %s is no policy: %w", address, err)
		}
		return found, nil
	})
}

// valuesAt asks for what stands for placeholders of rules, for the sandbox at an address; those that are not there are left out.
func (c *control) valuesAt(ctx context.Context, address netip.Addr, names []string) (map[string]string, error) {
	question, err := json.Marshal(map[string][]string{"names": names})
	if err != nil {
		return nil, err
	}
	return patiently(ctx, c.limits, func() (map[string]string, error) {
		body, err := c.ask(ctx, http.MethodPost, "/v1/egress/"+address.String()+"/values", question)
		if err != nil {
			return nil, err
		}
		var found struct {
			Values map[string]string `json:"values"`
		}
		if err := json.Unmarshal(body, &found); err != nil {
			// Not the parser's words: they could hold a value.
			return nil, errors.New("the server's answer about values is none")
		}
		return found.Values, nil
	})
}

// identify asks whose proof this is.
func (c *control) identify(ctx context.Context, shown *proof) (string, error) {
	path, question := "/v1/routes/by-token", any(map[string]string{"access_token": shown.token})
	if shown.signed != nil {
		path, question = "/v1/routes/by-signature", shown.signed
	}
	text, err := json.Marshal(question)
	if err != nil {
		return "", err
	}
	return patiently(ctx, c.limits, func() (string, error) {
		body, err := c.ask(ctx, http.MethodPost, path, text)
		if err != nil {
			return "", err
		}
		return parseID(body)
	})
}

// volume asks for the directory of a volume, which the token opens.
func (c *control) volume(ctx context.Context, id, token string) (string, error) {
	question, err := json.Marshal(map[string]string{"token": token})
	if err != nil {
		return "", err
	}
	directory, err := patiently(ctx, c.limits, func() (string, error) {
		body, err := c.ask(ctx, http.MethodPost, "/v1/volumes/"+id+"/directory", question)
		if err != nil {
			return "", err
		}
		var found struct {
			Directory string `json:"directory"`
		}
		if err := json.Unmarshal(body, &found); err != nil || !filepath.IsAbs(found.Directory) {
			return "", fmt.Errorf("the server's answer about a volume is none: %w", err)
		}
		return found.Directory, nil
	})
	if errors.Is(err, errNotFound) {
		return "", volumes.ErrNotFound
	}
	if errors.Is(err, errServerAway) {
		return "", fmt.Errorf("%w: %w", volumes.ErrAway, err)
	}
	return directory, err
}

// patiently asks again while the server does not answer, or could not do it now, for a bounded time: questions change
// nothing, so they may be asked twice. What it refuses otherwise, it would refuse again. An error that is errServerAway
// may be a refusal, too: the last one.
func patiently[T any](ctx context.Context, limits *Limits, ask func() (T, error)) (found T, err error) {
	patience := time.Now().Add(limits.ServerAway)
	for pause := 20 * time.Millisecond; ; pause = min(2*pause, 500*time.Millisecond) {
		if found, err = ask(); err == nil || isSettled(err) {
			return found, err
		}
		if ctx.Err() != nil || time.Now().Add(pause).After(patience) || wait(ctx, pause) != nil {
			return found, fmt.Errorf("%w: %w", errServerAway, err)
		}
	}
}

// isSettled: the same question would get the same answer.
func isSettled(err error) bool {
	var refused *serverRefusal
	return errors.Is(err, errNotFound) || (errors.As(err, &refused) && !refused.mayPass())
}

func (c *control) ask(ctx context.Context, method, path string, question []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, c.limits.LookupTime)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, method, "http://control"+path, bytes.NewReader(question))
	if err != nil {
		return nil, err
	}
	if question != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	response, err := c.client.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, mostAnswer))
	if err != nil {
		return nil, err
	}
	switch response.StatusCode {
	case http.StatusOK, http.StatusNoContent:
		return body, nil
	case http.StatusNotFound, http.StatusBadRequest:
		// The form of ids was checked here; one that the server finds malformed names nothing either.
		return nil, errNotFound
	default:
		return nil, parseRefusal(response.StatusCode, body)
	}
}

func parseRefusal(status int, body []byte) *serverRefusal {
	var fields struct {
		Message string `json:"message"`
	}
	if err := json.Unmarshal(body, &fields); err != nil || fields.Message == "" {
		fields.Message = http.StatusText(status)
	}
	return &serverRefusal{status: status, message: fields.Message}
}

func parseID(body []byte) (string, error) {
	var fields struct {
		ID string `json:"sandbox_id"`
	}
	if err := json.Unmarshal(body, &fields); err != nil {
		return "", fmt.Errorf("the server's answer: %w", err)
	}
	if found := sandboxID.FindStringSubmatch(fields.ID); found == nil || found[1] != fields.ID {
		return "", fmt.Errorf("the server answered with %q, which is no id", fields.ID)
	}
	return fields.ID, nil
}

func parseAnswer(id string, body []byte) (answer, error) {
	var fields struct {
		ID      string `json:"sandbox_id"`
		Address string `json:"address"`
		Status  string `json:"status"`
		ingress
	}
	if err := json.Unmarshal(body, &fields); err != nil {
		return answer{}, fmt.Errorf("the server's answer: %w", err)
	}
	if fields.ID != id {
		return answer{}, fmt.Errorf("asked for %s, the server answered about %q", id, fields.ID)
	}
	if fields.Status != statusRunning {
		return answer{status: fields.Status}, nil
	}
	address, err := netip.ParseAddr(fields.Address)
	if err != nil {
		return answer{}, fmt.Errorf("the server's answer: %w", err)
	}
	return answer{address: address.Unmap(), status: fields.Status, ingress: fields.ingress}, nil
}

// dialPatiently connects to the server's API. While nobody listens it tries again, for a bounded time:
// nothing of the request has been sent yet.
func dialPatiently(ctx context.Context, socket string, limits *Limits) (net.Conn, error) {
	patience := time.Now().Add(limits.ServerAway)
	for pause := 20 * time.Millisecond; ; pause = min(2*pause, 500*time.Millisecond) {
		conn, err := (&net.Dialer{}).DialContext(ctx, "unix", socket)
		if err == nil || !isAway(err) {
			return conn, err
		}
		if time.Now().Add(pause).After(patience) || wait(ctx, pause) != nil {
			return nil, fmt.Errorf("%w: %w", errServerAway, err)
		}
	}
}

// isAway: no socket yet, a stale one, or a queue that is full.
func isAway(err error) bool {
	return errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.EAGAIN)
}

func wait(ctx context.Context, pause time.Duration) error {
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}
