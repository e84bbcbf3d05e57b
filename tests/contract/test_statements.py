"""Named statements: how files of SQL are read."""

import pytest

from skillaudit.contract.statements import parse_statements


def test_a_file_is_sections_with_fragments_put_in():
    """Comments before the first section belong to nobody; those inside travel with their statement."""
    text = "-- about\n-- fragment: c\na, b\n-- name: one\n-- why\nSELECT {c} FROM t\n-- name: two\nSELECT 2\n"
    assert parse_statements(text) == {"one": "-- why\nSELECT a, b FROM t", "two": "SELECT 2"}


def test_an_unknown_fragment_is_an_error():
    """Not text that reaches the database."""
    with pytest.raises(KeyError, match="c"):
        parse_statements("-- name: one\nSELECT {c} FROM t\n")


def test_a_name_is_given_once():
    """Else the later one would win silently."""
    with pytest.raises(ValueError, match="twice"):
        parse_statements("-- name: one\nSELECT 1\n-- name: one\nSELECT 2\n")


def test_a_fragment_may_include_others():
    """One text for what two statements share, at any depth."""
    text = "-- fragment: a\n{b} + 1\n-- fragment: b\nx\n-- name: one\nSELECT {a}\n"
    assert parse_statements(text) == {"one": "SELECT x + 1"}


def test_a_slot_stays_open():
    """What is named as one is filled in by who uses the statement; nothing else is."""
    assert parse_statements("-- name: one\nDELETE FROM {table}\n", {"table"}) == {
        "one": "DELETE FROM {table}"
    }


def test_a_fragment_is_named_once():
    """As a statement is."""
    with pytest.raises(ValueError, match="twice"):
        parse_statements("-- fragment: one\n1\n-- name: one\nSELECT 1\n")
