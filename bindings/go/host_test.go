//go:build linux && cgo

package shellflip_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	shellflip "github.com/libshellflip/libshellflip/bindings/go"
	"github.com/libshellflip/libshellflip/bindings/go/fliphttp"
)

// host is testdata/host, serving on TCP.
type host struct {
	*family
	address string
}

func startHost(t testing.TB, environment ...string) *host {
	t.Helper()
	address := freePort(t)
	environment = append([]string{"NETWORK=tcp", "ADDRESS=" + address}, environment...)
	h := &host{start(t, build(t, "testdata/host"), environment), address}
	h.serving(0)
	return h
}

// get asks for something on a connection of its own.
func (h *host) get(path string) string {
	h.t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: scaled(60 * time.Second)}
	answer, err := client.Get("http://" + h.address + path)
	if err != nil {
		h.t.Fatal(err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		h.t.Fatal(err)
	}
	return string(body)
}

func (h *host) ask(path string, into interface{}) {
	h.t.Helper()
	if err := json.Unmarshal([]byte(h.get(path)), into); err != nil {
		h.t.Fatal(err)
	}
}

type result struct {
	OK      bool
	Failure string
	Errno   syscall.Errno
	Text    string
}

// upgraded asks whoever serves for an upgrade, again while it has not been released itself.
func (h *host) upgraded() result {
	h.t.Helper()
	var said result
	waitUntil(h.t, "a process that can be upgraded", func() bool {
		said = result{}
		h.ask("/upgrade", &said)
		return said.Errno != syscall.EAGAIN && said.Errno != syscall.ESHUTDOWN
	})
	return said
}

func TestUpgradesGoOnUnderGCPressureAndASignalStorm(t *testing.T) {
	h := startHost(t, "PRESSURE=1")
	pid := h.serving(0)
	load := startLoad(t, "tcp://"+h.address, "--connections", "8", "--streams", "2", "--timeout", "30")
	stop := make(chan struct{})
	var storm sync.WaitGroup
	storm.Add(1)
	var current atomic.Int64
	current.Store(int64(pid))
	go func() {
		defer storm.Done()
		for {
			for _, signal := range []syscall.Signal{syscall.SIGUSR2, syscall.SIGURG, syscall.SIGWINCH, syscall.SIGCHLD, syscall.SIGALRM} {
				_ = syscall.Kill(int(current.Load()), signal)
			}
			select {
			case <-stop:
				return
			case <-time.After(200 * time.Microsecond):
			}
		}
	}()
	for generation := 1; generation <= 5; generation++ {
		pid = h.upgrade(pid, generation, syscall.SIGHUP)
		current.Store(int64(pid))
	}
	close(stop)
	storm.Wait()
	load.stop().clean(t, 50)
	h.stop(pid)
}

func TestNothingIsAcceptedBeforeReadyAlthoughServeWasCalled(t *testing.T) {
	const slow = 3000
	h := startHost(t, fmt.Sprintf("SLOW_READY_MS=%d", slow))
	pid := h.serving(0)
	load := startLoad(t, "tcp://"+h.address, "--connections", "4", "--streams", "4")
	waitUntil(t, "load", func() bool { return strings.Contains(h.get("/"), "\"pid\"") })
	began := time.Now()
	pid = h.upgrade(pid, 1, syscall.SIGHUP)
	if took := time.Since(began); took < slow*time.Millisecond {
		t.Errorf("the new process was ready after %v", took)
	}
	said := load.stop()
	said.clean(t, 100)
	if len(said.Seen) != 2 || said.Seen[0].Last-said.Seen[1].First > slow/2000.0 {
		t.Errorf("the new process has answered while it was not ready: %+v", said.Seen)
	}
	// A connection that it had accepted early would have waited for Ready.
	if said.Latency.Max > slow*0.9 {
		t.Errorf("a request took %v ms", said.Latency.Max)
	}
	h.stop(pid)
}

func TestWhatTheSuccessorFindsInItsEnvironment(t *testing.T) {
	h := startHost(t)
	pid := h.upgrade(h.serving(0), 1, syscall.SIGHUP)
	var environment []string
	h.ask("/environ", &environment)
	seen := 0
	for _, variable := range environment {
		for _, name := range []string{"SHELLFLIP_CHANNEL=", "LISTEN_PID=", "LISTEN_FDS=", "LISTEN_FDNAMES="} {
			if strings.HasPrefix(variable, name) {
				t.Errorf("left: %s", variable)
			}
		}
		if strings.HasPrefix(variable, "ADDRESS=") {
			seen++
		}
	}
	if seen != 2 { // its own and its child's
		t.Errorf("ADDRESS is there %d times", seen)
	}
	h.stop(pid)
}

