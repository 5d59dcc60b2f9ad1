"""One generation after the other, each a server without clients; argv[1] is how many are to follow. Each prints how
many microseconds passed from its predecessor's request until it was live."""

import os
import sys
import time

from shellflip import Flip

BEGAN = "BENCH_BEGAN"

with Flip() as flip:
    flip.listen("tcp://127.0.0.1:0?name=bench")
    flip.ready()
    live = time.monotonic_ns()
    if flip.generation > 0:
        print((live - int(os.environ[BEGAN])) // 1000, flush=True)
        flip.wait_predecessor()
    if flip.generation < int(sys.argv[1]):
        flip.set_env(BEGAN, str(time.monotonic_ns()))
        flip.upgrade()
