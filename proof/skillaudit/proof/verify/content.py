"""One run's stored content against its records of Kafka, byte for byte, portion by portion."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from skillaudit.contract.wire import RunFinished, RunLog, RunStarted
from skillaudit.proof.findings import Finding, Kind
from skillaudit.proof.verify.copying import CopiedPortion, CopiedRecord, fields_of
from skillaudit.proof.verify.engine import Engine

DIFFERS_MAX: Final = 10_000
"""Records of which it is remembered in what they differ from what is stored."""
_START: Final = {
    "started_us": "at_us",
    "parent_run_id": "parent_run_id",
    "skill_id": "skill_id",
    "source_id": "source_id",
    "source_seq": "source_seq",
}
_FINISH: Final = {
    "finished_us": "at_us",
    "status": "status",
    "tool_calls_count": "tool_calls",
    "runtime_us": "runtime_us",
    "total_input_tokens": "input_tokens",
    "total_output_tokens": "output_tokens",
    "total_thinking_tokens": "thinking_tokens",
}
"""Columns of the run and the members of the record that they hold."""


class RunContent:
    """Compares what comes with what is stored then. Of a record whose tag is the stored one every byte has to be."""

    def __init__(self, engine: Engine, topic: str, run_id: str, partition: str) -> None:
        self._engine = engine
        self._run_id = run_id
        self._partition = partition
        self._keys = [row[0] for row in engine.rows("against.sql", "keys_of_run", run_id=run_id, topic=topic)]
        self.differs: dict[tuple[int, int], str] = {}
        """Number and a record's tag -> in what it differs from what is stored under another tag."""

    def compare(self, copied: CopiedPortion) -> Iterator[Finding]:
        """The records of a portion; nothing where the run is not stored."""
        pairs = [
            (record, event)
            for record, event in zip(copied.records, copied.events, strict=True)
            if isinstance(event, RunStarted | RunLog | RunFinished)
            and not event.is_bare
            and record.tag == record.digest
        ]
        for run_key in self._keys if pairs else ():
            logs = [(record, event) for record, event in pairs if isinstance(event, RunLog)]
            yield from self._logs(run_key, logs)
            ends = [(record, event) for record, event in pairs if not isinstance(event, RunLog)]
            if ends:
                yield from self._ends(run_key, ends)

    def _logs(self, run_key: int, logs: list[tuple[CopiedRecord, RunLog]]) -> Iterator[Finding]:
        seqs = sorted({event.seq for _, event in logs})
        rows = self._engine.rows("against.sql", "content_of_numbers", run_key=run_key, seqs=seqs)
        stored = {row[0]: row for row in rows}
        for record, event in logs:
            row = stored.get(event.seq)
            if row is None:
                continue
            _, tag, event_type, at_us, payload, redacted = row
            names = [
                name
                for name, same in (
                    ("type", event_type == event.event_type),
                    ("time", at_us == event.at_us),
                    ("payload", redacted or payload.encode() == event.payload_json),
                )
                if not same
            ]
            yield from self._told(record, names, same_tag=tag == record.tag)

    def _ends(
        self, run_key: int, ends: list[tuple[CopiedRecord, RunStarted | RunFinished]]
    ) -> Iterator[Finding]:
        redacted = set(self._engine.rows("against.sql", "redacted_of_run", run_key=run_key))
        for row in self._engine.records("one.sql", "run_of_key", run_key=run_key):
            for record, event in ends:
                start = isinstance(event, RunStarted)
                seq, tag = (0, row["start_tag"]) if start else (row["finish_seq"], row["finish_tag"])
                if seq != event.seq:
                    continue
                columns: Mapping[str, Any] = {
                    name: getattr(event, member) for name, member in (_START if start else _FINISH).items()
                }
                names = [name for name, value in columns.items() if row[name] != value]
                names += [
                    name
                    for name, value in fields_of(event).items()
                    if (seq, name) not in redacted and str(row[name]).encode() != value
                ]
                yield from self._told(record, names, same_tag=tag == record.tag)

    def _told(self, record: CopiedRecord, names: list[str], *, same_tag: bool) -> Iterator[Finding]:
        if not names:
            return
        differs = ", ".join(name.replace("_us", "_at") if name.endswith("ed_us") else name for name in names)
        if same_tag:
            says = f"it has the tag of Kafka's record {self._partition}@{record.offset}, and differs from it in {differs}"
            yield Finding(Kind.EVENT_ALTERED, says, {"run_id": self._run_id, "sequence": record.seq})
        elif len(self.differs) < DIFFERS_MAX:
            self.differs[record.seq, record.tag] = differs
