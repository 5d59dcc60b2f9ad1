"""waitress: any WSGI app. `shellflip.waitress.serve` runs its loop, in which Flip's events are handled too.

`python -m shellflip waitress_app:app` does the same without this file's last lines.
"""

import json
import os
import sys
import time
from collections.abc import Iterable

from shellflip import Flip
from shellflip.waitress import Environ, StartResponse, serve


def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    if environ["PATH_INFO"] == "/slow":
        time.sleep(1.5)
    body = json.dumps({"pid": os.getpid()}).encode()
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]


if __name__ == "__main__":
    with Flip() as flip:
        serve(app, flip, [flip.listen(sys.argv[1])], threads=8)
