package blobs

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
)

// S3 is where a bucket is, and who may use it.
type S3 struct {
	// Endpoint is a URL without a path.
	Endpoint  string `json:"endpoint"`
	Bucket    string `json:"bucket"`
	Region    string `json:"region"`
	Prefix    string `json:"prefix"`
	AccessKey string `json:"access_key"`
	SecretKey string `json:"secret_key"`
	// Roots is a file with authorities that may have signed its certificate, beside those of this host.
	Roots string `json:"roots"`
	// TimeoutSeconds is for one call, which carries one run; some are tried again.
	TimeoutSeconds float64 `json:"timeout_s"`
}

const (
	s3AtOnce = 16
	s3Tries  = 4
)

// bucket is a store in a bucket of S3: <prefix>/<two digits>/<SHA-256>.
type bucket struct {
	client  *minio.Client
	name    string
	prefix  string
	timeout time.Duration
}

func openBucket(where S3) (*bucket, error) {
	endpoint, err := url.Parse(where.Endpoint)
	if err != nil || endpoint.Host == "" || (endpoint.Scheme != "http" && endpoint.Scheme != "https") {
		return nil, failed(ErrDenied, "%q is no endpoint: it is http://host:port or https://host", where.Endpoint)
	}
	transport, err := minio.DefaultTransport(endpoint.Scheme == "https")
	if err != nil {
		return nil, failed(ErrUnavailable, "%s", err)
	}
	transport.MaxIdleConnsPerHost = s3AtOnce
	if err := trust(transport, where.Roots); err != nil {
		return nil, err
	}
	client, err := minio.New(endpoint.Host, &minio.Options{
		Creds:        credentials.NewStaticV4(where.AccessKey, where.SecretKey, ""),
		Secure:       endpoint.Scheme == "https",
		Region:       where.Region,
		BucketLookup: minio.BucketLookupAuto,
		Transport:    transport,
		MaxRetries:   s3Tries,
	})
	if err != nil {
		return nil, failed(ErrDenied, "%s", err)
	}
	timeout := time.Duration(where.TimeoutSeconds * float64(time.Second))
	return &bucket{client: client, name: where.Bucket, prefix: strings.Trim(where.Prefix, "/"), timeout: timeout}, nil
}

func trust(transport *http.Transport, roots string) error {
	if roots == "" {
		return nil
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	content, err := os.ReadFile(roots)
	if err != nil {
		return failed(ErrDenied, "%s", err)
	}
	if !pool.AppendCertsFromPEM(content) {
		return failed(ErrDenied, "no authority is in %s", roots)
	}
	transport.TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	return nil
}

func (b *bucket) AtOnce() int { return s3AtOnce }

func (b *bucket) key(name Sum) string {
	text := name.String()
	return strings.TrimPrefix(b.prefix+"/"+text[:2]+"/"+text, "/")
}

func (b *bucket) patience(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, b.timeout)
}

// Has does not read it: the server compares what it keeps with its checksum, and a fork would read all it shares.
func (b *bucket) Has(ctx context.Context, run Run) (bool, error) {
	ctx, cancel := b.patience(ctx)
	defer cancel()
	info, err := b.client.StatObject(ctx, b.name, b.key(run.Sum), minio.StatObjectOptions{})
	if isMissing(err) {
		return false, nil
	}
	return err == nil && info.Size > 0, b.failure(err)
}

func (b *bucket) Put(ctx context.Context, name Sum, compressed []byte) error {
	ctx, cancel := b.patience(ctx)
	defer cancel()
	// The server compares it with what arrives.
	options := minio.PutObjectOptions{SendContentMd5: true, DisableMultipart: true}
	_, err := b.client.PutObject(ctx, b.name, b.key(name), bytes.NewReader(compressed), int64(len(compressed)), options)
	return b.failure(err)
}

// Flush does nothing: what S3 has answered is there.
func (b *bucket) Flush() error { return nil }

// Leftovers does nothing: an object is there as a whole or not at all.
func (b *bucket) Leftovers() error { return nil }

func (b *bucket) Get(ctx context.Context, name Sum) ([]byte, error) {
	ctx, cancel := b.patience(ctx)
	defer cancel()
	object, err := b.client.GetObject(ctx, b.name, b.key(name), minio.GetObjectOptions{})
	if err != nil {
		return nil, b.failure(err)
	}
	defer func() { _ = object.Close() }()
	content, err := readBounded(object, mostCompressed)
	if isMissing(err) {
		return nil, failed(ErrMissing, "run %s", name)
	}
	return content, b.failure(err)
}

func (b *bucket) Each(ctx context.Context, found func(Sum, int64) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	prefix := strings.TrimPrefix(b.prefix+"/", "/")
	options := minio.ListObjectsOptions{Prefix: prefix, Recursive: true}
	for object := range b.client.ListObjects(ctx, b.name, options) {
		if object.Err != nil {
			return b.failure(object.Err)
		}
		name, ok := parseSum(object.Key[strings.LastIndexByte(object.Key, '/')+1:])
		// Others may keep something below our prefix: only what has a run's very name is ours.
		if !ok || object.Key != b.key(name) {
			continue
		}
		if err := found(name, object.Size); err != nil {
			return err
		}
	}
	return ctx.Err()
}

func (b *bucket) Delete(ctx context.Context, names []Sum) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	objects := make(chan minio.ObjectInfo, len(names))
	for _, name := range names {
		objects <- minio.ObjectInfo{Key: b.key(name)}
	}
	close(objects)
	for problem := range b.client.RemoveObjects(ctx, b.name, objects, minio.RemoveObjectsOptions{}) {
		if !isMissing(problem.Err) {
			return b.failure(problem.Err)
		}
	}
	return ctx.Err()
}

func isMissing(err error) bool {
	return err != nil && minio.ToErrorResponse(err).Code == minio.NoSuchKey
}

// failure says of what kind an error of S3 is. What the server says of it is told; keys are not in it.
func (b *bucket) failure(err error) error {
	if err == nil {
		return nil
	}
	said := minio.ToErrorResponse(err)
	switch {
	case said.StatusCode == http.StatusInsufficientStorage || fullCodes[said.Code]:
		return failed(ErrFull, "bucket %s: %s", b.name, err)
	case said.StatusCode == http.StatusForbidden || said.StatusCode == http.StatusUnauthorized ||
		said.Code == minio.NoSuchBucket:
		return failed(ErrDenied, "bucket %s: %s (%s)", b.name, err, said.Code)
	}
	return failed(ErrUnavailable, "bucket %s: %s", b.name, err)
}

// fullCodes are what servers say that have no room: S3's own has none, since it always has room.
var fullCodes = map[string]bool{
	"XMinioStorageFull":              true,
	"XMinioAdminBucketQuotaExceeded": true,
	"QuotaExceeded":                  true,
	"InsufficientStorage":            true,
	"StorageFull":                    true,
}
