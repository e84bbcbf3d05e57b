"""The named statements: every one is valid on the consumer's real schema."""

import duckdb
import pytest

from skillaudit.query.statements import sql, statements


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
