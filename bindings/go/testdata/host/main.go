// The server of the tests: it makes library calls when it is asked to, and behaves as its environment says.
package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	shellflip "github.com/libshellflip/libshellflip/bindings/go"
	"github.com/libshellflip/libshellflip/bindings/go/fliphttp"
)

var (
	upg   *shellflip.Upgrader
	state string // the hash of what the predecessor has handed over
)

func number(name string) int {
	n, _ := strconv.Atoi(os.Getenv(name))
	return n
}

// told reads what a test has written to a file meanwhile.
func told(name string) string {
	text, _ := os.ReadFile(os.Getenv(name))
	return strings.TrimSpace(string(text))
}

// result is what a call of the library returned.
type result struct {
	OK      bool
	Failure string
	Errno   int
	Text    string
}

func resultOf(err error) result {
	var failed *shellflip.Error
	if errors.As(err, &failed) {
		return result{Failure: failed.Failure.String(), Errno: int(failed.Errno), Text: failed.Error()}
	}
	if err != nil {
		return result{Text: err.Error()}
	}
	return result{OK: true}
}

func pattern(megabytes int) []byte {
	return bytes.Repeat([]byte(fmt.Sprintf("%1024d", os.Getpid())), megabytes*1024)
}

func hash(bytes []byte) string {
	sum := sha256.Sum256(bytes)
	return hex.EncodeToString(sum[:])
}

func options() shellflip.Options {
	options := shellflip.Options{
		UpgradeTimeout: time.Duration(number("UPGRADE_TIMEOUT_MS")) * time.Millisecond,
		DrainTimeout:   time.Duration(number("DRAIN_TIMEOUT_MS")) * time.Millisecond,
		IdleGrace:      time.Duration(number("IDLE_GRACE_MS")) * time.Millisecond,
		PIDFile:        os.Getenv("PID_FILE"),
		ControlSocket:  os.Getenv("CONTROL"),
	}
	if seconds := number("KEEP_ALIVE_S"); seconds != 0 {
		options.ListenConfig = &net.ListenConfig{KeepAlive: time.Duration(seconds) * time.Second}
	}
	if os.Getenv("REFUSE") != "" {
		options.Starting = func(requester string) error {
			switch why := told("REFUSE"); why {
			case "":
				return nil
			case "upgrade":
				return upg.Upgrade() // may not be called here, and says so
			default:
				return errors.New(why)
			}
		}
	}
	if megabytes := number("STATE_MB"); megabytes > 0 {
		options.State = func(w io.Writer) error {
			all := pattern(megabytes)
			fmt.Fprintln(os.Stderr, "state", hash(all))
			_, err := w.Write(all)
			return err
		}
	}
	return options
}

// pressure allocates and collects all the time.
func pressure() {
	debug.SetGCPercent(5)
	for range [4]int{} {
		go func() {
			var kept [][]byte
			for {
				if kept = append(kept, make([]byte, 32<<10)); len(kept) > 64 {
					kept = nil
					runtime.Gosched()
				}
			}
		}()
	}
	go func() {
		for {
			runtime.GC()
		}
	}()
}

func main() {
	var err error
	if upg, err = shellflip.New(options()); err != nil {
		log.Fatalln("cannot start:", err)
	}
	defer upg.Stop()
	if os.Getenv("PRESSURE") != "" {
		pressure()
	}
	if upg.HasParent() {
		switch told("FAIL") {
		case "exit":
			os.Exit(3)
		case "hang":
			time.Sleep(time.Hour)
		}
	}
	if file, err := upg.State(); err == nil {
		all, _ := io.ReadAll(file)
		file.Close()
		state = hash(all)
	} else if !errors.Is(err, shellflip.ErrNoState) {
		log.Println("state:", err)
	}
	// Somebody waits for these, or they would end the process.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGUSR2, syscall.SIGALRM)
	upg.UpgradeOn(syscall.SIGHUP)
	upg.StopOn(syscall.SIGTERM)

	listener, err := upg.Listen(os.Getenv("NETWORK"), os.Getenv("ADDRESS"))
	if err != nil {
		log.Fatalln("cannot listen:", err)
	}
	if script := os.Getenv("DESCRIPTORS"); script != "" {
		descriptors()
	}
	if path := os.Getenv("RELATIVE_GRAM"); path != "" {
		datagrams(path)
	}
	served := make(chan error)
	var ready atomic.Bool
	server := &http.Server{Handler: mux(&ready), ConnContext: func(ctx context.Context, conn net.Conn) context.Context {
		return context.WithValue(ctx, connection{}, conn)
	}}
	go func() {
		if os.Getenv("TLS") != "" {
			served <- fliphttp.ServeTLS(upg, server, listener, os.Getenv("TLS")+"/cert", os.Getenv("TLS")+"/key")
		} else {
			served <- fliphttp.Serve(upg, server, listener)
		}
	}()
	if upg.HasParent() {
		time.Sleep(time.Duration(number("SLOW_READY_MS")) * time.Millisecond)
	}
	if err := upg.Ready(); err != nil {
		log.Fatalln("not ready:", err)
	}
	ready.Store(true)
	log.Printf("pid %d generation %d ready", os.Getpid(), upg.Generation())
	go func() {
		<-upg.Closing()
		log.Println("ending:", upg.Reason())
	}()
	go func() {
		_ = upg.WaitForParent(context.Background())
		log.Printf("pid %d has no parent", os.Getpid())
	}()
	if err := <-served; err != nil {
		log.Println("served:", err)
	}
	log.Printf("pid %d %v", os.Getpid(), upg.Reason())
}