func TestAFailedUpgradeSaysWhyAndTheOldProcessServesOn(t *testing.T) {
	folder := t.TempDir()
	fail, refuse := filepath.Join(folder, "fail"), filepath.Join(folder, "refuse")
	h := startHost(t, "FAIL="+fail, "REFUSE="+refuse, "UPGRADE_TIMEOUT_MS=1500")
	pid := h.serving(0)
	write := func(path, text string) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, one := range []struct {
		path, text, failure string
		errno               syscall.Errno
		says                string
	}{
		{fail, "exit", "exited", syscall.ECONNABORTED, "status 3"},
		{fail, "hang", "deadline", syscall.ETIME, "not ready"},
		{refuse, "not on Fridays", "refused", syscall.ECONNREFUSED, "not on Fridays"},
		// Upgrade in Options.Starting would wait for itself.
		{refuse, "upgrade", "refused", syscall.ECONNREFUSED, "upgrade"},
	} {
		write(one.path, one.text)
		said := h.upgraded()
		write(one.path, "")
		if said.OK || said.Failure != one.failure || said.Errno != one.errno || !strings.Contains(said.Text, one.says) {
			t.Errorf("%s: %+v", one.text, said)
		}
		if answer := h.get("/"); !strings.Contains(answer, fmt.Sprintf("\"pid\":%d,", pid)) {
			t.Errorf("after %s: %s", one.text, answer)
		}
	}
	// By signal the failure is in the log.
	write(fail, "exit")
	h.signal(pid, syscall.SIGHUP)
	waitUntil(t, "a second such line", func() bool { return strings.Count(h.output(), "exited with status 3") == 2 })
	write(fail, "")
	h.replace("/bin/false")
	if said := h.upgraded(); said.Failure != "exited" {
		t.Errorf("%+v", said)
	}
	if err := os.Remove(h.program()); err != nil {
		t.Fatal(err)
	}
	if said := h.upgraded(); said.Failure != "not started" || said.Errno != syscall.ENOENT {
		t.Errorf("%+v", said)
	}
	h.replace(build(t, "testdata/host"))
	if said := h.upgraded(); !said.OK {
		t.Errorf("%+v", said)
	}
	h.stop(h.serving(1))
}

func TestThereIsOneUpgrader(t *testing.T) {
	h := startHost(t)
	var said result
	if h.ask("/second", &said); said.Errno != syscall.EBUSY {
		t.Errorf("%+v", said)
	}
	h.stop(h.serving(0))
}

func TestTheStateCrosses(t *testing.T) {
	h := startHost(t, "STATE_MB=64")
	pid := h.serving(0)
	for generation := 1; generation <= 2; generation++ {
		next := h.upgrade(pid, generation, syscall.SIGHUP)
		lines := strings.Split(h.output(), "\n")
		written := ""
		for _, line := range lines {
			if hash := strings.TrimPrefix(line, "state "); hash != line {
				written = hash
			}
		}
		var read string
		if h.ask("/state", &read); read != written || read == "" {
			t.Errorf("read %q, written %q", read, written)
		}
		pid = next
	}
	h.stop(pid)
}

func TestASuccessorTakesOverFromAPredecessorThatIsKilled(t *testing.T) {
	// To write to a dead process's socket would raise SIGPIPE, on a thread that the Go runtime does not know.
	h := startHost(t, "SLOW_READY_MS=700", "SHELLFLIP_LOG=info")
	pid := h.serving(0)
	before := len(h.members())
	h.signal(pid, syscall.SIGHUP)
	waitUntil(t, "the new process", func() bool { return len(h.members()) > before })
	h.signal(pid, syscall.SIGKILL)
	next := h.serving(1)
	h.waitFor(fmt.Sprintf("pid %d has no parent", next))
	if answer := h.get("/"); !strings.Contains(answer, fmt.Sprintf("\"pid\":%d,", next)) {
		t.Error(answer)
	}
	h.stop(next)
}

