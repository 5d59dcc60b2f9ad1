//go:build linux && cgo

package shellflip_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	shellflip "github.com/libshellflip/libshellflip/bindings/go"
)

// What the tests with real processes share: a family of servers, load from the test kit's flipload, waiting on
// conditions.

// scale stretches every deadline.
func scale() float64 {
	if factor, err := strconv.ParseFloat(os.Getenv("SHELLFLIP_TEST_TIMEOUT_SCALE"), 64); err == nil && factor > 0 {
		return factor
	}
	return 1
}

func scaled(duration time.Duration) time.Duration { return time.Duration(float64(duration) * scale()) }

// soon is how long anything that normally takes milliseconds may take.
func soon() time.Duration { return scaled(10 * time.Second) }

// waitUntil returns once the condition holds, and fails the test at the deadline.
func waitUntil(t testing.TB, what string, condition func() bool) {
	t.Helper()
	for end := time.Now().Add(soon()); !condition(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within %v: %s", soon(), what)
		}
	}
}

// skip says it in the one way that is counted.
func skip(t testing.TB, reason string) {
	t.Helper()
	fmt.Printf("SKIPPED: %s: %s\n", t.Name(), reason)
	t.Skip(reason)
}

var built struct {
	sync.Mutex
	folder string
	paths  map[string]string
}

// build compiles a program once per run, with the race detector if the tests have it.
func build(t testing.TB, source string, more ...string) string {
	t.Helper()
	built.Lock()
	defer built.Unlock()
	key := source + " " + strings.Join(more, " ")
	if path, done := built.paths[key]; done {
		return path
	}
	if built.paths == nil {
		built.paths = make(map[string]string)
		folder, err := os.MkdirTemp("", "shellflip-go-")
		if err != nil {
			t.Fatal(err)
		}
		built.folder = folder
	}
	path := filepath.Join(built.folder, fmt.Sprintf("%s-%d", filepath.Base(source), len(built.paths)))
	arguments := []string{"build", "-o", path}
	if raceEnabled {
		arguments = append(arguments, "-race")
	}
	arguments = append(append(arguments, more...), ".")
	command := exec.Command(goTool(), arguments...)
	command.Dir = source
	if output, err := command.CombinedOutput(); err != nil {
		t.Fatalf("cannot build %s: %v\n%s", source, err, output)
	}
	built.paths[key] = path
	return path
}

// goTool is the go command that runs these tests, which need not be the one in PATH.
func goTool() string {
	if tool := os.Getenv("SHELLFLIP_GO"); tool != "" {
		return tool
	}
	return "go"
}

func TestMain(m *testing.M) {
	code := m.Run()
	if built.folder != "" {
		_ = os.RemoveAll(built.folder)
	}
	os.Exit(code)
}

// newUpgrader makes one once that of an earlier test has ended, which takes until its last connection has.
func newUpgrader(t testing.TB, options shellflip.Options) *shellflip.Upgrader {
	t.Helper()
	var upg *shellflip.Upgrader
	waitUntil(t, "the end of an earlier test's Upgrader", func() bool {
		var err error
		if upg, err = shellflip.New(options); err != nil && !errors.Is(err, syscall.EBUSY) {
			t.Fatal(err)
		}
		return err == nil
	})
	return upg
}

// family is a server and all that it starts, in a process group of its own.
type family struct {
	t      testing.TB
	first  *exec.Cmd
	folder string
	log    string
	exited chan struct{}
}

// start starts a copy of the program, which can be replaced, and ends everything with the test.
func start(t testing.TB, program string, environment []string, arguments ...string) *family {
	t.Helper()
	return startOn(t, program, nil, environment, arguments...)
}

// startOn is start with another standard error.
func startOn(t testing.TB, program string, standardError *os.File, environment []string, arguments ...string) *family {
	t.Helper()
	f := &family{t: t, folder: t.TempDir(), exited: make(chan struct{})}
	f.log = filepath.Join(f.folder, "log")
	f.replace(program)
	log, err := os.OpenFile(f.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	if standardError == nil {
		standardError = log
	}
	f.first = exec.Command(f.program(), arguments...)
	f.first.Env = append(append(os.Environ(), environment...), "GORACE=halt_on_error=1 atexit_sleep_ms=0")
	f.first.Stdout, f.first.Stderr = log, standardError
	f.first.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := f.first.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = f.first.Wait()
		close(f.exited)
	}()
	t.Cleanup(f.end)
	return f
}

func (f *family) program() string { return filepath.Join(f.folder, "server") }

// replace puts another program in the place of the one that runs.
func (f *family) replace(program string) {
	f.t.Helper()
	bytes, err := os.ReadFile(program)
	if err == nil {
		err = os.WriteFile(f.program()+".new", bytes, 0o755)
	}
	if err == nil {
		err = os.Rename(f.program()+".new", f.program())
	}
	if err != nil {
		f.t.Fatal(err)
	}
}

