module atoll.dev/dataplane

go 1.26.0

require (
	connectrpc.com/connect v1.21.1 // E2B's wire protocol, server and client; Apache-2.0
	github.com/caddyserver/certmagic v0.25.6 // certificates by ACME: when to renew, to wait, to try again; Caddy's own, Apache-2.0
	github.com/cespare/xxhash/v2 v2.3.0 // where runs of checkpoints are cut; Prometheus uses it, MIT
	github.com/creack/pty v1.1.24 // terminals of commands; MIT
	github.com/fsnotify/fsnotify v1.10.1 // inotify for watchers; BSD
	github.com/klauspost/compress v1.20.4 // zstd for runs of checkpoints; the fastest in pure Go, kept since 2015, BSD
	github.com/letsencrypt/pebble/v2 v2.10.1 // tests: an ACME authority; Let's Encrypt's own, MPL-2.0
	github.com/mholt/acmez/v3 v3.1.7 // certmagic's ACME client, whose challenge we answer; Apache-2.0
	github.com/miekg/dns v1.1.73 // name server and resolver's client; CoreDNS's own, BSD
	github.com/minio/minio-go/v7 v7.4.1 // S3 for runs of checkpoints; a quarter of the AWS SDK, and tested against many servers, Apache-2.0
	github.com/rs/cors v1.11.1 // pages call the daemon from any origin; MIT
	go.uber.org/goleak v1.3.0 // tests: goroutines left behind; Uber, MIT
	go.uber.org/zap v1.28.0 // certmagic's logger, led into ours; Uber, MIT
	golang.org/x/net v0.60.0 // SOCKS5, and what a header may hold; the Go project's, BSD
	golang.org/x/sync v0.23.0 // several runs at once, until one fails; the Go project's, BSD
	golang.org/x/sys v0.49.0 // cgroups, pidfds, xattrs, mounts; the Go project's, BSD
	golang.org/x/time v0.15.0 // rate limits; the Go project's, BSD
	google.golang.org/protobuf v1.36.12 // generated messages and their JSON; BSD
)

require (
	github.com/BurntSushi/toml v1.6.0 // indirect
	github.com/caddyserver/zerossl v0.1.6 // indirect
	github.com/dustin/go-humanize v1.0.1 // indirect
	github.com/go-jose/go-jose/v4 v4.1.4 // indirect
	github.com/google/uuid v1.6.0 // indirect
	github.com/klauspost/cpuid/v2 v2.4.0 // indirect
	github.com/klauspost/crc32 v1.3.0 // indirect
	github.com/letsencrypt/challtestsrv v1.4.2 // indirect
	github.com/libdns/libdns v1.1.1 // indirect
	github.com/minio/crc64nvme v1.1.1 // indirect
	github.com/minio/md5-simd v1.1.2 // indirect
	github.com/philhofer/fwd v1.2.0 // indirect
	github.com/rs/xid v1.6.0 // indirect
	github.com/tinylib/msgp v1.6.4 // indirect
	github.com/zeebo/blake3 v0.2.4 // indirect
	github.com/zeebo/xxh3 v1.1.0 // indirect
	go.uber.org/multierr v1.11.0 // indirect
	go.uber.org/zap/exp v0.3.0 // indirect
	go.yaml.in/yaml/v3 v3.0.5 // indirect
	golang.org/x/crypto v0.57.0 // indirect
	golang.org/x/exp/typeparams v0.0.0-20260811152304-ee035b5b010f // indirect
	golang.org/x/mod v0.41.0 // indirect
	golang.org/x/text v0.42.0 // indirect
	golang.org/x/tools v0.51.0 // indirect
	gopkg.in/ini.v1 v1.67.3 // indirect
	honnef.co/go/tools v0.8.2 // indirect
)

tool (
	connectrpc.com/connect/cmd/protoc-gen-connect-go
	github.com/letsencrypt/pebble/v2/cmd/pebble
	google.golang.org/protobuf/cmd/protoc-gen-go
	honnef.co/go/tools/cmd/staticcheck
)
