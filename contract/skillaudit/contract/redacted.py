"""What stands in the place of content that an act took out: written by the consumer, expected by the proof."""

from __future__ import annotations

from typing import Final

import orjson

REDACTED_TEXT: Final = "[redacted]"
"""Of a plain text."""
JSON_FIELDS: Final = frozenset({"inputs", "attributes"})
"""Fields of a start that hold JSON, as payloads do; the others are plain texts."""


def redacted_json(act_id: str) -> str:
    """Of JSON: an object that names the act."""
    return orjson.dumps({"_redacted": {"act": act_id}}).decode()
