package blobs

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// Request is what the server asks for: one line of JSON. Secrets come this way, since everybody sees arguments.
type Request struct {
	// Verb is "pack", "unpack", "sweep" or "check".
	Verb string `json:"verb"`
	// Directory is the checkpoint's; to sweep, the one that holds all of them.
	Directory string     `json:"directory"`
	Files     []Expected `json:"files"`
	Names     []string   `json:"names"`
	Dry       bool       `json:"dry"`
	Store     Where      `json:"store"`
	// PatienceSeconds is how long to wait for others to let go of the store.
	PatienceSeconds float64 `json:"patience_s"`
}

// Where says which store: S3 if it is given, else the directory.
type Where struct {
	// Directory is on this machine in any case: the lock is in it.
	Directory string `json:"directory"`
	// ReserveBytes stay free there.
	ReserveBytes int64 `json:"reserve_bytes"`
	S3           *S3   `json:"s3"`
}

// ParseRequest reads a request; what it does not know is an error.
func ParseRequest(line []byte) (Request, error) {
	decoder := json.NewDecoder(bytes.NewReader(line))
	decoder.DisallowUnknownFields()
	var request Request
	if err := decoder.Decode(&request); err != nil {
		return Request{}, fmt.Errorf("the request: %w", err)
	}
	return request, nil
}

// Failure is how an error is told.
type Failure struct {
	Kind    string `json:"kind"`
	Message string `json:"message"`
}

// FailureOf turns an error into what is told of it.
func FailureOf(err error) Failure {
	for _, kind := range []error{ErrDamaged, ErrMissing, ErrFull, ErrGone, ErrDenied, ErrBusy, ErrUnavailable} {
		if errors.Is(err, kind) {
			return Failure{Kind: kind.Error(), Message: err.Error()}
		}
	}
	return Failure{Kind: "internal", Message: err.Error()}
}

// Do does what is asked for.
func Do(ctx context.Context, request Request) (any, error) {
	codec, err := newCodec()
	if err != nil {
		return nil, err
	}
	defer codec.close()
	// Also where the runs are elsewhere: the lock is in it.
	local, err := openDirectory(request.Store.Directory, codec, request.Store.ReserveBytes)
	if err != nil {
		return nil, err
	}
	var store Store = local
	if request.Store.S3 != nil {
		if store, err = openBucket(*request.Store.S3); err != nil {
			return nil, err
		}
	}
	if request.Verb == "unpack" {
		// What it needs is named by its index, so no sweep takes it.
		return Unpack(ctx, store, codec, request.Directory, request.Names)
	}
	waiting, cancel := context.WithTimeout(ctx, time.Duration(request.PatienceSeconds*float64(time.Second)))
	held, err := lock(waiting, request.Store.Directory+"/.lock", request.Verb == "sweep")
	cancel()
	if err != nil {
		return nil, err
	}
	defer func() { _ = held.Close() }()
	switch request.Verb {
	case "pack":
		return Pack(ctx, store, codec, request.Directory, request.Files)
	case "sweep":
		return Sweep(ctx, store, request.Directory, request.Dry)
	case "check":
		return struct{}{}, check(ctx, store)
	}
	return nil, fmt.Errorf("the request: verb %q is not known", request.Verb)
}

// check has a store answer.
func check(ctx context.Context, store Store) error {
	_, err := store.Has(ctx, Run{Length: 1})
	return err
}
