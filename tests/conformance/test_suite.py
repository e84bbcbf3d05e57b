"""The suite as a third party uses it: in a project of its own, in pytest-asyncio's strict mode, on a broken storage."""

import re
from textwrap import dedent

from skillaudit.contract import testing

pytest_plugins = ["pytester"]

HEAD = "from skillaudit.contract.memory import MemoryStorage as MyStorage\n"
CASES_MIN = 110


def documented(number):
    """The n-th code block of the package's docstring, for a storage that needs no arguments."""
    blocks = re.findall(r"::\n\n((?:    .*\n|\n)+)", testing.__doc__)
    return dedent(blocks[number]).replace("MyStorage(...)", "MyStorage()")


def run(pytester, code, *arguments):
    pytester.makepyfile(HEAD + code)
    options = ("-o", "asyncio_default_fixture_loop_scope=function", "-p", "no:cacheprovider", "-q")
    return pytester.runpytest_inprocess(*options, *arguments)


def test_one_storage_for_all_as_documented(pytester):
    """The documented lines are all it takes; every case runs, none is skipped."""
    outcomes = run(pytester, documented(0)).parseoutcomes()
    assert outcomes.keys() == {"passed"}
    assert outcomes["passed"] >= CASES_MIN


def test_a_fresh_storage_for_each_as_documented(pytester):
    """The same cases with a fixture of the class's own."""
    imports = "\n".join(line for line in documented(0).splitlines() if "import" in line)
    code = documented(1).replace("...", "return MyStorage()")
    outcomes = run(pytester, f"{imports}\n{code}", "-k", "purge or chain").parseoutcomes()
    assert outcomes.keys() == {"passed", "deselected"}


BROKEN = """
from datetime import timedelta


class PagesOverlap(MyStorage):
    async def list_runs_by_skill_paginated(self, skill_id, offset, limit, include_dry_run=False):
        return await super().list_runs_by_skill_paginated(skill_id, offset - 1, limit, include_dry_run)


class PurgesTooMuch(MyStorage):
    async def purge_older_than(self, t):
        return await super().purge_older_than(t + timedelta(microseconds=1))


class DropsOrphans(MyStorage):
    async def append_log(self, log):
        if log.run_id in self._runs:
            await super().append_log(log)


class FirstFinishWins(MyStorage):
    async def finish_run(self, run_id, stats):
        if run_id not in self._runs or self._runs[run_id].finish is None:
            await super().finish_run(run_id, stats)


@pytest.fixture(params=[PagesOverlap, PurgesTooMuch, DropsOrphans, FirstFinishWins], ids=lambda kind: kind.__name__)
def storage(request):
    return request.param()


class TestBroken(StorageConformance):
    pass
"""


def test_broken_storages_fail(pytester):
    """A suite that passes everything would prove nothing."""
    imports = documented(0).split("@pytest_asyncio.fixture")[0]
    wanted = "pages_make or bound_is_strict or early_log or last_finish_wins"
    result = run(pytester, imports + BROKEN, "-k", wanted, "-rf")
    for kind in ("PagesOverlap", "PurgesTooMuch", "DropsOrphans", "FirstFinishWins"):
        result.stdout.fnmatch_lines_random([f"FAILED *{kind}*"])
