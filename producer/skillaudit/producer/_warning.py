"""A line in the log of the agent's process."""

from __future__ import annotations

from typing import Any


def warn(text: str, *arguments: Any) -> None:
    """Say it, as `logging` would."""
    import logging  # here, because it takes milliseconds to load and is hardly ever needed

    logging.getLogger("skillaudit.producer").warning(text, *arguments)