func TestNoSIGPIPEFromALogThatNobodyReads(t *testing.T) {
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer writer.Close()
	// /proc/self/fd/N is how the server gets at it; testdata/quiet says nothing itself.
	folder := t.TempDir()
	f := startOn(t, build(t, "testdata/quiet"), writer, []string{"SHELLFLIP_LOG=debug", "FOLDER=" + folder})
	reader.Close()
	pid := func(generation int) int {
		var pid int
		waitUntil(t, "a serving process", func() bool {
			text, _ := os.ReadFile(filepath.Join(folder, fmt.Sprint(generation)))
			_, err := fmt.Sscan(string(text), &pid)
			return err == nil
		})
		return pid
	}
	old := pid(0)
	for generation := 1; generation <= 3; generation++ {
		f.signal(old, syscall.SIGHUP)
		next := pid(generation)
		f.waitGone(old)
		old = next
	}
	f.stop(old)
}

func TestASlowRequestIsAnsweredAndKeepAliveIsToldToEnd(t *testing.T) {
	h := startHost(t)
	pid := h.serving(0)
	slow := make(chan string, 1)
	go func() { slow <- h.get("/slow?ms=1500") }()
	idle, err := net.Dial("tcp", h.address)
	if err != nil {
		t.Fatal(err)
	}
	defer idle.Close()
	ask := func() string {
		if _, err := io.WriteString(idle, "GET / HTTP/1.1\r\nHost: h\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		buffer := make([]byte, 4096)
		_ = idle.SetReadDeadline(time.Now().Add(soon()))
		n, err := idle.Read(buffer)
		if err != nil {
			t.Fatal(err)
		}
		return string(buffer[:n])
	}
	if answer := ask(); strings.Contains(answer, "Connection: close") {
		t.Error(answer)
	}
	time.Sleep(100 * time.Millisecond) // the slow one is on its way
	h.signal(pid, syscall.SIGHUP)
	next := h.serving(1)
	if answer := ask(); !strings.Contains(answer, "\r\nConnection: close\r\n") || !strings.Contains(answer, fmt.Sprintf("\"pid\":%d,", pid)) {
		t.Error(answer)
	}
	if n, err := idle.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Errorf("%d, %v: not closed", n, err)
	}
	if answer := <-slow; answer != fmt.Sprint("slow ", pid) {
		t.Error(answer)
	}
	h.waitGone(pid)
	h.stop(next)
}

func TestADownloadThatOutlastsTheGraceComesWholeAndItsConnectionEnds(t *testing.T) {
	h := startHost(t, "IDLE_GRACE_MS=300")
	pid := h.serving(0)
	conn, err := net.Dial("tcp", h.address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "GET /download HTTP/1.1\r\nHost: h\r\n\r\n")
	reader := bufio.NewReader(conn)
	answer, err := http.ReadResponse(reader, nil)
	if err != nil {
		t.Fatal(err)
	}
	h.signal(pid, syscall.SIGHUP)
	next := h.serving(1)
	if body, err := io.ReadAll(answer.Body); string(body) != "begun ended" || err != nil || answer.Close {
		t.Errorf("%q, %v, Close %v", body, err, answer.Close)
	}
	if rest, err := io.ReadAll(reader); len(rest) != 0 || err != nil {
		t.Errorf("then %q, %v", rest, err)
	}
	_ = conn.Close()
	h.waitGone(pid)
	h.stop(next)
}

func TestARequestThatOutlivesTheDrainIsCut(t *testing.T) {
	h := startHost(t, "DRAIN_TIMEOUT_MS=500")
	pid := h.serving(0)
	conn, err := net.Dial("tcp", h.address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "GET /slow?ms=60000 HTTP/1.1\r\nHost: h\r\n\r\n")
	time.Sleep(100 * time.Millisecond)
	next := h.upgrade(pid, 1, syscall.SIGHUP)
	h.waitFor("served: context deadline exceeded")
	h.stop(next)
}

func TestASecondStopDoesNotWaitForARequestThatHangs(t *testing.T) {
	h := startHost(t, "DRAIN_TIMEOUT_MS=600000")
	pid := h.serving(0)
	conn, err := net.Dial("tcp", h.address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "GET /hang HTTP/1.1\r\nHost: h\r\n\r\n")
	h.waitFor("hanging")
	h.signal(pid, syscall.SIGTERM)
	h.waitFor("ending: stopped")
	if !alive(pid) {
		t.Error("it did not wait for the request")
	}
	h.stop(pid)
	h.waitFor("served: context deadline exceeded")
}

