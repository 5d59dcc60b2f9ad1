"""Where the library's lines go: the logger "shellflip". A failed upgrade is an error, everything else is info."""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    import logging

#: FAILED events say the same, with their kind.
_SAID_TWICE = "upgrade failed: "


def logger() -> logging.Logger:
    """Made when it is first needed: a successor that has nothing to say starts sooner without logging."""
    import logging

    return logging.getLogger("shellflip")


def line(text: str) -> None:
    """One LOG event."""
    if _told_more_than_warnings() and not text.startswith(_SAID_TWICE):
        logger().info("%s", text)


def debug(text: str, *arguments: object) -> None:
    """What only those want to know who look for a mistake."""
    if _told_more_than_warnings():
        logger().debug(text, *arguments)


def failed(text: str) -> None:
    """One FAILED event."""
    logger().error("upgrade failed: %s", text)


def _told_more_than_warnings() -> bool:
    """Perhaps: where nobody has imported logging, nobody has asked it for more."""
    return "logging" in sys.modules
