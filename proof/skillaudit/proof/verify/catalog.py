"""What the database calls by which name: views that are those of a release, over plain tables, and no function that takes
the place of one of the engine's.

All other checks ask views, by the engine's functions. Whoever writes the file could make a view that answers a check and a
reader differently, or a macro `sha256`: then no row is altered, and nothing that is told is true.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from functools import cache, lru_cache
from typing import Final

import duckdb

from skillaudit.contract.engine import engine_errors
from skillaudit.contract.errors import DatabaseError
from skillaudit.contract.views import SCHEMA, views_text
from skillaudit.proof.findings import Finding, Kind
from skillaudit.proof.verify.engine import Engine

FILE: Final = "schema.sql"
_MADE: Final = re.compile(r"\ACREATE (?:OR REPLACE )?VIEW (?:main\.)?\"?(\w+)\"? AS\s", re.MULTILINE)
_COMMENTS: Final = re.compile(r"\A(?:\s*--[^\n]*\n)*\s*")
_GENERATED: Final = "GENERATED ALWAYS"
NORMALS_REMEMBERED: Final = 4
"""Sets of definitions: those of this release, and of the databases checked last."""


class EarlierSchemaError(DatabaseError):
    """The database's schema is an earlier release's."""


def check_catalog(engine: Engine) -> Iterator[Finding]:
    """In the engine's snapshot, before anything else is asked. `EarlierSchemaError`, `DatabaseError`."""
    said = engine.rows(FILE, "version")
    if not said or said[0][0] is None:
        raise DatabaseError("the database does not say of which schema it is")
    version = said[0][0]
    if version < SCHEMA:
        raise EarlierSchemaError(f"its schema is {version}")
    yield from _functions(engine)
    if version > SCHEMA:
        says = f"could not check the views: the database has schema {version}, this release knows {SCHEMA}; upgrade skillaudit"
        yield Finding(Kind.NOT_CHECKED, says)
        return
    yield from _views(engine)
    for schema, name, text in engine.rows(FILE, "tables"):
        if schema == "store" and _GENERATED in text:
            says = f"the table store.{name} has a column that is computed when it is read"
            yield Finding(Kind.SCHEMA_ALTERED, says)


def _functions(engine: Engine) -> Iterator[Finding]:
    """Functions by names of their own are an analyst's, and harmless."""
    defined = {row[0].lower() for row in engine.rows(FILE, "functions")}
    taken = {row[0] for row in engine.rows(FILE, "own_functions")} if defined else set[str]()
    for name in sorted(defined & taken):
        says = f"the function {name} is defined in the database, and takes the place of the engine's"
        yield Finding(Kind.SCHEMA_ALTERED, says)


def _views(engine: Engine) -> Iterator[Finding]:
    found = engine.rows(FILE, "definitions")
    ours = {name: _body(text) for schema, name, text in found if schema == "main"}
    expected = _expected()
    known = [name for name in expected if name in ours]
    written = dict(zip(known, _as_written(tuple(ours[name] for name in known)), strict=True))
    for name in expected:
        if name not in ours:
            yield Finding(Kind.SCHEMA_ALTERED, f"the view main.{name} is gone")
        elif written[name] != expected[name]:
            yield Finding(Kind.SCHEMA_ALTERED, f"the view main.{name} is not the one that a release makes")
    for name in sorted(name for schema, name, _ in found if schema == "store"):
        yield Finding(Kind.SCHEMA_ALTERED, f"store.{name} is a view, where a release makes a table")


def _body(text: str) -> str:
    """What a view selects; nothing where this is not how one is made."""
    found = _MADE.match(text)
    return "" if found is None else text[found.end() :].strip().rstrip(";")


@cache
def _expected() -> Mapping[str, str]:
    """Name -> what each view selects."""
    texts = [_COMMENTS.sub("", one.query) for one in duckdb.extract_statements(views_text())]
    names = [found[1] for text in texts if (found := _MADE.match(text))]
    return dict(zip(names, _as_written(tuple(map(_body, texts))), strict=True))


@lru_cache(maxsize=NORMALS_REMEMBERED)
def _as_written(queries: tuple[str, ...]) -> list[str]:
    """Queries as the engine writes them, whoever wrote them: parsed and written by an engine of our own, in which no function
    has another meaning.
    """
    with engine_errors("compare views"), contextlib.closing(duckdb.connect(":memory:")) as own:
        statement = (
            "SELECT json_deserialize_sql(json_serialize_sql(query)) FROM (SELECT unnest($queries) AS query)"
        )
        rows = own.execute(statement, {"queries": list(queries)}).fetchall()
    return [str(row[0]) for row in rows]