func TestShutdownEndsAtADrainDeadlineThatWasMoved(t *testing.T) {
	upg, err := shellflip.New(shellflip.Options{DrainTimeout: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	listener, err := upg.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	hanging, end := make(chan struct{}), make(chan struct{})
	defer close(end)
	server := &http.Server{Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		close(hanging)
		<-end
	})}
	defer server.Close()
	served := make(chan error, 1)
	go func() { served <- fliphttp.Serve(upg, server, listener) }()
	if err := upg.Ready(); err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: h\r\n\r\n")
	<-hanging
	upg.Stop()
	if err := upg.Extend(50 * time.Millisecond); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-served:
		if err != context.DeadlineExceeded {
			t.Error(err)
		}
	case <-time.After(soon()):
		t.Fatal("the moved deadline has passed unnoticed")
	}
	upg.Stop()
}

func TestNoGoroutineOutlivesAServerThatHasEnded(t *testing.T) {
	for range [2]struct{}{} {
		before := runtime.NumGoroutine()
		upg := newUpgrader(t, shellflip.Options{DrainTimeout: time.Hour})
		server := &http.Server{Addr: freePort(t), Handler: http.NotFoundHandler()}
		served := make(chan error, 1)
		go func() { served <- fliphttp.ListenAndServe(upg, server) }()
		waitUntil(t, "the server", func() bool {
			client, err := net.Dial("tcp", server.Addr)
			if err == nil {
				client.Close()
			}
			return err == nil
		})
		upg.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
		upg.Stop()
		waitUntil(t, "the end of every goroutine", func() bool { return runtime.NumGoroutine() <= before })
	}
}

func TestARequestOnAListenerThatIsNotCountedIsNotCutWhenTheUpgraderEnds(t *testing.T) {
	upg := newUpgrader(t, shellflip.Options{DrainTimeout: time.Hour})
	own, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := upg.AddListener("tcp", own.Addr().String(), own.(shellflip.Listener)); err != nil {
		t.Fatal(err)
	}
	asked := make(chan struct{})
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		close(asked)
		<-upg.Exit()
		time.Sleep(300 * time.Millisecond) // for what would cut it
		fmt.Fprint(w, "whole")
	})}
	served := make(chan error, 1)
	go func() { served <- fliphttp.Serve(upg, server, own) }()
	if err := upg.Ready(); err != nil {
		t.Fatal(err)
	}
	client, err := net.Dial("tcp", own.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	fmt.Fprint(client, "GET / HTTP/1.1\r\nHost: h\r\n\r\n")
	<-asked
	upg.Stop()
	upg.Stop()
	if upg.Connections() != 0 {
		t.Error("it is counted")
	}
	expect(t, client, "HTTP/1.1 200 OK\r\n")
	if err := <-served; err != nil {
		t.Error(err)
	}
}

