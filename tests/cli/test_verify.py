"""`skillaudit verify`: exit codes, lines for people, JSON, the verifier's policy and state."""

import contextlib
import json
import shutil
from dataclasses import replace

import pytest
from tests.attacks.world import SIGNER, Tampered, build

from skillaudit.proof.verify.explain import explanation


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return build(tmp_path_factory.mktemp("world"))


@pytest.fixture
def verify(world, command, recorded, tmp_path):
    """The command on a copy of the world's database."""
    path = tmp_path / "copy.duckdb"
    shutil.copy(world.path, path)
    settings = replace(recorded.settings, db_file=path)

    def call(*words):
        return command("verify", *words, settings=settings)

    call.path = path
    return call


def tamper(verify, world, text):
    with contextlib.closing(Tampered(world, verify.path)) as t:
        t.events(text)


@pytest.fixture
def policy(world, tmp_path):
    path = tmp_path / "policy.toml"
    path.write_text(f'keys = ["{SIGNER.verifier.text}"]\n[[anchors]]\nuri = "file:{world.anchor}"\n')
    return str(path)


def test_three_lines_then_findings(verify, world, policy):
    """Proven by the policy: 0; after an edit the run and the event are named, and the code is 5."""
    said = verify("--all", "--policy", policy)
    assert said.code == 0, said.err
    lines = said.out.splitlines()
    assert [line.split()[0] for line in lines[:3]] == ["integrity", "completeness", "proof"]
    assert "grade anchored" in lines[2]
    tamper(verify, world, "UPDATE {events} SET payload = '{}' WHERE run_key = 5 AND sequence = 3")
    said = verify("--all", "--policy", policy)
    assert said.code == 5
    assert "integrity     FAIL  1 of 36 runs" in said.out
    assert "EVENT_ALTERED run" in said.out


def test_the_grade_asked_for_decides(verify, world):
    """Without a policy `self` is asked for; an anchor on the command line asks for more."""
    assert verify("--all").code == 0
    assert verify("--all", "--quick", "--anchor", f"file:{world.anchor}").code == 0
    said = verify("--all", "--quick", "--anchor", f"file:{world.anchor.parent}")
    assert (said.code, "NOT_ANCHORED" in said.out) == (6, True)
    said = verify("--all", "--quick", "--anchor", f"file:{world.anchor}-that-is-none")
    assert (said.code, "ANCHOR_UNREACHABLE" in said.out) == (7, True)
    said = verify("--all", "--anchor", "kafka://127.0.0.1:1/t")
    assert (said.code, "ANCHOR_UNREACHABLE" in said.out) == (7, True)


def test_json_has_what_scripts_need(verify, world, policy):
    said = verify("--all", "--sample", "3", "--policy", policy, "--json")
    report = json.loads(said.out)
    assert (report["exit_code"], report["grade"], report["asked"], report["runs"]) == (
        0,
        "anchored",
        "anchored",
        36,
    )
    tamper(verify, world, "DELETE FROM {events} WHERE run_key = 5 AND sequence = 3")
    report = json.loads(verify("--all", "--policy", policy, "--json").out)
    finding = report["findings"][0]
    assert (finding["kind"], finding["severity"], finding["sequence"]) == ("EVENT_MISSING", "violation", 3)


def test_one_run(verify, world):
    """By its id: its own words, and what proves it."""
    with contextlib.closing(Tampered(world, verify.path)) as t:
        run_id = t.one("SELECT id FROM store.runs WHERE run_key = 5")
    said = verify(run_id)
    assert said.code == 0, said.err
    assert "verified" in said.out
    assert "complete, finished, status ok" in said.out
    assert verify("nowhere").code == 3


def test_incremental_remembers_on_the_verifiers_side(verify, world, tmp_path):
    """A database put back to an older copy is found without any anchor."""
    state = tmp_path / "state.json"
    assert verify("--all", "--incremental", str(state)).code == 0
    assert json.loads(state.read_text())["journal"] == 4
    assert verify("--all", "--incremental", str(state)).code == 0
    shutil.copy(world.older, verify.path)
    said = verify("--all", "--incremental", str(state))
    assert (said.code, "JOURNAL_ROLLED_BACK" in said.out) == (5, True)
    assert json.loads(state.read_text())["journal"] == 4


def test_explain_needs_no_database(verify):
    assert verify("--explain").out == explanation()


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("RUN", "--all"),
        ("RUN", "RUN-2"),
        ("RUN", "--quick"),
        ("--all", "--quick", "--full"),
        ("--all", "--sample", "0"),
        ("--all", "--against-kafka"),
        ("--all", "--source", "x"),
        ("--all", "--bundle", "x"),
        ("--all", "--policy", "/nowhere/policy.toml"),
        ("--all", "--anchor", "witness:x"),
    ],
)
def test_bad_arguments_are_usage(verify, words):
    """Exit code 2, and the remedy on stderr; nothing is checked."""
    said = verify(*words)
    assert (said.code, said.out) == (2, "")
    assert said.err


def test_kafka_out_of_reach_is_told_with_what_was_checked(verify, command, recorded):
    """7, with cause and remedy; and 2, naming the setting, where there is no Kafka in the settings at all."""
    said = verify("--all", "--against-kafka")
    assert said.code == 2
    assert "kafka_bootstrap_servers" in said.err
    away = replace(recorded.settings, db_file=verify.path, kafka_bootstrap_servers="127.0.0.1:1")
    said = command("verify", "--all", "--against-kafka", settings=away)
    assert (said.code, said.out.splitlines()[3].split()[:2]) == (7, ["kafka", "part"])
    assert "NOT_CHECKED: could not check the records that Kafka holds: can't ask for the ends" in said.out
    assert "check that it runs" in said.out


def test_the_embedded_default_reads_in_what_waits(command):
    """With nothing named, as any reading command: the record of this machine's agents. Its source is open or bare: 6."""
    said = command("verify", "--all")
    assert said.code in {0, 6}, said.out + said.err
    assert "integrity     ok" in said.out


def test_no_database_is_unreachable(command, recorded, tmp_path):
    said = command("verify", "--all", settings=replace(recorded.settings, db_file=tmp_path / "none.duckdb"))
    assert said.code == 7


def test_a_file_that_can_not_be_read_is_no_violation(verify):
    """Nothing was looked at: 7, with the reason; 5 is for what was found."""
    verify.path.write_bytes(b"no database" * 1000)
    said = verify("--all")
    assert said.code == 7
    assert "could not check" in said.err
    assert "not a valid DuckDB database" in said.err
