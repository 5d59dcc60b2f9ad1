package testing_test

import (
	"context"
	"errors"
	"net"
	"os"
	"reflect"
	"testing"

	shellflip "github.com/libshellflip/libshellflip/bindings/go"
	flip "github.com/libshellflip/libshellflip/bindings/go/testing"
)

// upgrader is what a program asks of either.
type upgrader interface {
	Listen(network, addr string) (net.Listener, error)
	ListenPacket(network, addr string) (net.PacketConn, error)
	File(name string) (*os.File, error)
	Ready() error
	Upgrade() error
	UpgradeOn(...os.Signal)
	Exit() <-chan struct{}
	Context() context.Context
	Stop()
	HasParent() bool
	WaitForParent(ctx context.Context) error
}

var _, _ upgrader = (*shellflip.Upgrader)(nil), (*flip.Upgrader)(nil)

func TestItServesAndStops(t *testing.T) {
	upg, err := flip.New()
	if err != nil {
		t.Fatal(err)
	}
	listener, err := upg.Fds.Listen("tcp", "127.0.0.1:0")
	if err != nil || upg.Ready() != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	if !errors.Is(upg.Upgrade(), shellflip.ErrNotSupported) {
		t.Error("an upgrade that is none")
	}
	upg.Stop()
	upg.Stop()
	<-upg.Exit()
	<-upg.Context().Done()
}

func TestEveryMethodOfTheStandInIsOneOfTheUpgrader(t *testing.T) {
	real, standIn := reflect.TypeOf(&shellflip.Upgrader{}), reflect.TypeOf(&flip.Upgrader{})
	for i := 0; i < standIn.NumMethod(); i++ {
		if name := standIn.Method(i).Name; !has(real, name) {
			t.Errorf("%s is not a method of shellflip.Upgrader", name)
		}
	}
}

func has(of reflect.Type, name string) bool {
	_, there := of.MethodByName(name)
	return there
}
