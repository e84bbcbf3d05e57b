"""A share of every row of the fault table, and what each row says when the mechanism that it tests is switched off."""

import pytest
from tests.faults.rows import Row, all_rows
from tests.faults.running import run_off, run_row

ROWS = all_rows()
SEED = 7


@pytest.mark.parametrize("row", [row for row in ROWS.values() if row.test], ids=lambda row: row.name)
async def test_the_contract_is_kept_under(row: Row) -> None:
    """Nothing lost, duplicated, reordered; everything that is not whole is named."""
    assert await run_row(row, count=row.test, seed=SEED, results=None) >= row.test


@pytest.mark.parametrize(
    ("row", "mechanism"),
    [(row, mechanism) for row in ROWS.values() if row.off_in_tests for mechanism in row.off],
    ids=lambda value: value if isinstance(value, str) else value.name,
)
async def test_a_row_fails_without_its_mechanism(row: Row, mechanism: str) -> None:
    """A row that passes without the mechanism it tests is none."""
    assert await run_off(row, mechanism, seed=SEED, results=None)
