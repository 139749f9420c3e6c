// Command atoll-guestd is PID 1 of every sandbox; package guestd says what it needs and does.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"strings"

	"atoll.dev/dataplane/guestd"
)

// version is set by the build.
var version = "dev"

// defaultGateway is the host's end of every sandbox's network.
const defaultGateway = "169.254.1.1"

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "atoll-guestd:", err)
		os.Exit(1)
	}
}

func run() error {
	gateways := gatewayList{netip.MustParseAddr(defaultGateway)}
	flag.Var(&gateways, "gateway", "comma-separated `addresses` that may call the private port")
	showVersion := flag.Bool("version", false, "print the version and exit")
	flag.Parse()
	if *showVersion {
		fmt.Println(version)
		return nil
	}
	if flag.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", flag.Arg(0))
	}
	reaper, groups, err := guestd.Boot()
	if err != nil {
		return err
	}
	public, err := guestd.Listen(guestd.PublicPort)
	if err != nil {
		return err
	}
	private, err := guestd.Listen(guestd.PrivatePort)
	if err != nil {
		return err
	}
	if err := guestd.Ready(os.Stdout); err != nil {
		return err
	}
	server := guestd.New(guestd.Options{Version: version, Gateways: gateways, Reaper: reaper, Groups: groups, Root: "/"})
	return server.Serve(context.Background(), public, private)
}

type gatewayList []netip.Addr

func (g *gatewayList) String() string {
	texts := make([]string, len(*g))
	for i, address := range *g {
		texts[i] = address.String()
	}
	return strings.Join(texts, ",")
}

func (g *gatewayList) Set(text string) error {
	var list []netip.Addr
	for one := range strings.SplitSeq(text, ",") {
		address, err := netip.ParseAddr(strings.TrimSpace(one))
		if err != nil {
			return err
		}
		list = append(list, address.Unmap())
	}
	if len(list) == 0 {
		return errors.New("no address")
	}
	*g = list
	return nil
}
