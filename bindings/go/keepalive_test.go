//go:build linux && cgo

package shellflip_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	shellflip "github.com/libshellflip/libshellflip/bindings/go"
)

// logged is content that looks like the head of an answer.
const logged = "HTTP/1.1 200 OK\r\nserver: logged\r\n\r\nabc"

// site is an http.Server in this process, on a listener of an Upgrader that is ready.
type site struct {
	t       testing.TB
	upg     *shellflip.Upgrader
	server  *http.Server
	address string
	witness net.Conn
	reader  *bufio.Reader
	stopped chan struct{}
}

// serveSite ends with the test. "/" answers at once; all else is the handler's.
func serveSite(t testing.TB, handler http.HandlerFunc, serve func(*http.Server, net.Listener) error) *site {
	t.Helper()
	// What a test waits for happens because of the connections, not because time passes.
	upg := newUpgrader(t, shellflip.Options{IdleGrace: time.Hour, DrainTimeout: time.Hour})
	listener, err := upg.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &site{t: t, upg: upg, address: listener.Addr().String(), stopped: make(chan struct{})}
	s.server = &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/" {
			handler(w, r)
		}
	})}
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = serve(s.server, listener)
	}()
	if err := upg.Ready(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = s.witness.Close()
		_ = s.server.Close()
		<-served
		s.stop()
		<-s.stopped
		// Not before the last connection has ended: there is one Upgrader at a time.
		upg.Stop()
	})
	s.witness, s.reader = s.dial()
	return s
}

func plainly(server *http.Server, listener net.Listener) error { return server.Serve(listener) }

// dial opens a connection that ends with the test.
func (s *site) dial() (net.Conn, *bufio.Reader) {
	s.t.Helper()
	conn, err := net.Dial("tcp", s.address)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(soon()))
	return conn, bufio.NewReader(conn)
}

// stop begins the shutdown.
func (s *site) stop() {
	select {
	case <-s.upg.Closing():
	default:
		go func() {
			defer close(s.stopped)
			s.upg.Stop()
		}()
		<-s.upg.Closing()
	}
}

// end begins the shutdown, and returns once answers say that their connection ends.
func (s *site) end() {
	s.t.Helper()
	s.stop()
	waitUntil(s.t, "an answer that says close", func() bool {
		fmt.Fprint(s.witness, "GET / HTTP/1.1\r\nHost: h\r\n\r\n")
		return answer(s.t, s.reader).Close
	})
}

// answer reads the head of one, and the body of one that is empty.
func answer(t testing.TB, reader *bufio.Reader) *http.Response {
	t.Helper()
	answer, err := http.ReadResponse(reader, nil)
	if err != nil {
		t.Fatal(err)
	}
	return answer
}

// expect reads exactly this.
func expect(t testing.TB, from io.Reader, text string) {
	t.Helper()
	read := make([]byte, len(text))
	if n, err := io.ReadFull(from, read); string(read[:n]) != text {
		t.Fatalf("%q, %v, where %q was sent", read[:n], err, text)
	}
}

// echo answers before it has read the body, and then says back what it reads, each time when it is let.
type echo struct{ read, write chan struct{} }

func newEcho() *echo { return &echo{make(chan struct{}), make(chan struct{})} }

// hasRead waits until more was read.
func (e *echo) hasRead(t testing.TB) {
	t.Helper()
	select {
	case <-e.read:
	case <-time.After(soon()):
		t.Fatal("nothing more is read of the body")
	}
}

func (e *echo) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	// Go has this since 1.21. Before, a body that is long enough is left alone, too.
	if duplex, can := w.(interface{ EnableFullDuplex() error }); can {
		_ = duplex.EnableFullDuplex()
	}
	// With a length the body goes out as it is, without the heads of chunks.
	w.Header().Set("Content-Length", "1000000")
	w.(http.Flusher).Flush()
	buffer := make([]byte, 4096)
	for {
		n, err := r.Body.Read(buffer)
		if err != nil {
			return
		}
		e.read <- struct{}{}
		<-e.write
		_, _ = w.Write(buffer[:n])
		w.(http.Flusher).Flush()
	}
}

const posted = "POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000\r\n\r\n"

func TestABodyThatLooksLikeAnAnswerIsNotChanged(t *testing.T) {
	for _, one := range []struct{ name, before string }{
		{"alone", ""},
		// What net/http has read ahead for the first says nothing of the second.
		{"pipelined", "GET / HTTP/1.1\r\nHost: h\r\n\r\n"},
	} {
		t.Run(one.name, func(t *testing.T) {
			echo := newEcho()
			s := serveSite(t, echo.ServeHTTP, plainly)
			conn, reader := s.dial()
			fmt.Fprint(conn, one.before, posted)
			if one.before != "" {
				answer(t, reader)
			}
			body := answer(t, reader).Body
			// The first is read before the shutdown begins, and written after it.
			fmt.Fprint(conn, logged)
			echo.hasRead(t)
			s.end()
			echo.write <- struct{}{}
			expect(t, body, logged)
			fmt.Fprint(conn, logged)
			echo.hasRead(t)
			echo.write <- struct{}{}
			expect(t, body, logged)
		})
	}
}

// tunnel says back what it reads, on a connection that it has taken over.
func tunnel(w http.ResponseWriter, _ *http.Request) {
	conn, buffered, err := w.(http.Hijacker).Hijack()
	if err != nil {
		panic(err)
	}
	defer conn.Close()
	fmt.Fprint(conn, "HTTP/1.1 200 Connection established\r\n\r\n")
	buffer := make([]byte, 4096)
	for {
		n, err := buffered.Read(buffer)
		if err != nil {
			return
		}
		_, _ = conn.Write(buffer[:n])
	}
}