// end kills what is left, and shows the log of a test that failed.
func (f *family) end() {
	left := f.members()
	for range [50]int{} {
		if len(f.members()) == 0 {
			break
		}
		_ = syscall.Kill(-f.first.Process.Pid, syscall.SIGKILL)
		time.Sleep(10 * time.Millisecond)
	}
	output := f.output()
	if strings.Contains(output, "DATA RACE") || strings.Contains(output, "panic:") || strings.Contains(output, "fatal error:") {
		f.t.Errorf("a server was not well")
	}
	if f.t.Failed() {
		f.t.Logf("left at the end: %v; the servers' output:\n%s", left, tail(output, 60))
	}
}

func tail(text string, lines int) string {
	all := strings.Split(text, "\n")
	if len(all) > lines {
		all = all[len(all)-lines:]
	}
	return strings.Join(all, "\n")
}

// members are the living processes of the family.
func (f *family) members() []int {
	var pids []int
	entries, _ := os.ReadDir("/proc")
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		stat, err := os.ReadFile(filepath.Join("/proc", entry.Name(), "stat"))
		if err != nil {
			continue
		}
		fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
		if group, _ := strconv.Atoi(fields[2]); group == f.first.Process.Pid && fields[0] != "Z" && fields[0] != "X" {
			pids = append(pids, pid)
		}
	}
	return pids
}

func alive(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && !bytes.Contains(stat[bytes.LastIndexByte(stat, ')')+1:], []byte(" Z "))
}

func (f *family) output() string {
	output, _ := os.ReadFile(f.log)
	return string(output)
}

// waitFor waits for a line of the output, and returns what its groups have matched.
func (f *family) waitFor(pattern string) []string {
	f.t.Helper()
	expression := regexp.MustCompile(pattern)
	var found []string
	waitUntil(f.t, "a line like "+pattern, func() bool {
		found = expression.FindStringSubmatch(f.output())
		return found != nil
	})
	return found
}

// serving waits until a generation says that it serves: "pid N generation N ready".
func (f *family) serving(generation int) int {
	f.t.Helper()
	pid, _ := strconv.Atoi(f.waitFor(fmt.Sprintf(`(?m)pid (\d+),? generation %d(?: ready|: serving)`, generation))[1])
	return pid
}

func (f *family) signal(pid int, signal syscall.Signal) {
	f.t.Helper()
	if err := syscall.Kill(pid, signal); err != nil {
		f.t.Fatalf("cannot send %v to %d: %v", signal, pid, err)
	}
}

func (f *family) waitGone(pid int) {
	f.t.Helper()
	waitUntil(f.t, fmt.Sprintf("the end of process %d", pid), func() bool { return !alive(pid) })
}

// upgrade replaces the process and waits until the old one is gone.
func (f *family) upgrade(pid, generation int, by syscall.Signal) int {
	f.t.Helper()
	// The predecessor of this one has just exited, or is about to release it: until then it says no.
	f.signal(pid, by)
	next := f.serving(generation)
	f.waitGone(pid)
	return next
}

// stop ends the last process and sees that none is left.
func (f *family) stop(pid int) {
	f.t.Helper()
	f.signal(pid, syscall.SIGTERM)
	waitUntil(f.t, "the end of every process", func() bool { return len(f.members()) == 0 })
}

// report is what flipload says.
type report struct {
	Sent, Answered, Failed uint64
	Failures               map[string]uint64
	Latency                struct {
		Max float64 `json:"max_ms"`
	}
	FirstFailures []struct{ Kind, Detail string } `json:"first_failures"`
	Seen          []struct {
		Pid        int
		Generation *int
		Answers    uint64
		First      float64 // in seconds
		Last       float64
	}
}

// load is a running flipload, whose clients never retry.
type load struct {
	t       testing.TB
	command *exec.Cmd
	output  bytes.Buffer
}

func startLoad(t testing.TB, address string, arguments ...string) *load {
	t.Helper()
	path := os.Getenv("FLIPLOAD")
	if path == "" {
		skip(t, "FLIPLOAD does not name the load client; tests/go.sh builds it")
	}
	l := &load{t: t, command: exec.Command(path, append([]string{address}, arguments...)...)}
	l.command.Stdout, l.command.Stderr = &l.output, os.Stderr
	if err := l.command.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.command.Process.Kill() })
	return l
}

func (l *load) stop() report {
	l.t.Helper()
	_ = l.command.Process.Signal(syscall.SIGINT)
	_ = l.command.Wait()
	var said report
	if err := json.Unmarshal(l.output.Bytes(), &said); err != nil {
		l.t.Fatalf("flipload has said %q: %v", l.output.String(), err)
	}
	return said
}

// clean fails the test unless every request was answered, and there were enough for the test to mean anything.
func (r report) clean(t testing.TB, atLeast uint64) {
	t.Helper()
	if r.Failed != 0 || r.Answered < atLeast {
		t.Errorf("%d requests failed of %d: %v %v", r.Failed, r.Sent, r.Failures, r.FirstFailures)
	}
	t.Logf("%d requests, %d failed", r.Sent, r.Failed)
}
