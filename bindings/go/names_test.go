package shellflip

import (
	"strings"
	"testing"
)

func TestNamesAndAddresses(t *testing.T) {
	for _, one := range []struct{ network, addr, name, address string }{
		{"tcp", "127.0.0.1:80", "tcp://127.0.0.1:80", "tcp://127.0.0.1:80?name=tcp%3A//127.0.0.1%3A80"},
		{"tcp", ":80", "tcp://:80", "tcp://:80?name=tcp%3A//%3A80"},
		{"tcp4", ":80", "tcp4://:80", "tcp://0.0.0.0:80?name=tcp4%3A//%3A80"},
		{"tcp6", ":80", "tcp6://:80", "tcp://[::]:80?name=tcp6%3A//%3A80&v6only=1"},
		{"tcp", "[::1]:80", "tcp://[::1]:80", "tcp://[::1]:80?name=tcp%3A//%5B%3A%3A1%5D%3A80"},
		{"udp", "127.0.0.1:53", "udp://127.0.0.1:53", "udp://127.0.0.1:53?name=udp%3A//127.0.0.1%3A53"},
		// Who knows what a name was resolved to, or what the kernel made of another family.
		{"tcp", "localhost:80", "tcp://localhost:80", ""},
		{"tcp", "127.0.0.1:http", "tcp://127.0.0.1:http", ""},
		{"tcp6", "127.0.0.1:80", "tcp6://127.0.0.1:80", ""},
		{"tcp4", "[::1]:80", "tcp4://[::1]:80", ""},
		{"ip4:icmp", "0.0.0.0", "ip4:icmp://0.0.0.0", ""},
		{"unix", "/run/a b", "unix:///run/a%20b", "unix:///run/a%20b?name=unix%3A///run/a%2520b"},
		{"unix", "@a", "unix:@a", "unix:@a?name=unix%3A@a"},
		// Which socket a relative path led to depends on the directory of that time.
		{"unix", "./a b", "unix:./a%20b", ""},
		{"unixgram", "a", "unixgram:a", ""},
		{"unix", "", "unix:", ""},
	} {
		name := socketName(one.network, one.addr)
		if address := inheritAddress(one.network, one.addr, name); name != one.name || address != one.address {
			t.Errorf("%s %s: %s %s", one.network, one.addr, name, address)
		}
	}
	for name, path := range map[string]string{
		"unix:///run/a%20b%25": "/run/a b%", "unix:a": "a", "unix:@a": "", "tcp://:80": "", "file:a": "", "unix:": "",
	} {
		if got, is := unixPath(name); is != (path != "") || is && got != path {
			t.Errorf("%s: %q %v", name, got, is)
		}
	}
	for address, keep := range map[string]keep{
		"tcp://:80": keepNever, "tcp://:80?name=a&keep=stop": keepOverStop, "unix:/a?keep=always": keepAlways,
	} {
		if keepOf(address) != keep {
			t.Errorf("%s: %v", address, keepOf(address))
		}
	}
}

func TestAnswersSayClose(t *testing.T) {
	const body = "body HTTP/1.1 200 OK\r\nConnection: keep-alive\r\n\r\n"
	for answer, said := range map[string]string{
		"HTTP/1.1 200 OK\r\nA: b\r\n\r\n":                           "HTTP/1.1 200 OK\r\nConnection: close\r\nA: b\r\n\r\n",
		"HTTP/1.1 200 OK\r\n\r\n":                                   "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n",
		"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nA: b\r\n\r\n": "HTTP/1.0 200 OK\r\nConnection: close\r\nA: b\r\n\r\n",
		"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n":              "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n",
		// A head that is longer than one write.
		"HTTP/1.1 200 OK\r\nA: b\r\nLong: ": "HTTP/1.1 200 OK\r\nConnection: close\r\nA: b\r\nLong: ",
		"HTTP/1.1 200 OK":                   "HTTP/1.1 200 OK",
	} {
		if strings.HasSuffix(answer, "\r\n\r\n") {
			answer, said = answer+body, said+body
		}
		if got := string(sayClose([]byte(answer))); got != said {
			t.Errorf("%q became %q", answer, got)
		}
	}
}
