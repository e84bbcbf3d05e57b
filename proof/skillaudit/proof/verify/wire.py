"""A request as it travels to the process that owns the database, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from skillaudit.contract.errors import InvalidRecordError, SettingsError
from skillaudit.proof.policy import parse_policy, policy_members
from skillaudit.proof.verify.logged import control_members, parse_control
from skillaudit.proof.verify.request import Depth, VerifyRequest
from skillaudit.proof.verify.witness import parse_reading, reading_members


def request_members(request: VerifyRequest) -> dict[str, Any]:
    """The request as JSON values."""
    return {
        "run_id": request.run_id,
        "since_us": request.since_us,
        "until_us": request.until_us,
        "depth": request.depth.value,
        "sample": request.sample,
        "seed": request.seed,
        "sealed_from": request.sealed_from,
        "content_from": request.content_from,
        "database": request.database,
        "unsettled": list(request.unsettled),
        "against_kafka": request.against_kafka,
        "policy": policy_members(request.policy),
        "anchors": [reading_members(reading) for reading in request.anchors],
        "control": control_members(request.control),
    }


def parse_request(members: Mapping[str, Any]) -> VerifyRequest:
    """The inverse; `InvalidRecordError` for anything else."""
    try:
        return VerifyRequest(
            run_id=None if members["run_id"] is None else str(members["run_id"]),
            since_us=_optional(members["since_us"]),
            until_us=_optional(members["until_us"]),
            depth=Depth(members["depth"]),
            sample=int(members["sample"]),
            seed=int(members["seed"]),
            sealed_from=int(members["sealed_from"]),
            content_from=int(members["content_from"]),
            database=_text(members.get("database")),
            unsettled=tuple(map(int, members.get("unsettled", ()))),
            against_kafka=bool(members.get("against_kafka", False)),
            policy=parse_policy(dict(members["policy"]), "the request's policy"),
            anchors=tuple(parse_reading(dict(reading)) for reading in members["anchors"]),
            control=parse_control(members.get("control")),
        )
    except (KeyError, TypeError, ValueError, SettingsError) as exc:
        raise InvalidRecordError(
            f"this is no request to verify ({type(exc).__name__}: {exc}); are both of one release?"
        ) from exc


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _optional(value: Any) -> int | None:
    return None if value is None else int(value)
