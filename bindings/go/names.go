package shellflip

import (
	"net"
	"strconv"
	"strings"
)

// Under which names sockets and files are passed on. A listener's name is the one that the library itself gives to
// such an address, so that servers in other languages find it.

const (
	filePrefix = "file:"
	connPrefix = "conn:"
)

func socketName(network, addr string) string {
	if strings.HasPrefix(network, "unix") {
		return unixAddress(network, addr)
	}
	return network + "://" + addr
}

func connName(network, addr string) string { return connPrefix + network + "://" + addr }

func isUnixListener(network string) bool { return network == "unix" || network == "unixpacket" }

// isAbsolute says whether the library takes it for a unix socket: a path from the root, or an abstract name.
func isAbsolute(addr string) bool {
	return strings.HasPrefix(addr, "/") || strings.HasPrefix(addr, "@")
}

// unixAddress is the address of a unix socket as the library reads it.
func unixAddress(network, addr string) string {
	if strings.HasPrefix(addr, "/") {
		return network + "://" + escape(addr)
	}
	return network + ":" + escape(addr)
}

// inheritAddress is what an inherited socket is looked for by where none has the name, and the name that it then
// gets. Empty: only a name will do, since who knows what a host name was resolved to, or what the directory of a
// relative path was.
func inheritAddress(network, addr, name string) string {
	query := "?name=" + escape(name)
	switch network {
	case "unix", "unixpacket", "unixgram":
		if !isAbsolute(addr) {
			return ""
		}
		return unixAddress(network, addr) + query
	case "tcp", "tcp4", "tcp6", "udp", "udp4", "udp6":
	default:
		return ""
	}
	host, port, err := net.SplitHostPort(addr)
	if err != nil || port == "" || strings.Trim(port, "0123456789") != "" {
		return ""
	}
	ip := net.ParseIP(host)
	switch {
	case host == "":
	case ip == nil || ip.To4() != nil && network[3:] == "6" || ip.To4() == nil && network[3:] == "4":
		return ""
	}
	switch network[3:] {
	case "4":
		if host == "" {
			host = "0.0.0.0"
		}
	case "6":
		if host == "" {
			host = "::"
		}
		query += "&v6only=1"
	}
	return network[:3] + "://" + net.JoinHostPort(host, port) + query
}

// escape writes what an address's grammar needs in percent signs and digits.
func escape(text string) string {
	const plain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~/@"
	const digits = "0123456789ABCDEF"
	var out strings.Builder
	for i := 0; i < len(text); i++ {
		if b := text[i]; strings.IndexByte(plain, b) >= 0 {
			out.WriteByte(b)
		} else {
			out.WriteByte('%')
			out.WriteByte(digits[b>>4])
			out.WriteByte(digits[b&15])
		}
	}
	return out.String()
}

// keepOf reads the option of an address that says when its listener stops.
func keepOf(address string) keep {
	_, query, _ := strings.Cut(address, "?")
	for _, option := range strings.Split(query, "&") {
		switch option {
		case "keep=stop":
			return keepOverStop
		case "keep=always":
			return keepAlways
		}
	}
	return keepNever
}

// unixPath is the path in a name that socketName has made.
func unixPath(name string) (string, bool) {
	network, rest, is := strings.Cut(name, ":")
	if !is || !strings.HasPrefix(network, "unix") {
		return "", false
	}
	path := unescape(strings.TrimPrefix(rest, "//"))
	return path, path != "" && path[0] != '@'
}

func unescape(text string) string {
	var out strings.Builder
	for i := 0; i < len(text); i++ {
		if text[i] == '%' && i+2 < len(text) {
			if b, err := strconv.ParseUint(text[i+1:i+3], 16, 8); err == nil {
				out.WriteByte(byte(b))
				i += 2
				continue
			}
		}
		out.WriteByte(text[i])
	}
	return out.String()
}
