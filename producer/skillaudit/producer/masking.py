"""The mask hook: the caller's own function, run inside the Writer before anything is serialized, hashed or appended.

    mask(value, *, field, event_type, skill_id) -> value

`field` is what `value` is: `inputs`, `attributes` (JSON objects, event_type `start`), `payload` (the whole payload of
an event, with its `event_type`), `output`, `error` (text, event_type `finish`). Names and ids (`skill_id`, `caller_id`,
`channel_id`, the model's and tools' names outside of payloads) are not masked: they are what records are found by. The
function returns what is recorded instead; it must not change `value`, which is the caller's own object.

A mask that raises withholds that field, never the event: `{"_withheld": "<exception type>"}`, or
`[withheld: <exception type>]` for text. The exception's text may quote the value and goes nowhere.
"""

from __future__ import annotations

from typing import Any, Final, Protocol

WITHHELD: Final = "_withheld"
TEXT_FIELDS: Final = frozenset({"output", "error"})


class Mask(Protocol):
    """The hook's signature."""

    def __call__(self, value: Any, *, field: str, event_type: str, skill_id: str) -> Any:
        """What is recorded in place of `value`."""
        ...


def apply_mask(mask: Mask | None, value: Any, field: str, event_type: str, skill_id: str) -> Any:
    """`value` as the mask lets it through. Never raises but for what is no `Exception` (KeyboardInterrupt)."""
    if mask is None:
        return value
    try:
        return mask(value, field=field, event_type=event_type, skill_id=skill_id)
    except Exception as exc:  # noqa: BLE001  whatever the hook raises, the field is withheld and the event recorded
        name = type(exc).__name__
        return f"[withheld: {name}]" if field in TEXT_FIELDS else {WITHHELD: name}
