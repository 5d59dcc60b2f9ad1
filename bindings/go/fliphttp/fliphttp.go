// Package fliphttp serves HTTP so that an upgrade fails no request, on keep-alive connections too.
//
// http.Server.Shutdown closes idle connections at once, and with them the requests that are on their way on them.
// Serve instead ends a connection with an answer: from shutdown on each one has Connection: close, so that the
// client's next request goes to the successor. A connection that gets no request is closed after Options.IdleGrace.
//
// A server that calls http.Server.Serve and Shutdown itself is treated the same way when it serves plain HTTP on a
// listener from Listen. This package does the same for TLS and HTTP/2, and makes it one call.
//
// HTTP/2 has one case that the client has to see to: the server says with GOAWAY which stream is the last that it has
// seen, and drops those that are on their way by then. Such a request was not executed, and is to be sent again. Go's
// client does so by itself, unless it cannot read the body again (a Request without GetBody).
package fliphttp

import (
	"errors"
	"net"
	"net/http"

	shellflip "github.com/libshellflip/libshellflip/bindings/go"
)

// ListenAndServe is all that a server of one address has to do: it listens on server.Addr (":http" if that is empty),
// says Ready, and serves until Exit is closed and the connections have ended: nil. Otherwise it returns what Listen,
// Ready or Serve did.
func ListenAndServe(upg *shellflip.Upgrader, server *http.Server) error {
	address := server.Addr
	if address == "" {
		address = ":http"
	}
	listener, err := upg.Listen("tcp", address)
	if err != nil {
		return err
	}
	served := make(chan error, 1)
	go func() { served <- Serve(upg, server, listener) }()
	if err := upg.Ready(); err != nil {
		_ = server.Close()
		return err
	}
	return <-served
}

// Serve serves on the listener until Exit is closed and the server's connections have ended: nil. Call it once for a
// server; its Handler is wrapped.
//
// Requests that are still being answered at the drain deadline, or 1.5 s after a second stop, are cut, and the error is
// context.DeadlineExceeded then. An error before Exit is what http.Server.Serve returned.
func Serve(upg *shellflip.Upgrader, server *http.Server, listener net.Listener) error {
	return serve(upg, server, func() error { return server.Serve(listener) })
}

// ServeTLS is Serve for HTTPS. The files may be empty where server.TLSConfig has the certificate.
func ServeTLS(upg *shellflip.Upgrader, server *http.Server, listener net.Listener, certFile, keyFile string) error {
	return serve(upg, server, func() error { return server.ServeTLS(listener, certFile, keyFile) })
}

func serve(upg *shellflip.Upgrader, server *http.Server, accept func() error) error {
	server.Handler = Handler(upg, server.Handler)
	served := make(chan error, 1)
	go func() { served <- accept() }()
	select {
	case err := <-served:
		if !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		// The host has shut it down itself, and waits for that itself.
		return nil
	case <-upg.Exit():
	}
	return Shutdown(upg, server)
}

// Handler says with each answer from shutdown on that the connection ends, where the handler does not say something
// else of the connection. nil is http.DefaultServeMux, as in http.Server.
func Handler(upg *shellflip.Upgrader, handler http.Handler) http.Handler {
	if handler == nil {
		handler = http.DefaultServeMux
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-upg.Closing():
			w.Header().Set("Connection", "close")
		default:
		}
		handler.ServeHTTP(w, r)
	})
}

// Shutdown ends servers with http.Server.Shutdown, and closes them at the drain deadline, or when a second stop cuts
// the drain short: then it returns context.DeadlineExceeded. Call it when Exit is closed.
func Shutdown(upg *shellflip.Upgrader, servers ...*http.Server) error {
	ctx := upg.DrainContext()
	ended := make(chan error, len(servers))
	for _, server := range servers {
		go func(server *http.Server) { ended <- server.Shutdown(ctx) }(server)
	}
	var failed error
	for range servers {
		if err := <-ended; err != nil && failed == nil {
			failed = err
		}
	}
	if failed != nil {
		for _, server := range servers {
			_ = server.Close()
		}
	}
	return failed
}
