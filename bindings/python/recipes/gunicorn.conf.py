"""gunicorn: `gunicorn -c gunicorn.conf.py waitress_app:app`, with ADDRESS in the environment.

gunicorn's master is the process that is replaced. It forks its workers after it was let serve. SIGUSR2, gunicorn's
own signal for this, upgrades, and so does SIGHUP: a reload would run this file again in a process that has a Flip
already, and an upgrade reads configuration and app anew, too. gthread answers with `Connection: close` once it is
told to stop, and keeps idle connections for two more seconds. Its workers finish what they have after a SIGTERM,
their master's or systemd's; Ctrl-C is gunicorn's quick end, which does not wait for them.
"""

import os
import signal
from typing import Any

from shellflip import Flip, Request, Shutdown

flip = Flip(signals=False)
listener = flip.listen(os.environ["ADDRESS"])
worker_class = "gthread"
workers = 2
threads = 4
preload_app = True  # an app that cannot be imported fails the upgrade, and the old master serves on
control_socket_disable = True
loglevel = "warning"


def on_starting(server: Any) -> None:
    server.LISTENERS = [listener]
    server.systemd = True  # or gunicorn would remove a unix path at its end, which the successor serves on


def end(why: Shutdown) -> None:
    if why is not Shutdown.DETACH:  # after which it serves on
        os.kill(os.getpid(), signal.SIGTERM)


def when_ready(server: Any) -> None:
    # gunicorn has installed its own handlers by now, and does so once. Not after `ready`: on what came until then
    # gunicorn would act itself.
    for number in (signal.SIGUSR2, signal.SIGHUP):
        signal.signal(number, lambda *_: flip.request(Request.UPGRADE))
    flip.ready()
    flip.watch(end)


def on_exit(server: Any) -> None:
    flip.close()
