"""A run before it has a number: its texts checked, its objects masked and encoded."""

from __future__ import annotations

from typing import Final

from skillaudit.contract.clock import to_us
from skillaudit.contract.errors import InvalidRecordError
from skillaudit.contract.events import RUN_ID_BYTES_MAX
from skillaudit.contract.records import SkillRun
from skillaudit.producer._numbering import Draft
from skillaudit.producer.encoding import encode_object, encode_text, is_encodable
from skillaudit.producer.masking import Mask, apply_mask

AT_US_MAX: Final = 253_402_300_799_999_999
"""The last microsecond of the year 9999."""


def draft_run(run: SkillRun, salt: str, mask: Mask | None, *, strict: bool) -> Draft:
    """The draft of a run; raises `InvalidRecordError` naming the field."""
    started_us = _started_us(run)
    skill_id = encode_text(run.skill_id, strict=strict, field="skill_id")

    def as_object(field: str, value: object) -> bytes:
        masked = apply_mask(mask, value, field, "start", skill_id)
        return encode_object(masked, strict=strict, field=field)

    return Draft(
        run=SkillRun(
            id=_checked_id(run.id),
            skill_id=skill_id,
            caller_id=encode_text(run.caller_id, strict=strict, field="caller_id"),
            channel_id=encode_text(run.channel_id, strict=strict, field="channel_id"),
            parent_run_id=encode_text(run.parent_run_id, strict=strict, field="parent_run_id"),
            started_at=run.started_at,
        ),
        started_us=started_us,
        inputs=as_object("inputs", run.inputs),
        attributes=as_object("attributes", run.attributes),
        salt=salt,
    )


def _checked_id(run_id: object) -> str:
    if isinstance(run_id, str) and is_encodable(run_id) and 0 < len(run_id.encode()) <= RUN_ID_BYTES_MAX:
        return str.__str__(run_id)
    raise InvalidRecordError(
        f"id: a run id is text of 1 to {RUN_ID_BYTES_MAX} bytes of UTF-8; leave it out to have one made"
    )


def _started_us(run: SkillRun) -> int:
    try:
        started_us = to_us(run.started_at)
    except TypeError as exc:
        raise InvalidRecordError("started_at is a timezone-aware datetime; use datetime.now(UTC)") from exc
    if not 0 <= started_us <= AT_US_MAX:
        raise InvalidRecordError("started_at lies between the years 1970 and 9999")
    return started_us
