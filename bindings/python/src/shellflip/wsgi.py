"""WSGI servers: from shutdown on each answer announces the end of its connection, so that the client's next request
goes to the successor. For servers that let an app say so (waitress, http.server); gunicorn says it itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .flip import Flip

Environ = dict[str, Any]
StartResponse = Callable[..., Any]
App = Callable[[Environ, StartResponse], Iterable[bytes]]


class Adapter:
    """A WSGI app around an app."""

    def __init__(self, app: App, flip: Flip) -> None:
        self._app = app
        self._flip = flip

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """One request."""

        def announcing(status: str, headers: list[tuple[str, str]], *rest: Any) -> Any:
            if self._flip.stopping:
                headers = [(name, value) for name, value in headers if name.lower() != "connection"]
                headers.append(("Connection", "close"))
            return start_response(status, headers, *rest)

        return self._app(environ, announcing)
