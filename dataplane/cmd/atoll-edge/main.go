// Command atoll-edge carries users' bytes to sandboxes. The server starts it, and it outlives the server.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/signal"
	"syscall"

	"atoll.dev/dataplane/edge"
)

// version is set by the build.
var version = "dev"

func main() { os.Exit(run(os.Args[1:])) }

func run(args []string) int {
	config := edge.Config{Version: version, Limits: edge.DefaultLimits()}
	showVersion, err := parse(args, &config)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		fmt.Fprintln(os.Stderr, "atoll-edge:", err)
		return 2
	case showVersion:
		fmt.Println("atoll-edge", version)
		return 0
	}
	log, err := openLog(config)
	if err != nil {
		fmt.Fprintln(os.Stderr, "atoll-edge:", err)
		return 2
	}
	config.Log = log
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	// The terminal of whoever started us is none of our business.
	signal.Ignore(syscall.SIGHUP)
	if err := serve(ctx, config, log); err != nil {
		log.Error("edge ended", "error", err)
		return 1
	}
	return 0
}

// openLog makes standard error the log, of bounded length where a file is named.
func openLog(config edge.Config) (*slog.Logger, error) {
	if config.LogFile == "" {
		return edge.NewLog(os.Stderr, config.Limits), nil
	}
	file, err := edge.OpenLogFile(os.Stderr, config.LogFile, config.LogBytes, config.LogFiles)
	if err != nil {
		return nil, err
	}
	return edge.NewLog(file, config.Limits), nil
}

func serve(ctx context.Context, config edge.Config, log *slog.Logger) error {
	running, err := edge.Start(ctx, config)
	if err != nil {
		return err
	}
	log.Info("edge ready", "version", version, "pid", os.Getpid(), "listen", running.Addresses(),
		"tls_listen", running.TLSAddresses())
	if err := sayReady(); err != nil {
		log.Error("nobody was told that we are ready", "error", err)
	}
	return running.Wait(ctx)
}

// sayReady tells whoever started us, and lets go of the pipe.
// Standard output stays open, on nothing: else the next connection would get its number.
func sayReady() error {
	if _, err := fmt.Println("ready"); err != nil {
		return err
	}
	nothing, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer nothing.Close()
	return syscall.Dup3(int(nothing.Fd()), 1, 0)
}

func parse(args []string, config *edge.Config) (showVersion bool, err error) {
	flags := flag.NewFlagSet("atoll-edge", flag.ContinueOnError)
	flags.BoolVar(&showVersion, "version", false, "print the version and end")
	flags.Func("listen", "`address` for clients, host:port; may be repeated", func(value string) error {
		config.Listen = append(config.Listen, value)
		return nil
	})
	flags.Func("tls-listen", "`address` for clients that speak TLS, host:port; may be repeated", func(value string) error {
		config.TLSListen = append(config.TLSListen, value)
		return nil
	})
	flags.StringVar(&config.Domain, "domain", "", "`name` that names of the API and of sandboxes end in")
	flags.StringVar(&config.TLSCert, "tls-cert", "", "`path` of the certificate and its chain, in PEM form; read again when replaced")
	flags.StringVar(&config.TLSKey, "tls-key", "", "`path` of its key; may be the same file")
	flags.StringVar(&config.ZoneListen, "zone-listen", "", "`address` for this machine's DNS questions, host:port; none if empty")
	flags.Func("zone-address", "`address` that names of the domain have; may be repeated", func(value string) error {
		address, err := netip.ParseAddr(value)
		config.ZoneAddresses = append(config.ZoneAddresses, address)
		return err
	})
	flags.StringVar(&config.PublicZoneListen, "public-zone-listen", "", "`address` where everybody may ask for names of the domain, host:port; none if empty")
	flags.StringVar(&config.ACMEDirectory, "acme-directory", "", "`address` of an authority that is to sign the certificate, by ACME; none if empty")
	flags.StringVar(&config.ACMEEmail, "acme-email", "", "`address` of whoever answers for the domain, for that authority")
	flags.StringVar(&config.ACMEStorage, "acme-storage", "", "`path` of a directory for account, key and certificate")
	flags.StringVar(&config.ACMERoots, "acme-roots", "", "`path` of authorities that its own certificate may be signed by, beside the host's")
	flags.StringVar(&config.API, "api", "", "`path` of the server's API socket")
	flags.StringVar(&config.Control, "control", "", "`path` of the server's socket for our questions")
	flags.StringVar(&config.Admin, "admin", "", "`path` of our own socket, for the server")
	flags.StringVar(&config.NamesListen, "dns-listen", "", "`address` for sandboxes' DNS questions, host:port; none if empty")
	flags.StringVar(&config.EgressListen, "egress-listen", "", "`address` for sandboxes' connections that go by domains; none if empty")
	flags.IntVar(&config.EgressMark, "egress-mark", 0, "the kernel's `mark` on what is sent to the world for sandboxes")
	flags.StringVar(&config.EgressCA, "egress-ca", "", "`path` of the authority for names of sandboxes' rules, certificate and key; none if empty")
	flags.StringVar(&config.EgressRoots, "egress-roots", "", "`path` of authorities that their servers may be signed by, beside the host's")
	flags.Func("egress-proxy-network", "`network` where sandboxes' proxies may be though no sandbox reaches it, in CIDR form; may be repeated", func(value string) error {
		network, err := netip.ParsePrefix(value)
		config.EgressProxyNetworks = append(config.EgressProxyNetworks, network.Masked())
		return err
	})
	flags.Func("range", "`network` of all sandboxes' addresses, in CIDR form", func(value string) (err error) {
		config.Range, err = netip.ParsePrefix(value)
		return err
	})
	flags.StringVar(&config.LogFile, "log", "", "`path` of the log, which standard error is led to; none if empty")
	flags.Int64Var(&config.LogBytes, "log-bytes", 0, "`length` of the log; a longer one is renamed to path.1")
	flags.IntVar(&config.LogFiles, "log-files", 0, "`number` of older logs that are kept")
	if err := flags.Parse(args); err != nil || showVersion {
		return showVersion, err
	}
	switch {
	case flags.NArg() > 0:
		return false, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	case len(config.Listen) == 0:
		return false, errors.New("--listen is missing")
	case len(config.TLSListen) > 0 && (config.TLSCert == "" || config.TLSKey == ""):
		return false, errors.New("--tls-listen needs --tls-cert and --tls-key")
	case config.ZoneListen+config.PublicZoneListen != "" && (config.Domain == "" || len(config.ZoneAddresses) == 0):
		return false, errors.New("--zone-listen and --public-zone-listen need --domain and --zone-address")
	case config.ACMEDirectory != "" && (len(config.TLSListen) == 0 || config.Domain == "" || config.ACMEStorage == ""):
		return false, errors.New("--acme-directory needs --tls-listen, --domain and --acme-storage")
	case config.API == "" || config.Control == "" || config.Admin == "":
		return false, errors.New("--api, --control and --admin are needed")
	case !config.Range.IsValid():
		return false, errors.New("--range is missing")
	}
	return false, nil
}
