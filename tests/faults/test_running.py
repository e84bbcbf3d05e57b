"""Waits that end in vain say what they waited for: a result without words tells nobody what to mend."""

import asyncio

import pytest
from tests.conformance.compositions import settings_at
from tests.faults.rows import Case, Row
from tests.faults.running import run_case
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
