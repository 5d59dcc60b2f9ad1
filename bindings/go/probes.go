package shellflip

import "net"

// TCP's keep-alive as Options.ListenConfig has it, for the connections of a listener that was inherited: package net
// remembers it with the listener that it has made, not with the socket, and takes its default for all others.

// keepProbing sets TCP's keep-alive of an accepted connection. What fails here fails without a word in package net,
// too.
func (f *Fds) keepProbing(conn net.Conn) {
	tcp, is := conn.(*net.TCPConn)
	if !is || probedAsConfigured(tcp, f.config) {
		return
	}
	switch period := f.config.KeepAlive; {
	case period < 0:
		_ = tcp.SetKeepAlive(false)
	case period > 0:
		_ = tcp.SetKeepAlive(true)
		_ = tcp.SetKeepAlivePeriod(period)
	}
}