func TestDrainsThatHaveTimedOutLeaveNoThreads(t *testing.T) {
	upg, err := shellflip.New(shellflip.Options{DrainTimeout: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	listener, err := upg.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	if err := upg.Ready(); err != nil {
		t.Fatal(err)
	}
	client, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	conn, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	upg.Stop()
	threads := func() int {
		entries, err := os.ReadDir("/proc/self/task")
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	before := threads()
	for i := 0; i < 200; i++ {
		ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
		if err := upg.Drain(ctx); err != context.DeadlineExceeded {
			t.Error(err)
		}
		cancel()
	}
	// The runtime starts a few of its own.
	if after := threads(); after > before+20 {
		t.Errorf("%d threads before 200 drains, %d after", before, after)
	}
	drained := make(chan error, 1)
	go func() { drained <- upg.Drain(context.Background()) }()
	_ = conn.Close()
	select {
	case err := <-drained:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(soon()):
		t.Fatal("the last connection has ended, and Drain waits")
	}
	upg.Stop()
	if err := upg.Drain(context.Background()); err != nil {
		t.Error(err)
	}
}

func TestASecondStopDoesNotWaitForIdleConnections(t *testing.T) {
	h := startHost(t, "IDLE_GRACE_MS=600000", "DRAIN_TIMEOUT_MS=600000")
	pid := h.serving(0)
	idle, err := net.Dial("tcp", h.address)
	if err != nil {
		t.Fatal(err)
	}
	defer idle.Close()
	fmt.Fprintf(idle, "GET / HTTP/1.1\r\nHost: h\r\n\r\n")
	if _, err := idle.Read(make([]byte, 4096)); err != nil {
		t.Fatal(err)
	}
	h.signal(pid, syscall.SIGTERM)
	h.waitFor("ending: stopped")
	if !alive(pid) {
		t.Error("it did not wait for the idle connection")
	}
	h.stop(pid)
}

func TestStopWaitsForIdleConnectionsOfAnHTTPServer(t *testing.T) {
	const grace = 300 * time.Millisecond
	upg, err := shellflip.New(shellflip.Options{IdleGrace: grace})
	if err != nil {
		t.Fatal(err)
	}
	listener, err := upg.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.NotFoundHandler()}
	defer server.Close()
	go func() { _ = server.Serve(listener) }()
	if err := upg.Ready(); err != nil {
		t.Fatal(err)
	}
	answer, err := http.Get("http://" + listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, answer.Body)
	answer.Body.Close()
	begun := time.Now()
	upg.Stop()
	if took := time.Since(begun); took < grace {
		t.Errorf("Stop returned after %v, before idle connections had had their %v", took, grace)
	}
	select {
	case <-upg.Exit():
	default:
		t.Error("Stop has returned, and Exit is open")
	}
}

// certificate makes one for 127.0.0.1.
func certificate(t testing.TB, folder string) *x509.CertPool {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(24 * time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	write := func(name, kind string, bytes []byte) {
		text := pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: bytes})
		if err := os.WriteFile(filepath.Join(folder, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("cert", "CERTIFICATE", der)
	write("key", "PRIVATE KEY", private)
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	return pool
}

func TestHTTPSAndHTTP2LoseNoRequest(t *testing.T) {
	for _, protocol := range []string{"HTTP/1.1", "HTTP/2.0"} {
		t.Run(protocol, func(t *testing.T) {
			folder := t.TempDir()
			pool := certificate(t, folder)
			h := startHost(t, "TLS="+folder)
			pid := h.serving(0)
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			var clients sync.WaitGroup
			var answered atomic.Int64
			for range [8]int{} {
				clients.Add(1)
				go func() {
					defer clients.Done()
					transport := &http.Transport{
						TLSClientConfig: &tls.Config{RootCAs: pool}, ForceAttemptHTTP2: protocol == "HTTP/2.0",
					}
					if protocol != "HTTP/2.0" {
						transport.TLSNextProto = map[string]func(string, *tls.Conn) http.RoundTripper{}
					}
					defer transport.CloseIdleConnections()
					client := &http.Client{Transport: transport, Timeout: soon()}
					for ctx.Err() == nil {
						// net/http sends a POST once only, unless the server has said that it has not looked at it.
						body := io.MultiReader(bytes.NewReader([]byte("x")))
						answer, err := client.Post("https://"+h.address+"/", "text/plain", body)
						if err != nil {
							t.Errorf("after %d: %v", answered.Load(), err)
							return
						}
						if _, err := io.Copy(io.Discard, answer.Body); err != nil || answer.Proto != protocol {
							t.Errorf("%s: %v", answer.Proto, err)
						}
						answer.Body.Close()
						answered.Add(1)
					}
				}()
			}
			for generation := 1; generation <= 5; generation++ {
				before := answered.Load()
				waitUntil(t, "answers", func() bool { return t.Failed() || answered.Load() > before+100 })
				pid = h.upgrade(pid, generation, syscall.SIGHUP)
			}
			cancel()
			clients.Wait()
			t.Logf("%d requests", answered.Load())
			h.stop(pid)
		})
	}
}

func TestEveryKindOfDescriptorCrosses(t *testing.T) {
	upstream, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer upstream.Close()
	folder := t.TempDir()
	h := startHost(t, "DESCRIPTORS="+folder, "UPSTREAM="+upstream.Addr().String())
	conn, err := upstream.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	pid := h.serving(0)
	first := map[string]string{}
	h.ask("/descriptors", &first)
	for generation := 1; generation <= 2; generation++ {
		pid = h.upgrade(pid, generation, syscall.SIGHUP)
		now := map[string]string{}
		h.ask("/descriptors", &now)
		if now["file"] != "inherited note" || now["tcp"] != first["tcp"] || strings.Contains(fmt.Sprint(now), "error") ||
			now["udp"] != "inherited"+strings.TrimPrefix(first["udp"], "made") {
			t.Errorf("generation %d: %v, at first %v", generation, now, first)
		}
		// What was taken in generation 1 is passed on, and taken again.
		if files := strings.Fields(now["files"]); len(files) != 2 || files[0] != "a" && files[1] != "a" {
			t.Errorf("files: %v", files)
		}
	}
	note, _ := os.ReadFile(folder + "/note")
	if string(note) != "generation 0\ngeneration 1\ngeneration 2\n" {
		t.Errorf("the file: %q", note)
	}
	_ = conn.SetReadDeadline(time.Now().Add(soon()))
	buffer := make([]byte, 64)
	if n, err := io.ReadFull(conn, buffer[:39]); string(buffer[:n]) != string(note) {
		t.Errorf("the connection: %q, %v", buffer[:n], err)
	}
	client, err := net.Dial("unix", folder+"/sock")
	if err != nil {
		t.Fatal(err)
	}
	line, _ := io.ReadAll(client)
	client.Close()
	if string(line) != fmt.Sprintf("unix %d\n", pid) {
		t.Errorf("the unix socket: %q", line)
	}
	waitUntil(t, "the path that was dropped to be unlinked", func() bool {
		_, err := os.Lstat(folder + "/dropped")
		return os.IsNotExist(err)
	})
	h.stop(pid)
	if _, err := os.Lstat(folder + "/sock"); !os.IsNotExist(err) {
		t.Errorf("the path outlives the service: %v", err)
	}
}

func TestRelativeUnixPathsCross(t *testing.T) {
	program := build(t, "testdata/host")
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"rel.sock", "./rel.sock"} {
		t.Run(path, func(t *testing.T) {
			folder := t.TempDir()
			if err := os.Chdir(folder); err != nil {
				t.Fatal(err)
			}
			f := start(t, program, []string{"NETWORK=unix", "ADDRESS=" + path, "RELATIVE_GRAM=rel.gram", "PWD=" + folder})
			if err := os.Chdir(here); err != nil {
				t.Fatal(err)
			}
			pid := f.serving(0)
			paths := []string{folder + "/rel.sock", folder + "/rel.gram"}
			var first []os.FileInfo
			for _, path := range paths {
				info, err := os.Lstat(path)
				if err != nil {
					t.Fatal(err)
				}
				first = append(first, info)
			}
			load := startLoad(t, "unix://"+paths[0], "--connections", "2", "--streams", "2")
			for generation := 1; generation <= 3; generation++ {
				pid = f.upgrade(pid, generation, syscall.SIGHUP)
				for i, path := range paths {
					if info, err := os.Lstat(path); err != nil || !os.SameFile(info, first[i]) {
						t.Errorf("generation %d: %v, another file: %v", generation, err, err == nil)
					}
				}
				client, err := net.Dial("unixgram", paths[1])
				if err != nil {
					t.Fatal(err)
				}
				fmt.Fprintf(client, "datagram %d", generation)
				client.Close()
				f.waitFor(fmt.Sprintf("pid %d got datagram %d", pid, generation))
			}
			load.stop().clean(t, 100)
			f.stop(pid)
			for _, path := range paths {
				if _, err := os.Lstat(path); !os.IsNotExist(err) {
					t.Errorf("%s outlives the service: %v", path, err)
				}
			}
		})
	}
}

func TestConnectionsAreKeptAliveAsConfiguredInEveryGeneration(t *testing.T) {
	for _, one := range []struct {
		seconds string
		on      int
	}{{"-1", 0}, {"77", 1}} {
		h := startHost(t, "KEEP_ALIVE_S="+one.seconds)
		pid := h.serving(0)
		for generation := 0; ; generation++ {
			var said []int
			h.ask("/keepalive", &said)
			if len(said) != 2 || said[0] != one.on || one.on == 1 && fmt.Sprint(said[1]) != one.seconds {
				t.Errorf("KeepAlive of %s s: in generation %d %v", one.seconds, generation, said)
			}
			if generation == 2 {
				break
			}
			pid = h.upgrade(pid, generation+1, syscall.SIGHUP)
		}
		h.stop(pid)
	}
}

func TestAStaleUnixPathIsReplacedAndALiveOneIsNot(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sock")
	environment := []string{"NETWORK=unix", "ADDRESS=" + path}
	killed := start(t, build(t, "testdata/host"), environment)
	killed.signal(killed.serving(0), syscall.SIGKILL)
	<-killed.exited
	if _, err := os.Lstat(path); err != nil {
		t.Fatal(err)
	}
	f := start(t, build(t, "testdata/host"), environment)
	pid := f.serving(0)
	start(t, build(t, "testdata/host"), environment).waitFor("cannot listen: .*address already in use|cannot listen: .*EADDRINUSE")
	f.stop(pid)
	if _, err := os.Lstat(path); !os.IsNotExist(err) {
		t.Errorf("the path outlives the service: %v", err)
	}
}
