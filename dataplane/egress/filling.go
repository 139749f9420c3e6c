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

var errNoValue = errors.New("there is no value for")

// valueCache keeps the values for placeholders of one sandbox's rules, for seconds.
type valueCache struct {
	mu    sync.Mutex
	rules map[string]cachedValues
}

type cachedValues struct {
	values map[string]string
	until  time.Time
}

// headers returns what a rule puts into a request, with values in place of placeholders.
func (p *Proxy) headers(ctx context.Context, found *grant, rule *Rule) ([]Header, error) {
	if len(rule.Placeholders) == 0 {
		return rule.Headers, nil
	}
	values, err := p.valuesOf(ctx, found, rule)
	if err != nil {
		return nil, err
	}
	var pairs []string
	for _, name := range rule.Placeholders {
		value, known := values[name]
		if !known {
			return nil, fmt.Errorf("%w: %s", errNoValue, quoted(name))
		}
		pairs = append(pairs, "${e2b."+name+"}", value)
	}
	// In one pass: what a value looks like is not looked at again.
	fill := strings.NewReplacer(pairs...)
	filled := make([]Header, len(rule.Headers))
	for i, header := range rule.Headers {
		filled[i] = Header{Name: header.Name, Value: fill.Replace(header.Value)}
		if !httpguts.ValidHeaderFieldValue(filled[i].Value) {
			return nil, fmt.Errorf("the value of header %s, with what is filled in, is none that HTTP can carry", header.Name)
		}
	}
	return filled, nil
}

func (p *Proxy) valuesOf(ctx context.Context, found *grant, rule *Rule) (map[string]string, error) {
	cache := &found.values
	cache.mu.Lock()
	defer cache.mu.Unlock()
	if kept, ok := cache.rules[rule.Domain]; ok && time.Now().Before(kept.until) {
		return kept.values, nil
	}
	ctx, cancel := context.WithTimeout(ctx, p.Limits.ConnectTime)
	defer cancel()
	values, err := p.Values(ctx, found.address, rule.Placeholders)
	if err != nil {
		return nil, fmt.Errorf("values for placeholders are not known now: %w", err)
	}
	if cache.rules == nil {
		cache.rules = map[string]cachedValues{}
	}
	cache.rules[rule.Domain] = cachedValues{values: values, until: time.Now().Add(p.Limits.ValueTime)}
	return values, nil
}
