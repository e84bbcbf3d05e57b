"""The published JSON Schema says what the strict parser accepts."""

import json

import orjson
import pytest
from jsonschema import Draft202012Validator
from tests.contract.records import RECORDS

from skillaudit.contract import wire_schema
from skillaudit.contract.errors import InvalidRecordError
from skillaudit.contract.wire import parse_record

SCHEMA = json.loads(wire_schema.SCHEMA_FILE.read_text(encoding="utf-8"))
VALIDATOR = Draft202012Validator(SCHEMA)


def test_the_published_file_is_current():
    """`python -m skillaudit.contract.wire_schema --write` makes it."""
    assert wire_schema.json_schema() == SCHEMA


def test_it_is_a_schema():
    """Of the draft that it names."""
    Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("name", RECORDS)
def test_what_the_encoders_make_is_valid(name):
    """Of every type and form."""
    VALIDATOR.validate(orjson.loads(RECORDS[name]))


@pytest.mark.parametrize("name", RECORDS)
def test_what_the_schema_refuses_the_parser_refuses_too(name):
    """A member missing or of another type."""
    record = orjson.loads(RECORDS[name])
    for field in record:
        for bad in (None, 1.5, -1, "?", [7]):
            other = record | {field: bad}
            if not VALIDATOR.is_valid(other):
                with pytest.raises(InvalidRecordError):
                    parse_record(orjson.dumps(other))


@pytest.mark.parametrize("arguments", [[]])
def test_it_can_be_printed(arguments, capsys):
    """Nothing but the schema on stdout."""
    wire_schema.main(arguments)
    assert json.loads(capsys.readouterr().out) == SCHEMA
