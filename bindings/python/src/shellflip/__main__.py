"""`python -m shellflip [--bind ADDRESS …] module:app`: an unchanged ASGI or WSGI app that can be replaced while it
runs.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import importlib
import inspect
import logging
import sys
from typing import Any

from . import Flip, FlipError, Listener, __version__
from .asgi import IDLE_GRACE
from .config import milliseconds


def seconds(text: str) -> float:
    """A time on the command line."""
    value = float(text)
    try:
        milliseconds(value)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return value


def positive(text: str) -> int:
    """A number on the command line."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"a number that is 1 or more, not {value}")
    return value


def options() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m shellflip",
        description="Run an ASGI or WSGI app. SIGUSR1 replaces the process without refusing or breaking a "
        "connection, SIGTERM and SIGINT stop it.",
    )
    add = parser.add_argument
    add("app", metavar="module:app", help="where the app is; dots after the colon too")
    addresses = "tcp://127.0.0.1:8000 (the default), tcp://:8000, unix:///run/a.sock?mode=0660; may be repeated"
    add("--bind", "-b", action="append", metavar="ADDRESS", help=addresses)
    add("--interface", choices=["auto", "asgi", "wsgi"], default="auto", help="what the app speaks")
    add("--factory", action="store_true", help="it is a function that returns the app")
    add("--threads", type=positive, default=4, metavar="N", help="for WSGI apps; 4")
    add("--upgrade-timeout", type=seconds, metavar="SECONDS", help="until a new process is ready; 60")
    add("--drain-timeout", type=seconds, metavar="SECONDS", help="for open connections; 30")
    add("--control-socket", metavar="ADDRESS", help="where operators ask, unix:///run/a.ctl?mode=0660; none")
    add("--pid-file", metavar="PATH", help="with the pid of the process that serves; none")
    grace = f"for the next request of an idle keep-alive connection, once this process is to finish; {IDLE_GRACE:g}"
    add("--idle-grace", type=seconds, default=IDLE_GRACE, metavar="SECONDS", help=grace)
    add("--log-level", default="info", choices=["debug", "info", "warning", "error"])
    add("--version", action="version", version=f"shellflip {__version__}")
    return parser


def load(where: str, *, factory: bool) -> Any:
    """The app; SystemExit with a sentence where there is none. What its module raises is raised."""
    module_name, colon, path = where.partition(":")
    if not colon or not module_name or not path:
        raise SystemExit(f"shellflip: {where} is not of the form module:app")
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise  # another one, that the module itself imports
        raise SystemExit(f"shellflip: there is no module {module_name} (in {sys.path[0] or '.'})") from error
    for name in path.split("."):
        if not hasattr(found, name):
            raise SystemExit(f"shellflip: module {module_name} has no {path}")
        found = getattr(found, name)
    return found() if factory else found


def speaks(app: Any) -> str:
    """asgi or wsgi, by how the app is to be called."""
    call = app if inspect.isfunction(app) or inspect.ismethod(app) or inspect.isclass(app) else type(app).__call__
    if inspect.iscoroutinefunction(call):
        return "asgi"
    try:
        needed = [
            parameter
            for parameter in inspect.signature(app).parameters.values()
            if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
            and parameter.default is parameter.empty
        ]
    except (TypeError, ValueError):
        return "wsgi"
    return "asgi" if len(needed) == 3 else "wsgi"


def run_asgi(app: Any, flip: Flip, listeners: list[Listener], chosen: argparse.Namespace) -> None:
    """On uvicorn."""
    try:
        import uvicorn

        from .uvicorn import serve
    except ModuleNotFoundError as error:
        raise SystemExit(f"shellflip: an ASGI app needs uvicorn: pip install shellflip[uvicorn] ({error})") from error
    config = uvicorn.Config(app, log_level=chosen.log_level, log_config=None, workers=1)
    serve(config, flip, listeners, idle_grace=chosen.idle_grace)


def run_wsgi(app: Any, flip: Flip, listeners: list[Listener], chosen: argparse.Namespace) -> None:
    """On waitress."""
    try:
        from .waitress import serve
    except ModuleNotFoundError as error:
        raise SystemExit(
            f"shellflip: a WSGI app needs waitress: pip install shellflip[waitress] ({error})"
        ) from error
    serve(app, flip, listeners, idle_grace=chosen.idle_grace, threads=chosen.threads)


def main() -> int:
    """The command."""
    chosen = options().parse_args()
    logging.basicConfig(level=chosen.log_level.upper(), format="%(levelname)s %(name)s[%(process)d]: %(message)s")
    settings: dict[str, Any] = {
        name: getattr(chosen, name) for name in ("upgrade_timeout", "drain_timeout", "control_socket", "pid_file")
    }
    with contextlib.ExitStack() as stack:
        try:
            flip = stack.enter_context(Flip(**settings))
            listeners = [flip.listen(address) for address in chosen.bind or ["tcp://127.0.0.1:8000"]]
        except (FlipError, OSError) as error:
            # EINVAL is about what was said on the command line.
            return failed(error, 2 if error.errno == errno.EINVAL else 1)
        try:
            app = load(chosen.app, factory=chosen.factory)
            interface = speaks(app) if chosen.interface == "auto" else chosen.interface
            (run_asgi if interface == "asgi" else run_wsgi)(app, flip, listeners, chosen)
        except (FlipError, OSError) as error:
            return failed(error, 1)
    return 0


def failed(error: Exception, status: int) -> int:
    """Says why, and returns the exit status."""
    print(f"shellflip: {error}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