func TestATunnelIsNotChangedAndDoesNotDelayExit(t *testing.T) {
	for _, name := range []string{"plain", "TLS"} {
		t.Run(name, func(t *testing.T) {
			serve := plainly
			folder := t.TempDir()
			pool := certificate(t, folder)
			if name == "TLS" {
				serve = func(server *http.Server, listener net.Listener) error {
					return server.ServeTLS(listener, folder+"/cert", folder+"/key")
				}
			}
			s := serveSite(t, tunnel, serve)
			_ = s.witness.Close() // it has nothing to say here
			conn, reader := s.dial()
			if name == "TLS" {
				conn = tls.Client(conn, &tls.Config{RootCAs: pool, ServerName: "127.0.0.1"})
				reader = bufio.NewReader(conn)
			}
			fmt.Fprint(conn, "CONNECT h:1 HTTP/1.1\r\nHost: h:1\r\n\r\n")
			answer, err := http.ReadResponse(reader, &http.Request{Method: http.MethodConnect})
			if err != nil || answer.StatusCode != http.StatusOK {
				t.Fatalf("%v, %v", answer, err)
			}
			fmt.Fprint(conn, "x")
			expect(t, reader, "x")
			s.stop()
			select {
			case <-s.upg.Exit():
			case <-time.After(soon()):
				t.Error("Exit waits for the tunnel")
			}
			_ = conn.SetDeadline(time.Now().Add(soon()))
			for range [2]int{} {
				fmt.Fprint(conn, logged)
				expect(t, reader, logged)
			}
		})
	}
}

// held is how many sockets at an address of 127.0.0.1 have a descriptor.
func held(t testing.TB, address string) int {
	t.Helper()
	_, port, _ := net.SplitHostPort(address)
	number, _ := strconv.Atoi(port)
	table, err := os.ReadFile("/proc/self/net/tcp")
	if err != nil {
		t.Fatal(err)
	}
	count := 0
	for _, line := range strings.Split(string(table), "\n") {
		// The local address is the second field, the inode the tenth.
		fields := strings.Fields(line)
		if len(fields) > 9 && fields[1] == fmt.Sprintf("0100007F:%04X", number) && fields[9] != "0" {
			count++
		}
	}
	return count
}

func TestAnIdleConnectionIsClosedWithoutAReset(t *testing.T) {
	var closed atomic.Int64
	s := serveSite(t, http.NotFound, func(server *http.Server, listener net.Listener) error {
		server.ConnState = func(_ net.Conn, state http.ConnState) {
			if state == http.StateClosed {
				closed.Add(1)
			}
		}
		return server.Serve(listener)
	})
	const idle = 2 // one that its client closes, and one that is closed all the same
	var conns [idle]net.Conn
	for i := range conns {
		conn, reader := s.dial()
		fmt.Fprint(conn, "GET / HTTP/1.1\r\nHost: h\r\n\r\n")
		answer(t, reader)
		conns[i] = conn
	}
	if count := held(t, s.address); count < idle+1 {
		t.Errorf("only %d sockets are seen", count)
	}
	s.end()
	_ = s.witness.Close()
	shut := make(chan error, 1)
	go func() { shut <- s.server.Shutdown(context.Background()) }()
	// By then net/http has closed them twice.
	waitUntil(t, "the end of the connections for net/http", func() bool { return closed.Load() == idle+1 })
	if err := <-shut; err != nil {
		t.Error(err)
	}
	for _, conn := range conns {
		// This comes too late, and must not destroy what the client has not read yet.
		for range [2]int{} {
			if _, err := fmt.Fprint(conn, "GET / HTTP/1.1\r\nHost: h\r\n\r\n"); err != nil {
				t.Errorf("a late request: %v", err)
			}
		}
		if n, err := conn.Read(make([]byte, 1)); n != 0 || err != io.EOF {
			t.Errorf("%d, %v, where a clean end was promised", n, err)
		}
	}
	_ = conns[0].Close()
	waitUntil(t, "the end of the connections", func() bool { return s.upg.Connections() == 0 })
	waitUntil(t, "every socket to be closed", func() bool { return held(t, s.address) == 0 })
}

func TestAfterTheAnswerThatSaysCloseNoRequestIsRead(t *testing.T) {
	var requests atomic.Int64
	working, release := make(chan struct{}), make(chan struct{})
	s := serveSite(t, func(http.ResponseWriter, *http.Request) {
		if requests.Add(1) == 1 {
			close(working)
			<-release
		}
	}, plainly)
	conn, reader := s.dial()
	const request = "POST /request HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n"
	fmt.Fprint(conn, request)
	<-working
	s.end()
	fmt.Fprint(conn, request)
	close(release)
	if !answer(t, reader).Close {
		t.Error("the answer does not say that the connection ends")
	}
	if rest, err := io.ReadAll(reader); len(rest) != 0 || err != nil {
		t.Errorf("then %q, %v", rest, err)
	}
	if requests.Load() != 1 {
		t.Errorf("%d requests were executed", requests.Load())
	}
}

func TestABodyIsReadToItsEndAfterItsAnswerHasSaidClose(t *testing.T) {
	echo := newEcho()
	s := serveSite(t, echo.ServeHTTP, plainly)
	conn, reader := s.dial()
	// Accepted before the shutdown.
	fmt.Fprint(conn, "GET / HTTP/1.1\r\nHost: h\r\n\r\n")
	answer(t, reader)
	s.end()
	fmt.Fprint(conn, posted)
	said := answer(t, reader)
	if !said.Close {
		t.Error("the answer does not say that the connection ends")
	}
	for range [2]int{} {
		fmt.Fprint(conn, logged)
		echo.hasRead(t)
		echo.write <- struct{}{}
		expect(t, said.Body, logged)
	}
}
