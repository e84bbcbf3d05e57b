"""The published page of injected faults says what the results say, and nothing more."""

from docs.fault_table import fault_page
from tests.faults.results import FAILED, JUDGE, PASSED, Result, append
from tests.faults.rows import all_rows


def result(row, **members):
    given = {"seed": 1, "first": 0, "cases": 1, "count": 1, "events": 0, "seconds": 0.0, "result": PASSED}
    return Result(row=row, **(given | members))


def cells(page, row):
    (line,) = [
        line for line in page.splitlines() if line.startswith(f"| {row} | {all_rows()[row].about[:20]}")
    ]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_records_that_a_row_composes_are_no_events_of_agents(tmp_path):
    """They are counted in a column and in a sum of their own."""
    path = tmp_path / "r.jsonl"
    append(path, result("clock-set", events=700, count=15))
    append(path, result("clock-set", first=1, count=5, versions={"judge": JUDGE}))
    append(path, result("two-materializers", events=5_000, count=2))
    page = fault_page(path)
    assert cells(page, "clock-set")[2:7] == ["20", "5", "20", "700", ""]
    assert cells(page, "two-materializers")[2:7] == ["2", "", "40", "", "5,000"]
    assert "22 injections passed, with 700 events that agents were told are safe and 5,000 records" in page
    assert "of the 20 injections of rows that compose none 5 are fully judged" in page
    assert f"1 of {len(all_rows())} rows have their full count; {len(all_rows()) - 2} have no result" in page


def test_what_was_run_again_counts_once(tmp_path):
    """In the row, in the sum over all, and by commit; events and other figures as the injections."""
    path = tmp_path / "r.jsonl"
    append(path, result("clock-set", cases=4, count=20, events=400, facts={"runs": 8, "kind": "x"}))
    append(
        path,
        result(
            "clock-set", first=2, cases=4, count=20, events=80, facts={"runs": 4}, versions={"commit": "ab"}
        ),
    )
    page = fault_page(path)
    assert cells(page, "clock-set")[2:7] == ["30", "0", "20", "280", ""]
    assert cells(page, "clock-set")[-1] == "runs 8"
    assert "In all 30 injections passed, with 280 events" in page
    assert "`ab` 20" in page
    assert "10 before results named a commit" in page


def test_a_row_names_the_commits_that_its_lines_name(tmp_path):
    """The oldest and the newest of those that count, or that they name none."""
    path = tmp_path / "r.jsonl"

    def commits():
        return cells(fault_page(path), "clock-set")[7]

    assert commits() == ""
    append(path, result("clock-set"))
    append(path, result("clock-set", first=1))
    assert commits() == "unnamed"
    append(path, result("clock-set", first=2, versions={"commit": "ab+"}))
    assert commits() == "unnamed .. `ab+`"
    append(path, result("clock-set", cases=2, versions={"commit": "cd"}))
    assert commits() == "`ab+` .. `cd`", "lines whose cases were all run again name nothing"
    append(path, result("clock-set", cases=3, versions={"commit": "ef"}))
    assert commits() == "`ef`"


def test_a_failure_is_repaired_only_by_the_same_case(tmp_path):
    """Of the same row, with the same seed, later; the commit that it passed with is named."""
    path = tmp_path / "r.jsonl"
    append(path, result("clock-set", cases=9))
    append(path, result("clock-set", first=3, result=FAILED, error="first"))
    append(path, result("clock-set", first=4, result=FAILED, error="second"))
    append(path, result("clock-set", first=3, seed=2))
    append(path, result("same-run-id", first=3))
    append(path, result("clock-set", off="steady-clock", first=3))
    page = fault_page(path)
    assert page.count("| open |") == 2
    append(path, result("clock-set", first=4, versions={"commit": "abc"}))
    page = fault_page(path)
    assert "| clock-set | 3 | 1 | open | `first` |" in page
    assert "| clock-set | 4 | 1 | repaired: passed later, with commit `abc` | `second` |" in page
    assert "2 cases failed on the way, of which 1 passed later and 1 are open" in page
    assert "`abc` 1" in page


def test_only_what_passed_is_counted_as_injected(tmp_path):
    """Neither failures nor switched-off variants."""
    path = tmp_path / "r.jsonl"
    append(path, result("clock-set", count=5, result=FAILED, error="x"))
    append(path, result("clock-set", count=5, off="steady-clock", error="y"))
    assert cells(fault_page(path), "clock-set")[2] == "0"


def test_a_row_that_make_test_leaves_out_says_why():
    """And one that it does not leave out has no reason to."""
    for row in all_rows().values():
        assert bool(row.not_in_tests) == (row.test == 0), row.name


def test_every_row_can_fail():
    """A row without a mechanism that it tests shows nothing."""
    assert not [row.name for row in all_rows().values() if not row.off]
