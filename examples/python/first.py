import os

from shellflip import Flip

with Flip() as flip:
    listener = flip.listen("tcp://127.0.0.1:8080")
    flip.ready()
    while client := flip.accept(listener):
        with client:
            client.sendall(b"hello from pid %d\n" % os.getpid())
    listener.close()  # what is still queued on it belongs to the successor
    flip.drain()
