"""A share of every row of the fault table, and what each row says when the mechanism that it tests is switched off."""

import pytest
import pytest_asyncio
from _pytest.mark import ParameterSet
from tests.faults.rows import Row, all_rows
from tests.faults.running import Resources, run_off, run_row

ROWS = all_rows()
SEED = 7

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module", name="resources")
async def shared_resources():
    """Brokers and file systems, each made once for all rows that want it."""
    async with Resources() as resources:
        yield resources


def _skip(row: Row) -> None:
    if row.skipped_because:
        pytest.skip(row.skipped_because)


def _named(row: Row, *more: str) -> ParameterSet:
    return pytest.param(
        row, *more, id="-".join((row.name, *more)), marks=pytest.mark.broker if row.broker else ()
    )


@pytest.mark.parametrize("row", [_named(row) for row in ROWS.values() if row.test])
async def test_the_contract_is_kept_under(row: Row, resources: Resources) -> None:
    """Nothing lost, duplicated, reordered; everything that is not whole is named."""
    _skip(row)
    assert await run_row(row, resources, count=row.test, seed=SEED, results=None) >= row.test


@pytest.mark.parametrize(
    ("row", "mechanism"),
    [_named(row, mechanism) for row in ROWS.values() if row.off_in_tests for mechanism in row.off],
)
async def test_a_row_fails_without_its_mechanism(row: Row, mechanism: str, resources: Resources) -> None:
    """A row that passes without the mechanism it tests is none."""
    _skip(row)
    assert await run_off(row, resources, mechanism, seed=SEED, results=None)
