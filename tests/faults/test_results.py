"""The results file: what is published of it, and where a row goes on."""

import tempfile
from pathlib import Path

from tests.faults.results import FAILED, PASSED, Result, append, next_case, read, without_places

ROOT = Path(__file__).parents[2]


def result(**members):
    given = {
        "row": "r",
        "seed": 1,
        "first": 0,
        "cases": 1,
        "count": 1,
        "events": 0,
        "seconds": 0.0,
        "result": PASSED,
    }
    return Result(**(given | members))


def test_no_place_of_a_machine_is_published(tmp_path):
    """An error may quote a traceback, a command or a file of the case."""
    case = f"{tempfile.gettempdir()}/skillaudit-two-words-a1_b2c3d"
    append(tmp_path / "r.jsonl", result(error=f'File "{ROOT}/tests/x.py", of {case}/data/audit.duckdb'))
    (found,) = read(tmp_path / "r.jsonl")
    assert found.error == 'File "tests/x.py", of CASE/data/audit.duckdb'


def test_the_published_results_name_no_place():
    """Those that are committed."""
    for found in read(ROOT / "docs" / "faults" / "results.jsonl"):
        assert without_places(found.error) == found.error, found.row
        assert tempfile.gettempdir() not in found.error, found.row


def test_a_row_goes_on_behind_its_last_case(tmp_path):
    """A failed case is counted as run and not as passed; other seeds and switched-off variants are others' business."""
    path = tmp_path / "r.jsonl"
    assert next_case(path, "r", 1) == (0, 0)
    append(path, result(cases=3, count=12))
    append(path, result(first=3, result=FAILED))
    append(path, result(off="crc", cases=9, count=9))
    append(path, result(seed=2, cases=9, count=9))
    with path.open("ab") as file:
        file.write(b'{"row": "r", torn')
    assert next_case(path, "r", 1) == (4, 12)
    append(path, result(first=4))
    assert next_case(path, "r", 1) == (5, 13), "a torn line is cut off, the next one is whole"
