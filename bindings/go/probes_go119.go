//go:build !go1.23

package shellflip

import "net"

// probedAsConfigured: there is no KeepAliveConfig yet.
func probedAsConfigured(*net.TCPConn, *net.ListenConfig) bool { return false }
