//go:build linux && cgo

package shellflip_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// tool runs the go command in a folder, with changes to the environment.
func tool(t testing.TB, folder string, environment []string, arguments ...string) string {
	t.Helper()
	command := exec.Command(goTool(), arguments...)
	command.Dir = folder
	command.Env = append(os.Environ(), environment...)
	output, err := command.CombinedOutput()
	if err != nil {
		t.Fatalf("go %s: %v\n%s", strings.Join(arguments, " "), err, output)
	}
	return string(output)
}

func TestWithoutCgoNewSaysSo(t *testing.T) {
	program := filepath.Join(t.TempDir(), "program")
	tool(t, "testdata/unsupported", []string{"CGO_ENABLED=0"}, "build", "-o", program, ".")
	output, err := exec.Command(program).CombinedOutput()
	if err != nil || !strings.Contains(string(output), "without cgo (CGO_ENABLED=0)") {
		t.Errorf("%v: %s", err, output)
	}
	// vet type-checks; what it needs of another system's standard library is compiled once.
	systems := []string{"darwin"}
	if os.Getenv("SHELLFLIP_DEEP") == "1" {
		systems = append(systems, "windows", "freebsd")
	}
	for _, system := range systems {
		tool(t, ".", []string{"CGO_ENABLED=0", "GOOS=" + system}, "vet", "-unreachable", ".", "./testing")
	}
}

// Every further library is one more to find, map and relocate before main.
func TestWithTheArchiveAProgramNeedsTheCLibraryAlone(t *testing.T) {
	if raceEnabled {
		return // the other run of this test is enough
	}
	if unwinder, _ := exec.Command("cc", "-print-file-name=libgcc_eh.a").Output(); !strings.HasPrefix(string(unwinder), "/") {
		skip(t, "the compiler's unwinder is no archive")
	}
	program := filepath.Join(t.TempDir(), "quiet")
	tool(t, "testdata/quiet", nil, "build", "-tags", "shellflip_static", "-o", program, ".")
	linked, err := exec.Command("ldd", program).Output()
	if err != nil || strings.Contains(string(linked), "shellflip") || strings.Contains(string(linked), "libgcc") {
		t.Errorf("%v: %s", err, linked)
	}
}

// Two archives that were made from Rust have much in common, of which a program may have only one.
func TestTheArchiveLinksBesideAnotherRustArchive(t *testing.T) {
	if raceEnabled {
		return // the other run of this test is enough
	}
	if _, err := exec.LookPath("rustc"); err != nil {
		skip(t, "rustc is not in PATH")
	}
	folder := t.TempDir()
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(folder, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("other.rs", `
#[unsafe(no_mangle)]
pub extern "C" fn other_length(n: u32) -> u32 {
    let caught = std::panic::catch_unwind(|| if n == 0 { panic!("nothing") } else { format!("{n}").len() as u32 });
    caught.unwrap_or(99)
}
`)
	rustc := exec.Command("rustc", "--edition", "2024", "--crate-type", "staticlib", "-O", "-o", "libother.a", "other.rs")
	rustc.Dir = folder
	if output, err := rustc.CombinedOutput(); err != nil {
		t.Fatalf("rustc: %v\n%s", err, output)
	}
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	write("go.mod", `module both

go 1.19

require github.com/libshellflip/libshellflip/bindings/go v0.0.0

replace github.com/libshellflip/libshellflip/bindings/go => `+here+"\n")
	write("main.go", `package main

// #cgo LDFLAGS: -L${SRCDIR} -lother
// unsigned other_length(unsigned);
import "C"

import (
	"fmt"

	shellflip "github.com/libshellflip/libshellflip/bindings/go"
)

func main() {
	upg, err := shellflip.New(shellflip.Options{})
	if err != nil {
		panic(err)
	}
	defer upg.Stop()
	fmt.Println(upg.Ready(), upg.Upgrade() != nil, C.other_length(123), C.other_length(0))
}
`)
	program := filepath.Join(folder, "both")
	tool(t, folder, nil, "build", "-mod=mod", "-tags", "shellflip_static", "-o", program, ".")
	linked, err := exec.Command("ldd", program).Output()
	if err != nil || strings.Contains(string(linked), "shellflip") {
		t.Errorf("%v: %s", err, linked)
	}
}