// connection is under what a request's context has its connection.
type connection struct{}

// keepAlive is what getsockopt says of a connection: SO_KEEPALIVE, and after how many seconds.
func keepAlive(r *http.Request) interface{} {
	var on, idle int
	raw, err := r.Context().Value(connection{}).(syscall.Conn).SyscallConn()
	if err == nil {
		err = raw.Control(func(fd uintptr) {
			on, _ = syscall.GetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_KEEPALIVE)
			idle, _ = syscall.GetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_KEEPIDLE)
		})
	}
	if err != nil {
		return err.Error()
	}
	return []int{on, idle}
}

func mux(ready *atomic.Bool) http.Handler {
	mux := http.NewServeMux()
	say := func(path string, answer func(*http.Request) interface{}) {
		mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) { _ = json.NewEncoder(w).Encode(answer(r)) })
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "{\"version\":\"1\",\"pid\":%d,\"generation\":%d}\n", os.Getpid(), upg.Generation())
	})
	mux.HandleFunc("/slow", func(w http.ResponseWriter, r *http.Request) {
		ms, _ := strconv.Atoi(r.URL.Query().Get("ms"))
		time.Sleep(time.Duration(ms) * time.Millisecond)
		fmt.Fprint(w, "slow ", os.Getpid())
	})
	mux.HandleFunc("/hang", func(http.ResponseWriter, *http.Request) {
		log.Println("hanging")
		select {}
	})
	mux.HandleFunc("/download", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, "begun ")
		w.(http.Flusher).Flush()
		<-upg.Exit()
		fmt.Fprint(w, "ended")
	})
	say("/upgrade", func(*http.Request) interface{} { return resultOf(upg.Upgrade()) })
	say("/keepalive", keepAlive)
	say("/state", func(*http.Request) interface{} { return state })
	say("/environ", func(*http.Request) interface{} {
		child, _ := exec.Command("env").Output()
		return append(os.Environ(), strings.Split(string(child), "\n")...)
	})
	say("/descriptors", func(*http.Request) interface{} { return found })
	say("/status", func(*http.Request) interface{} {
		line, _ := upg.Status()
		return line
	})
	say("/second", func(*http.Request) interface{} {
		_, err := shellflip.New(shellflip.Options{})
		return resultOf(err)
	})
	return mux
}

// datagrams takes those that come to a path that is relative, and leaves its directory.
func datagrams(path string) {
	packets, err := upg.ListenPacket("unixgram", path)
	if err != nil {
		log.Fatalln("cannot listen:", err)
	}
	if err := os.Chdir("/"); err != nil {
		log.Fatal(err)
	}
	go func() {
		if upg.HasParent() {
			_ = upg.WaitForParent(context.Background())
		}
		buffer := make([]byte, 64)
		for {
			n, _, err := packets.ReadFrom(buffer)
			if err != nil {
				return
			}
			log.Printf("pid %d got %s", os.Getpid(), buffer[:n])
		}
	}()
}

// found is what became of the descriptors that were passed on.
var found = map[string]string{}

// descriptors passes one of each kind on, and looks at what was passed on to this process.
func descriptors() {
	folder := os.Getenv("DESCRIPTORS")
	note := func(name string, err error) {
		if err != nil {
			found[name] = "error: " + err.Error()
		}
	}
	file, err := upg.File("note")
	note("file", err)
	if file == nil {
		if file, err = os.OpenFile(folder+"/note", os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o600); err == nil {
			err = upg.AddFile("note", file)
		}
		note("file", err)
		found["file"] = "made"
	} else {
		found["file"] = "inherited " + file.Name()
	}
	fmt.Fprintln(file, "generation", upg.Generation())

	rest, err := upg.Files()
	note("files", err)
	names := make([]string, 0, len(rest))
	for _, one := range rest {
		names = append(names, one.Name())
	}
	found["files"] = strings.Join(names, " ")
	if !upg.HasParent() {
		for _, name := range []string{"a", "b"} {
			reader, writer, _ := os.Pipe()
			note("files", upg.AddFile(name, reader))
			reader.Close()
			writer.Close()
		}
	}

	packets, err := upg.PacketConn("udp", "127.0.0.1:0")
	note("udp", err)
	found["udp"] = "inherited"
	if packets == nil {
		packets, err = upg.ListenPacket("udp", "127.0.0.1:0")
		note("udp", err)
		found["udp"] = "made"
	}
	found["udp"] += " " + packets.LocalAddr().String()

	conn, err := upg.Conn("tcp", "upstream")
	note("conn", err)
	if conn == nil {
		conn, err = net.Dial("tcp", os.Getenv("UPSTREAM"))
		if err == nil {
			err = upg.AddConn("tcp", "upstream", conn.(shellflip.Conn))
		}
		note("conn", err)
	}
	if conn != nil {
		fmt.Fprintln(conn, "generation", upg.Generation())
	}

	unix, err := upg.Listen("unix", folder+"/sock")
	note("unix", err)
	if unix != nil {
		go func() {
			for {
				client, err := unix.Accept()
				if err != nil {
					return
				}
				fmt.Fprintln(client, "unix", os.Getpid())
				client.Close()
			}
		}()
	}
	// A socket that the host made itself, of which only the first generation knows.
	if !upg.HasParent() {
		own, err := net.Listen("unix", folder+"/dropped")
		note("dropped", err)
		note("dropped", upg.AddListener("unix", folder+"/dropped", own.(shellflip.Listener)))
	}
	extra, err := upg.Listen("tcp", "localhost:0")
	note("tcp", err)
	if extra != nil {
		found["tcp"] = extra.Addr().String()
	}
}
