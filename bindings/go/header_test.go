//go:build linux && cgo

package shellflip

import (
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// The header's numbers are written down a second time here, for systems without the library.
func TestTheNumbersAreTheHeaders(t *testing.T) {
	header, err := os.ReadFile("../../include/shellflip.h")
	if err != nil {
		t.Fatal(err)
	}
	numbers := map[string]int{}
	for _, match := range regexp.MustCompile(`(?m)^#define (FLIP_\w+) (\d+)$`).FindAllStringSubmatch(string(header), -1) {
		numbers[match[1]], _ = strconv.Atoi(match[2])
	}
	for name, number := range map[string]int{
		"FLIP_REQUEST_UPGRADE": requestUpgrade, "FLIP_REQUEST_STOP": requestStop, "FLIP_REQUEST_DETACH": requestDetach,
		"FLIP_SHUTDOWN_UPGRADE": shutdownUpgrade, "FLIP_SHUTDOWN_STOP": shutdownStop,
		"FLIP_SHUTDOWN_DETACH": shutdownDetach, "FLIP_EVENT_STARTING": int(eventStarting),
		"FLIP_EVENT_STATE": int(eventState), "FLIP_EVENT_FAILED": int(eventFailed), "FLIP_EVENT_LOG": int(eventLog),
		"FLIP_FAILURE_NONE": int(FailureNone), "FLIP_FAILURE_SPAWN": int(FailureSpawn),
		"FLIP_FAILURE_EXITED": int(FailureExited), "FLIP_FAILURE_SIGNALLED": int(FailureSignalled),
		"FLIP_FAILURE_DEADLINE": int(FailureDeadline), "FLIP_FAILURE_REFUSED": int(FailureRefused),
		"FLIP_FAILURE_STATE": int(FailureState), "FLIP_FAILURE_PROTOCOL": int(FailureProtocol),
		"FLIP_FAILURE_NOT_READY": int(FailureNotReady), "FLIP_FAILURE_IN_PROGRESS": int(FailureInProgress),
		"FLIP_FAILURE_DRAINING": int(FailureDraining), "FLIP_FAILURE_STOPPING": int(FailureStopping),
		"FLIP_FAILURE_UNCONFIRMED": int(FailureUnconfirmed), "FLIP_FAILURE_UNSUPPORTED": int(FailureUnsupported),
	} {
		if there, is := numbers[name]; !is || there != number {
			t.Errorf("%s is %d in the header, and %d here", name, there, number)
		}
		delete(numbers, name)
	}
	for name := range numbers {
		if strings.HasPrefix(name, "FLIP_FAILURE_") {
			t.Errorf("%s is missing here", name)
		}
	}
	if strings.HasPrefix(FailureUnsupported.String(), "failure") || !strings.HasPrefix(Failure(14).String(), "failure") {
		t.Error("a failure has no name")
	}
	version := LibraryVersion()
	want := strconv.Itoa(numbers["FLIP_VERSION_MAJOR"]) + "." + strconv.Itoa(numbers["FLIP_VERSION_MINOR"]) + "."
	if !strings.HasPrefix(version, want) {
		t.Errorf("version %s", version)
	}
}
