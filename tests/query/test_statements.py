"""The named statements: how files are read, and that every one is valid on the consumer's real schema."""

import duckdb
import pytest

from skillaudit.query.statements import parse, sql, statements


def test_a_file_is_sections_with_fragments_put_in():
    """Comments before the first section belong to nobody; those inside travel with their statement."""
    text = "-- about\n-- fragment: c\na, b\n-- name: one\n-- why\nSELECT {c} FROM t\n-- name: two\nSELECT 2\n"
    assert parse(text) == {"one": "-- why\nSELECT a, b FROM t", "two": "SELECT 2"}


def test_an_unknown_fragment_is_an_error():
    """Not text that reaches the database."""
    with pytest.raises(KeyError, match="c"):
        parse("-- name: one\nSELECT {c} FROM t\n")


def test_a_name_is_given_once():
    """Else the later one would win silently."""
    with pytest.raises(ValueError, match="twice"):
        parse("-- name: one\nSELECT 1\n-- name: one\nSELECT 2\n")


@pytest.mark.parametrize("name", sorted(statements()))
def test_every_statement_is_valid_on_the_real_schema(name, database):
    """The views have the columns that are read, and parameters have types that can be told without a value."""
    cursor = database.cursor()
    try:
        [prepared] = cursor.extract_statements("EXPLAIN " + sql(name))
        cursor.execute(prepared, dict.fromkeys(prepared.named_parameters))
    finally:
        cursor.close()


def test_no_statement_writes(database):
    """The read side reads; each is one statement."""
    kinds = {name: [it.type for it in duckdb.extract_statements(text)] for name, text in statements().items()}
    assert kinds == {name: [duckdb.StatementType.SELECT] for name in statements()}


@pytest.mark.parametrize("chars", ["aé", "zß", "Z~", "￿\U0001f600"])
def test_the_engine_orders_text_by_code_point(database, chars):
    """What ties are broken by: the same order as Python's, astral characters included."""
    cursor = database.cursor()
    try:
        assert cursor.execute("SELECT ? < ?", list(chars)).fetchone() == (chars[0] < chars[1],)
    finally:
        cursor.close()
