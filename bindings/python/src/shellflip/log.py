"""Where the library's lines go: the logger "shellflip". A failed upgrade is an error, everything else is info."""

from __future__ import annotations

import logging

logger = logging.getLogger("shellflip")

#: FAILED events say the same, with their kind.
_SAID_TWICE = "upgrade failed: "


def line(text: str) -> None:
    """One LOG event."""
    if not text.startswith(_SAID_TWICE):
        logger.info("%s", text)


def failed(text: str) -> None:
    """One FAILED event."""
    logger.error("upgrade failed: %s", text)
