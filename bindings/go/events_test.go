//go:build linux && cgo

package shellflip_test

import (
	"errors"
	"runtime"
	"strings"
	"testing"

	shellflip "github.com/libshellflip/libshellflip/bindings/go"
)

func TestAFunctionOfTheHostThatEndsItsGoroutineRefuses(t *testing.T) {
	starts := 0
	upg := newUpgrader(t, shellflip.Options{
		UpgradeTimeout: soon(),
		Starting: func(string) error {
			if starts++; starts < 3 {
				runtime.Goexit()
			}
			return errors.New("not on Fridays")
		},
		Failed: func(error) { runtime.Goexit() },
	})
	defer upg.Stop()
	if err := upg.Ready(); err != nil {
		t.Fatal(err)
	}
	for _, says := range []string{"has not returned", "has not returned", "not on Fridays"} {
		err := upg.Upgrade()
		var failed *shellflip.Error
		if !errors.As(err, &failed) || failed.Failure != shellflip.FailureRefused || !strings.Contains(failed.Text, says) {
			t.Errorf("%v, where it should say %q", err, says)
		}
	}
}
