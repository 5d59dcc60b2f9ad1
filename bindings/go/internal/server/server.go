//go:build linux

// Package server runs the programs of the recipes in their tests.
package server

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Server is a recipe's program, running.
type Server struct {
	t       *testing.T
	command *exec.Cmd
	log     string
}

// FreePort is an address that nobody uses at this moment.
func FreePort(t *testing.T) string {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}

// Start builds the program in this folder, and starts it. It ends with the test.
func Start(t *testing.T, address string) *Server {
	folder := t.TempDir()
	program, tool := filepath.Join(folder, "server"), os.Getenv("SHELLFLIP_GO")
	if tool == "" {
		tool = "go"
	}
	if output, err := exec.Command(tool, "build", "-o", program, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, output)
	}
	s := &Server{t: t, command: exec.Command(program, address), log: filepath.Join(folder, "log")}
	log, err := os.Create(s.log)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	s.command.Stdout, s.command.Stderr = log, log
	s.command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := s.command.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { _ = s.command.Wait() }()
	t.Cleanup(func() {
		_ = syscall.Kill(-s.command.Process.Pid, syscall.SIGKILL)
		if output := s.output(); t.Failed() || strings.Contains(output, "panic") {
			t.Errorf("the servers' output:\n%s", output)
		}
	})
	return s
}

func (s *Server) output() string {
	output, _ := os.ReadFile(s.log)
	return string(output)
}

// WaitUntil returns once the condition holds, and fails the test at the deadline.
func (s *Server) WaitUntil(what string, condition func() bool) {
	s.t.Helper()
	limit := 10 * time.Second
	if factor, err := strconv.ParseFloat(os.Getenv("SHELLFLIP_TEST_TIMEOUT_SCALE"), 64); err == nil && factor > 0 {
		limit = time.Duration(float64(limit) * factor)
	}
	for end := time.Now().Add(limit); !condition(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			s.t.Fatalf("not within %v: %s", limit, what)
		}
	}
}

// Serving waits until a generation serves, and returns its pid.
func (s *Server) Serving(generation int) int {
	s.t.Helper()
	expression := regexp.MustCompile(fmt.Sprintf(`pid (\d+), generation %d: serving`, generation))
	var match []string
	s.WaitUntil(fmt.Sprintf("generation %d", generation), func() bool {
		match = expression.FindStringSubmatch(s.output())
		return match != nil
	})
	pid, _ := strconv.Atoi(match[1])
	return pid
}

// WaitGone waits until a process has exited.
func (s *Server) WaitGone(pid int) {
	s.t.Helper()
	s.WaitUntil(fmt.Sprintf("the end of process %d", pid), func() bool {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		return err != nil || strings.Contains(string(stat), ") Z ")
	})
}

// Stop ends a process.
func (s *Server) Stop(pid int) {
	s.t.Helper()
	_ = syscall.Kill(pid, syscall.SIGTERM)
	s.WaitGone(pid)
}
