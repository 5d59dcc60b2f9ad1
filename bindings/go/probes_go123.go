//go:build go1.23

package shellflip

import "net"

// probedAsConfigured: KeepAliveConfig goes before KeepAlive where it is used.
func probedAsConfigured(conn *net.TCPConn, config *net.ListenConfig) bool {
	if !config.KeepAliveConfig.Enable {
		return false
	}
	_ = conn.SetKeepAliveConfig(config.KeepAliveConfig)
	return true
}
