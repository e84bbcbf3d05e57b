"""The results file: what is published of it, and where a row goes on."""

import tempfile
from pathlib import Path

import pytest
from tests.faults.results import (
    FAILED,
    JUDGE,
    PASSED,
    Progress,
    Result,
    append,
    counted,
    progress,
    read,
    without_places,
)
from tests.faults.rows import Row
from tests.faults.running import Resources, RowFailedError, run_row

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
    cut_off = str(ROOT).lstrip("/")
    told = f'File "{ROOT}/tests/x.py", of {case}/data/audit.duckdb; {cut_off}/producer/y.py'
    append(tmp_path / "r.jsonl", result(error=told))
    (found,) = read(tmp_path / "r.jsonl")
    assert found.error == 'File "tests/x.py", of CASE/data/audit.duckdb; producer/y.py'


def test_the_published_results_name_no_place():
    """Those that are committed."""
    for found in read(ROOT / "docs" / "faults" / "results.jsonl"):
        assert without_places(found.error) == found.error, found.row
        assert tempfile.gettempdir() not in found.error, found.row


def test_a_row_goes_on_behind_its_last_case(tmp_path):
    """A failed case is counted as run and not as passed; other seeds and switched-off variants are others' business."""
    path = tmp_path / "r.jsonl"
    assert progress(path, "r", 1) == Progress((), 0, 0)
    append(path, result(cases=3, count=12))
    append(path, result(first=3, result=FAILED))
    append(path, result(off="crc", cases=9, count=9))
    append(path, result(seed=2, cases=9, count=9))
    with path.open("ab") as file:
        file.write(b'{"row": "r", torn')
    assert progress(path, "r", 1) == Progress((3,), 4, 12)
    append(path, result(first=4))
    assert progress(path, "r", 1) == Progress((3,), 5, 13), "a torn line is cut off, the next one is whole"
    append(path, result(first=3))
    assert progress(path, "r", 1) == Progress((), 5, 14), "what failed has passed"
    append(path, result(first=3, result=FAILED))
    assert progress(path, "r", 1).failed == (3,), "the last result counts"


def test_a_case_counts_once_however_often_it_was_run(tmp_path):
    """By the newest line that holds it; where stretches overlap only in part, the older one counts with its other cases."""
    path = tmp_path / "r.jsonl"
    append(path, result(cases=4, count=40))
    append(path, result(cases=4, count=40))
    assert progress(path, "r", 1) == Progress((), 4, 40), "the same stretch again adds nothing"
    append(path, result(first=2, cases=4, count=12))
    assert progress(path, "r", 1) == Progress((), 6, 20 + 12), (
        "two cases of the older line, all four of the newer"
    )
    append(path, result(first=3, cases=1, count=5))
    lines = counted(read(path))
    assert [(line.result.first, line.result.cases, line.cases) for line in lines] == [
        (0, 4, 2),
        (2, 4, 3),
        (3, 1, 1),
    ]
    assert progress(path, "r", 1).passed == 20 + 9 + 5
    append(path, result(seed=2, cases=4, count=40))
    append(path, result(row="another", cases=4, count=40))
    append(path, result(off="crc", cases=4, count=4))
    assert progress(path, "r", 1).passed == 20 + 9 + 5, "other rows, seeds and variants are other cases"


def test_a_share_is_never_more_than_was_injected(tmp_path):
    """Five injections in three cases: nobody knows which case had one more, and none is made up."""
    path = tmp_path / "r.jsonl"
    append(path, result(cases=3, count=5))
    append(path, result(first=2, cases=1, count=1))
    assert progress(path, "r", 1).passed == 3 + 1, "two thirds of five, and one"


def test_a_case_whose_newest_line_is_a_failure_does_not_count(tmp_path):
    """It passed once, and fails now; when it passes again it counts again."""
    path = tmp_path / "r.jsonl"
    append(path, result(cases=3, count=3))
    append(path, result(first=1, result=FAILED))
    assert progress(path, "r", 1) == Progress((1,), 3, 2)
    append(path, result(first=1))
    assert progress(path, "r", 1) == Progress((), 3, 3)


def test_what_is_published_counts_no_case_twice():
    """The committed results: as many cases count as there are that passed, or fewer, where some failed since."""
    results = list(read(ROOT / "docs" / "faults" / "results.jsonl"))
    passed = {
        (found.row, found.seed, number)
        for found in results
        if not found.off and found.result == PASSED
        for number in found.numbers
    }
    assert 0 < sum(line.cases for line in counted(results)) <= len(passed)


@pytest.mark.asyncio
async def test_a_case_that_failed_is_run_again_before_new_ones(tmp_path):
    """Also where the count is full without it."""
    ran, broken = [], [True]

    async def inject(case):
        ran.append(case.number)
        assert case.number != 1 or not broken[0]

    row = Row(name="r", about="", inject=inject, full=3, share=1)
    path = tmp_path / "r.jsonl"
    async with Resources() as resources:
        with pytest.raises(RowFailedError):
            await run_row(row, resources, count=3, seed=1, results=path)
        append(path, result(first=2, cases=2, count=2, versions={"judge": JUDGE}))
        assert progress(path, "r", 1) == Progress((1,), 4, 3)
        with pytest.raises(RowFailedError):
            await run_row(row, resources, count=3, seed=1, results=path)
        broken[0] = False
        assert await run_row(row, resources, count=5, seed=1, results=path) == 2
    assert ran == [0, 1, 1, 1, 4]
    assert [(r.first, r.cases, r.result) for r in read(path)][-2:] == [(1, 1, PASSED), (4, 1, PASSED)]


@pytest.mark.asyncio
async def test_what_an_earlier_judge_passed_is_run_again(tmp_path):
    """Unless the row composes its records and judges them itself."""
    ran = []

    async def inject(case):
        ran.append(case.number)

    path = tmp_path / "r.jsonl"
    append(path, result(first=0, cases=2, count=2))
    async with Resources() as resources:
        for synthetic, made in ((True, 1), (False, 2)):
            row = Row(name="r", about="", inject=inject, full=3, share=1, synthetic=synthetic)
            assert await run_row(row, resources, count=3, seed=1, results=path) == made
    assert ran == [2, 3, 4]


@pytest.mark.asyncio
async def test_a_row_whose_fault_never_comes_about_ends(tmp_path):
    """By a failure of its own, not by nobody's patience."""

    async def inject(case):
        case.injections = 0

    row = Row(name="r", about="", inject=inject, full=3, share=1)
    async with Resources() as resources:
        with pytest.raises(RowFailedError, match="never came about"):
            await run_row(row, resources, count=1, seed=1, results=None)
