"""The JSON Schema of the event format, made from the models that the strict parser checks with.

`python -m skillaudit.contract.wire_schema` prints it; with `--write` it replaces the published file, which is part of
the package. A test says when the file is stale. What no schema can say stands in `RULES` and in the schema's
description: a record that passes the schema may still break those.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Final, TypeAlias

from pydantic import TypeAdapter

from skillaudit.contract import events, wire_models
from skillaudit.contract.wire_fast import JSON_DEPTH_MAX

SCHEMA_FILE: Final = Path(__file__).parent / "schema" / f"event-v{events.FORMAT_VERSION}.schema.json"

RULES: Final = (
    "valid UTF-8 without a byte order mark, one JSON object (RFC 8259, no extensions)",
    "no member twice, neither of the record nor of an entry of `open`",
    "integers written as integers: 1.0 and 1e3 are none",
    f"nested at most {JSON_DEPTH_MAX} levels deep, the record's own object counted",
    f"a run_id of at most {events.RUN_ID_BYTES_MAX} bytes of UTF-8",
    "either `tag` (a Writer's record) or `by` and `call_id` (a bare Storage's) in a run's record, never both",
    "`events` of a finish equal to its `seq` + 1",
    "`lost` of a log or finish ascending ranges of event numbers from 1 on, none overlapping",
)

_Record: TypeAlias = (
    wire_models.StartedRecord
    | wire_models.BareStartedRecord
    | wire_models.LogRecord
    | wire_models.BareLogRecord
    | wire_models.FinishedRecord
    | wire_models.BareFinishedRecord
    | wire_models.RefusedRecord
    | wire_models.SourceOpenedRecord
    | wire_models.HeartbeatRecord
    | wire_models.SourceClosedRecord
)


def json_schema() -> dict[str, Any]:
    """The schema of one record, draft 2020-12."""
    schema = TypeAdapter[_Record](_Record).json_schema()
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:skillaudit:event:{events.FORMAT_VERSION}",
        "title": f"skillaudit event, format version {events.FORMAT_VERSION}",
        "description": "One record of the events' log. Beside this schema: " + "; ".join(RULES) + ".",
        **schema,
    }


def schema_text() -> str:
    """The published file's text."""
    return json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n"


def main(arguments: list[str]) -> None:
    """Print the schema, or write the published file."""
    if arguments == ["--write"]:
        SCHEMA_FILE.parent.mkdir(exist_ok=True)
        SCHEMA_FILE.write_text(schema_text(), encoding="utf-8")
    else:
        sys.stdout.write(schema_text())


if __name__ == "__main__":
    main(sys.argv[1:])
