"""`skillaudit verify`."""

from __future__ import annotations

import asyncio
import secrets
import sys
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import click

from skillaudit.cli.options import MOMENT, json_option, with_settings
from skillaudit.cli.output import print_json, stderr
from skillaudit.cli.running import ProgressLine
from skillaudit.contract.clock import to_us
from skillaudit.contract.errors import DatabaseError
from skillaudit.contract.settings import Settings
from skillaudit.contract.words import counted
from skillaudit.proof.findings import Severity
from skillaudit.proof.policy import AnchorPolicy, Grade, Policy, check_anchor, read_policy
from skillaudit.proof.verify.explain import explanation
from skillaudit.proof.verify.report import Report, sentence
from skillaudit.proof.verify.request import Depth, VerifyRequest
from skillaudit.proof.verify.state import read_state, write_state

_PATH = click.Path(path_type=Path)
_LATER = "is not there yet"


@click.command()
@click.argument("run_ids", nargs=-1, metavar="[RUN]")
@click.option("--all", "everything", is_flag=True, help="All runs.")
@click.option(
    "--since", type=MOMENT, help="With --all: runs started at or after: a time, or an age such as 24h."
)
@click.option("--until", type=MOMENT, help="With --all: runs started before.")
@click.option("--quick", is_flag=True, help="Numbers, counts and heads; no content is hashed.")
@click.option("--full", is_flag=True, help="The content of every run (the default).")
@click.option(
    "--sample", type=click.IntRange(1, 100_000), help="As --quick, and the content of this many runs."
)
@click.option(
    "--anchor",
    "anchors",
    multiple=True,
    metavar="URI",
    help="An anchor to hold the journal against; repeatable.",
)
@click.option(
    "--policy", "policy_file", type=_PATH, help="TOML file: keys, anchors, grade, rules of the verifier."
)
@click.option(
    "--control-log",
    is_flag=True,
    help="Hold the acts against the control log that the settings name, read here.",
)
@click.option(
    "--against-kafka",
    is_flag=True,
    help="Hold the events against the records that Kafka still holds: it is read by whoever has the database open.",
)
@click.option(
    "--incremental",
    "state_file",
    type=_PATH,
    metavar="FILE",
    help="With --all: go on where the last check with this FILE stood; kept by the verifier, on his side.",
)
@click.option("--explain", is_flag=True, help="Print what cannot be detected, and end.")
@click.option("--source", "source_dir", hidden=True)
@click.option("--bundle", hidden=True)
@with_settings
@json_option
def verify(  # noqa: PLR0913  what there is to choose
    settings: Settings,
    as_json: bool,
    *,
    run_ids: tuple[str, ...],
    everything: bool,
    since: datetime | None,
    until: datetime | None,
    quick: bool,
    full: bool,
    sample: int | None,
    anchors: tuple[str, ...],
    policy_file: Path | None,
    control_log: bool,
    state_file: Path | None,
    explain: bool,
    against_kafka: bool,
    source_dir: str | None,
    bundle: str | None,
) -> None:
    """Check that the record is complete and unaltered, and say who could still have changed it.

    Integrity and completeness are two verdicts. Exit code 0: proven to the grade that the policy asks for; 4: something
    never arrived; 5: something was altered, deleted, forged or rolled back; 6: nothing wrong was found and not all is
    proven; 7: a check could not be made.

    \b
    Examples:
      skillaudit verify RUN
      skillaudit verify --all --policy audit.toml
      skillaudit verify --all --quick --anchor file:/mnt/worm/audit
      skillaudit verify --all --db copy.duckdb
      skillaudit verify --all --against-kafka
    """
    if explain:
        click.echo(explanation(), nl=False)
        return
    for given, name in ((source_dir, "--source"), (bundle, "--bundle")):
        if given:
            raise click.UsageError(f"{name} {_LATER}")
    if len(run_ids) > 1:
        raise click.UsageError("a check is of one run, or of all with --all; call it once for each run")
    if bool(run_ids) == everything:
        raise click.UsageError("name a run by its id, or give --all")
    if (since or until or state_file or quick or full or sample) and run_ids:
        raise click.UsageError("--since, --until, --quick, --full, --sample and --incremental go with --all")
    request = VerifyRequest(
        run_id=run_ids[0] if run_ids else None,
        since_us=to_us(since) if since else None,
        until_us=to_us(until) if until else None,
        depth=_depth(quick=quick, full=full, sample=sample),
        sample=sample or 0,
        seed=secrets.randbits(32),
        against_kafka=against_kafka,
        policy=_policy(settings, policy_file, anchors, control_log=control_log),
    )
    try:
        report = asyncio.run(_check(settings, request, state_file, ProgressLine()))
    except DatabaseError as exc:  # elsewhere it means a violation; here, that nothing could be looked at
        stderr().print(f"skillaudit: could not check: {exc}")
        raise click.exceptions.Exit(7) from exc
    if as_json:
        print_json(report.json())
    else:
        _print(report)
    if report.exit_code:
        raise click.exceptions.Exit(report.exit_code)


def _depth(*, quick: bool, full: bool, sample: int | None) -> Depth:
    if quick + full + (sample is not None) > 1:
        raise click.UsageError("--quick, --full and --sample exclude each other")
    return Depth.QUICK if quick else Depth.SAMPLE if sample is not None else Depth.FULL


def _policy(settings: Settings, file: Path | None, anchors: tuple[str, ...], *, control_log: bool) -> Policy:
    policy = read_policy(file, settings) if file else Policy()
    policy = replace(policy, control_log=policy.control_log or control_log)
    if not anchors:
        return policy
    for uri in anchors:
        check_anchor(uri, "--anchor", settings)
    grade = policy.grade if file else Grade.ANCHORED
    return replace(policy, grade=grade, anchors=(*policy.anchors, *map(AnchorPolicy, anchors)))


async def _check(
    settings: Settings, request: VerifyRequest, state_file: Path | None, line: ProgressLine
) -> Report:
    from skillaudit.proof.verify.witness import read_anchors
    from skillaudit.storage.verifying import read_control
    from skillaudit.storage.verifying import verify as check

    def tell(what: str, done: int, of: int) -> None:
        line.show(lambda: f"{what} {done:,}" + (f" of {of:,} ({100 * done // of} %)" if of else ""))

    anchors = await asyncio.to_thread(
        read_anchors, request.policy, settings, newest_only=request.run_id is not None
    )
    control = await read_control(settings) if request.policy.control_log else None
    request = replace(request, anchors=anchors, control=control)
    if state_file is not None:
        request = (await asyncio.to_thread(read_state, state_file)).apply(request)
    report = await check(settings, request, tell)
    line.clear()
    known = report.verdict(Severity.VIOLATION) and report.verdict(Severity.UNCHECKED)
    if state_file is not None and known:
        await asyncio.to_thread(write_state, state_file, report)
    return report


def _print(report: Report) -> None:
    for line in report.lines():
        click.echo(line)
    for finding in report.findings:
        click.echo(sentence(finding))
    told = len(report.findings)
    found = sum(report.counts.values())
    if found > told:
        stderr().print(
            f"{told:,} of {counted(found, 'finding')}; the others are counted under `counts` of --json"
        )
    sys.stdout.flush()
