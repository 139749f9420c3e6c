package egress

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/http/httpguts"
)

var errNoSecret = errors.New("no such secret")

// secretCache keeps the values that one sandbox's rules name, for seconds.
type secretCache struct {
	mu    sync.Mutex
	rules map[string]cachedSecrets
}

type cachedSecrets struct {
	values map[string]string
	until  time.Time
}

// headers returns what a rule puts into a request, with the secrets' values in place of their names.
func (p *Proxy) headers(ctx context.Context, found *grant, rule *Rule) ([]Header, error) {
	if len(rule.Secrets) == 0 {
		return rule.Headers, nil
	}
	values, err := p.secretsOf(ctx, found, rule)
	if err != nil {
		return nil, err
	}
	var pairs []string
	for _, name := range rule.Secrets {
		value, known := values[name]
		if !known {
			return nil, fmt.Errorf("%w: %s", errNoSecret, quoted(name))
		}
		pairs = append(pairs, "${e2b.secrets."+name+"}", value)
	}
	// In one pass: what a value looks like is not looked at again.
	fill := strings.NewReplacer(pairs...)
	filled := make([]Header, len(rule.Headers))
	for i, header := range rule.Headers {
		filled[i] = Header{Name: header.Name, Value: fill.Replace(header.Value)}
		if !httpguts.ValidHeaderFieldValue(filled[i].Value) {
			return nil, fmt.Errorf("the value of header %s, with its secrets, is none that HTTP can carry", header.Name)
		}
	}
	return filled, nil
}

func (p *Proxy) secretsOf(ctx context.Context, found *grant, rule *Rule) (map[string]string, error) {
	cache := &found.secrets
	cache.mu.Lock()
	defer cache.mu.Unlock()
	if kept, ok := cache.rules[rule.Domain]; ok && time.Now().Before(kept.until) {
		return kept.values, nil
	}
	ctx, cancel := context.WithTimeout(ctx, p.Limits.ConnectTime)
	defer cancel()
	values, err := p.Secrets(ctx, found.address, rule.Secrets)
	if err != nil {
		return nil, fmt.Errorf("secrets are not known now: %w", err)
	}
	if cache.rules == nil {
		cache.rules = map[string]cachedSecrets{}
	}
	cache.rules[rule.Domain] = cachedSecrets{values: values, until: time.Now().Add(p.Limits.SecretTime)}
	return values, nil
}
