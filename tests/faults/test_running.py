"""Waits that end in vain say what they waited for: a result without words tells nobody what to mend."""

import asyncio

import pytest
from tests.conformance.compositions import settings_at
from tests.faults.oracle import BrokenError
from tests.faults.results import versions
from tests.faults.rows import Case, Row
from tests.faults.running import Resources, run_case, run_off
from tests.pipeline.support import Process
from tests.support.waiting import until


async def test_a_case_that_does_not_end_names_its_bound() -> None:
    """By its row's limit; a time-out of its own is told as it is."""

    async def for_ever(case: Case) -> None:
        del case
        await asyncio.Event().wait()

    async def own(case: Case) -> None:
        raise TimeoutError(f"case {case.number} waited for something")

    def row(inject) -> Row:
        return Row(name="test", about="", inject=inject, full=1, share=1, case_s_max=0.05)

    with pytest.raises(TimeoutError, match=r"the case has not ended within 0\.05 s"):
        await run_case(row(for_ever), 3, 1, None, keep=False)
    with pytest.raises(TimeoutError, match="case 3 waited for something"):
        await run_case(row(own), 3, 1, None, keep=False)


async def test_a_process_that_does_not_end_tells_what_it_said(tmp_path) -> None:
    """With its name and the bound."""
    code = "import sys, time; print('standing', file=sys.stderr, flush=True); time.sleep(60)"
    process = Process("agent 0", settings_at(tmp_path / "data"), ["-c", code], tmp_path / "log")
    async with process:
        await until(lambda: "standing" in process.said())
        with pytest.raises(TimeoutError, match=r"agent 0 has not ended within 0\.05 s: standing"):
            await process.join(0.05)


def row_without(mechanism: str, fails: Exception) -> Row:
    """A row that fails so where its mechanism is switched off."""

    async def inject(case: Case) -> None:
        if case.switched_off:
            raise fails

    return Row(name="test", about="", inject=inject, full=1, share=1, off={mechanism: ""})


@pytest.mark.parametrize(
    "fails",
    [
        AssertionError("the worker did not end"),
        TimeoutError("not within 30 s"),
        RuntimeError("a slip of ours"),
    ],
    ids=lambda fails: type(fails).__name__,
)
async def test_only_a_judge_shows_that_a_mechanism_is_missing(fails) -> None:
    """A worker that did not end, a fault that did not come about, an error of the row's own show nothing."""
    async with Resources() as resources:
        with pytest.raises(type(fails), match=str(fails)):
            await run_off(row_without("it", fails), resources, "it", seed=1, results=None)
        shown = row_without("it", BrokenError("3 lost"))
        assert await run_off(shown, resources, "it", seed=1, results=None) == "3 lost"


async def test_what_takes_part_is_asked_before_the_first_case() -> None:
    """Whoever commits while rows run changes nothing of what was loaded."""
    versions.cache_clear()
    async with Resources():
        assert versions.cache_info().currsize == 1
