package edge

import (
	"errors"
	"net"
	"os"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// connectFrom connects to the name server from one of loopback's addresses.
func connectFrom(t *testing.T, source, server string) net.Conn {
	t.Helper()
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(source)}}
	conn, err := dialer.Dial("tcp", server)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// stays says whether the other end keeps a connection.
func stays(t *testing.T, conn net.Conn) bool {
	t.Helper()
	if err := conn.SetReadDeadline(time.Now().Add(200 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	_, err := conn.Read(make([]byte, 1))
	return errors.Is(err, os.ErrDeadlineExceeded)
}

// resolvesOver asks over a connection that is there.
func resolvesOver(conn net.Conn) bool {
	client := dns.Client{Net: "tcp", Timeout: 5 * time.Second}
	question := new(dns.Msg).SetQuestion("example.org.", dns.TypeTXT)
	_, _, err := client.ExchangeWithConn(question, &dns.Conn{Conn: conn})
	return err == nil
}

func TestOneSandboxCannotTakeAllConnectionsToTheNameServer(t *testing.T) {
	resolver := newResolver(t, texts(1))
	h, server := namesHome(t, func(c *Config) {
		c.NamesListen = freeAddress(t, "0.0.0.0")
		c.Limits.NameConnectionsPerSandbox = 3
		c.Limits.NameConnections = 4
	}, "127.0.0.1")
	h.point(resolver.address)
	_, port, _ := net.SplitHostPort(server)
	server = "127.0.0.1:" + port

	kept := make([]net.Conn, 0, 3)
	for range 3 {
		kept = append(kept, connectFrom(t, "127.77.0.1", server))
	}
	if !stays(t, kept[2]) {
		t.Error("the third is closed")
	}
	if stays(t, connectFrom(t, "127.77.0.1", server)) {
		t.Error("one more than its share is kept")
	}
	neighbour := connectFrom(t, "127.77.0.2", server)
	if !resolvesOver(neighbour) {
		t.Error("the neighbour is not answered")
	}
	if stays(t, connectFrom(t, "127.77.0.3", server)) {
		t.Error("one more than all may have is kept")
	}

	// Whoever leaves makes room.
	neighbour.Close()
	kept[0].Close()
	for _, source := range []string{"127.77.0.1", "127.77.0.3"} {
		eventually(t, "room for "+source, func() bool {
			conn := connectFrom(t, source, server)
			defer conn.Close()
			return resolvesOver(conn)
		})
	}
}
