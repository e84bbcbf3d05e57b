"""Consumers that do without one of their mechanisms, each by a part of another kind in its place."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import orjson

from skillaudit.consumer.books import Book
from skillaudit.consumer.database import Database
from skillaudit.consumer.materializer import ApplyReport, Materializer
from skillaudit.consumer.remembered import Remembered
from skillaudit.consumer.service import ConsumerService
from skillaudit.contract import ranges
from skillaudit.contract.sources import SourceRecord


class NumbersForgotten(Remembered):
    """Knows runs, and no number of theirs: what is delivered twice looks new."""

    def recall(self, cursor: Any, topic: str, run_ids: Iterable[str]) -> dict[str, Book]:
        books = super().recall(cursor, topic, run_ids)
        for book in books.values():
            book.received, book.finished = ranges.EMPTY, False
        return books


class _Replaced(ConsumerService):
    remembered: type[Remembered]

    def make_materializer(self, database: Database) -> Materializer:
        made = super().make_materializer(database)
        made.__class__ = type("Replaced", (Materializer,), {"forget": lambda it: _put(it, self.remembered)})
        made.forget()
        return made


def _put(materializer: Materializer, kind: type[Remembered]) -> None:
    materializer.remembered = kind(materializer._cursor, materializer.remembered.known)


class WithoutDuplicateDetection(_Replaced):
    """What was received is not remembered."""

    remembered = NumbersForgotten


class _HighWaterMark(Materializer):
    """Takes what is not above the highest number of its run for delivered before, whatever its tag."""

    marks: dict[str, tuple[int, bytes]]
    """Run -> its highest number, and a record of it that is stored."""

    def apply(self, records: Sequence[SourceRecord], ends: Mapping[str, int] | None = None) -> ApplyReport:
        taken: list[SourceRecord] = []
        for record in records:
            value = record.value or b"{}"
            members = orjson.loads(value)
            number = members.get("seq", -1)
            mark, stored = self.marks.get(members.get("run_id", ""), (-1, value))
            if 0 <= number <= mark:
                taken.append(record._replace(value=stored))
                continue
            if number >= 0:
                self.marks[members["run_id"]] = (number, value)
            taken.append(record)
        return super().apply(taken, ends)


class WithHighWaterMark(ConsumerService):
    """What was received is remembered as one number a run; whatever comes below it counts as delivered before."""

    def make_materializer(self, database: Database) -> Materializer:
        made = super().make_materializer(database)
        made.__class__ = _HighWaterMark
        made.marks = {}
        return made
