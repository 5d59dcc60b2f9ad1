"""socketserver and http.server: a thread for each connection. serve_forever runs beside the main thread, which waits
for shutdown, so that signals and hooks are handled there.
"""

import http.server
import json
import os
import socketserver
import sys
import threading
import time

from shellflip import Flip, Listener, Shutdown


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 5  # an idle keep-alive connection holds its thread, and a drain, for no longer than this

    def do_GET(self) -> None:
        if self.path == "/slow":
            time.sleep(1.5)
        body = json.dumps({"pid": os.getpid()}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        if flip.stopping:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


class Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    daemon_threads = True  # Flip.drain waits for their connections, with a limit

    def __init__(self, listener: Listener) -> None:
        super().__init__(("", 0), Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listener


if __name__ == "__main__":
    with Flip() as flip:
        server = Server(flip.listen(sys.argv[1]))
        flip.ready()
        accepting = threading.Thread(target=server.serve_forever, args=(0.05,))
        accepting.start()
        while flip.wait() is Shutdown.DETACH:
            pass  # left alone by its operator, it serves on
        server.shutdown()
        accepting.join()
        server.server_close()
        flip.drain()
