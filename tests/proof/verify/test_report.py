"""Names, exit codes, the policy, the state on the verifier's side, and the page that says all of it."""

from pathlib import Path

import pytest
from tests.proof.support import signer

from skillaudit.contract.errors import InvalidRecordError, SettingsError
from skillaudit.proof.findings import MEANINGS, SEVERITIES, Finding, Findings, Kind, Severity
from skillaudit.proof.policy import Grade, Policy, parse_policy, policy_members, read_policy
from skillaudit.proof.verify import Depth, Report, VerifyRequest, parse_report, sentence
from skillaudit.proof.verify.explain import explanation
from skillaudit.proof.verify.logged import ControlReading, LoggedAct
from skillaudit.proof.verify.state import read_state, write_state
from skillaudit.proof.verify.wire import parse_request, request_members
from skillaudit.proof.verify.witness import Anchored, AnchorReading

PAGE = (Path(__file__).parents[3] / "docs" / "verify.md").read_text(encoding="utf-8")


def test_the_page_says_what_explain_prints():
    """One text: what cannot be detected stands in the docs word by word."""
    assert explanation() in PAGE


def test_the_page_names_every_finding():
    """Name, exit code and meaning of each."""
    for kind in Kind:
        assert f"| `{kind}` | {SEVERITIES[kind].value} | {MEANINGS[kind]} |" in PAGE


@pytest.mark.parametrize(
    ("kinds", "code"),
    [
        ((), 0),
        ((Kind.REDACTED, Kind.PURGED), 0),
        ((Kind.RUN_OPEN,), 6),
        ((Kind.RUN_OPEN, Kind.ANCHOR_UNREACHABLE), 7),
        ((Kind.ANCHOR_UNREACHABLE, Kind.RUN_NEVER_ARRIVED), 4),
        ((Kind.RUN_NEVER_ARRIVED, Kind.EVENT_ALTERED, Kind.RUN_OPEN), 5),
    ],
)
def test_the_exit_code_is_the_gravest(kinds, code):
    """5 wins over 4, that over 7, that over 6; notes change nothing."""
    findings = Findings()
    findings.add_all(Finding(kind, "x") for kind in kinds)
    assert findings.exit_code() == code


def test_findings_are_bounded_and_counted():
    """Beyond the bound findings are counted; violations are told first."""
    findings = Findings(findings_max=2)
    findings.add_all(Finding(Kind.RUN_OPEN, "x", {"run_id": str(n)}) for n in range(5))
    findings.add(Finding(Kind.EVENT_ALTERED, "y", {"run_id": "r", "sequence": 3}))
    assert [str(f.kind) for f in findings.kept()] == ["EVENT_ALTERED", "RUN_OPEN", "RUN_OPEN"]
    assert findings.counts[Kind.RUN_OPEN] == 5
    assert findings.kept()[0].sentence() == "EVENT_ALTERED run r event 3: y"
    assert sentence(findings.kept()[0].json()) == "EVENT_ALTERED run r event 3: y"


def test_a_new_name_is_a_violation_unless_argued_down():
    assert SEVERITIES[Kind.LEDGER_ALTERED] is Severity.VIOLATION
    assert set(SEVERITIES) == set(Kind) == set(MEANINGS)


KEY = signer().verifier.text


def test_a_policy_asks_for_what_its_members_can_prove(tmp_path):
    """Grade by default: anchored with an anchor, signed with a key, else self."""
    assert parse_policy({}, "x") == Policy()
    assert parse_policy({"keys": [KEY]}, "x").grade is Grade.SIGNED
    text = f'keys = ["{KEY}"]\n[[anchors]]\nuri = "file:/x"\ntrust = "same"\n[cuts]\nrows = {{ "t/0" = 7 }}\n'
    (tmp_path / "p.toml").write_text(text)
    policy = read_policy(tmp_path / "p.toml")
    assert policy.grade is Grade.ANCHORED
    assert policy.anchors[0].trust == "same"
    assert policy.cuts.rows == {"t/0": 7}
    assert parse_policy(policy_members(policy), "x") == policy


@pytest.mark.parametrize(
    ("found", "field", "right"),
    [
        ({"grade": "best"}, "grade", '"self", "signed" or "anchored"'),
        ({"grade": ["self"]}, "grade", '"self", "signed" or "anchored"'),
        ({"key": [KEY]}, "'key'", "keys"),
        ({"keys": KEY}, "keys", "list of texts"),
        ({"keys": [KEY, "not a key"]}, "keys[1]", "<name>+<8 hex digits>+<base64"),
        ({"keys": [KEY[:-4] + "AAA="]}, "keys[0]", "skillaudit keys show"),
        ({"anchors": ["file:/x"]}, "anchors", "[[anchors]]"),
        ({"anchors": [{"trust": "other"}]}, "anchors[0]: uri", "file:/mnt"),
        ({"anchors": [{"uri": 7}]}, "anchors[0]: uri", "file:/mnt"),
        ({"anchors": [{"uri": "file:/x", "trust": "me"}]}, "anchors[0]: trust", '"other" or "same"'),
        ({"anchors": [{"uri": "file:/x"}, {"url": "file:/x"}]}, "anchors[1]", "uri, trust"),
        ({"anchor_age_s_max": -1}, "anchor_age_s_max", "whole number"),
        ({"min_retention_days": True}, "min_retention_days", "whole number"),
        ({"expected_hosts": [1]}, "expected_hosts", "list of texts"),
        ({"control_log": "yes"}, "control_log", "true or false"),
        ({"cuts": [1]}, "cuts", "[cuts]"),
        ({"cuts": {"row": {}}}, "cuts", "rows, sources, runs"),
        ({"cuts": {"rows": {"t/0": -1}}}, "cuts: rows: t/0", "whole number"),
        ({"cuts": {"sources": ["s"]}}, "cuts: sources", '{ "..." = 17 }'),
        ({"cuts": {"runs": [1]}}, "cuts: runs", "list of texts"),
    ],
)
def test_a_wrong_policy_is_refused_naming_file_field_and_what_is_right(found, field, right):
    """Whoever reads the error has all it takes to mend the file."""
    with pytest.raises(SettingsError) as refused:
        parse_policy(found, "p.toml")
    said = str(refused.value)
    assert said.startswith("p.toml: "), said
    assert field in said
    assert right in said


@pytest.mark.parametrize(
    ("uri", "right"),
    [
        ("/mnt/worm", "file:/mnt"),
        ("file:", "file:/mnt"),
        ("file://host/x", "file:/path"),
        ("fiel:/x", "file: or kafka:"),
        ("witness:x", "file: or kafka:"),
        ("kafka:t", "kafka://host:port/topic"),
        ("kafka://h:1/white space", "kafka:<topic>"),
    ],
)
def test_an_anchor_that_can_be_none_is_refused_with_the_policy(tmp_path, uri, right):
    """By the file, and before anything is asked; the same policy that came over the wire names no file of this host."""
    path = tmp_path / "p.toml"
    path.write_text(f'[[anchors]]\nuri = "file:/x"\n[[anchors]]\nuri = "{uri}"\n')
    with pytest.raises(SettingsError) as refused:
        read_policy(path)
    assert str(refused.value).startswith(f"{path}: anchors[1]: uri: ")
    assert right in str(refused.value)
    assert parse_policy({"anchors": [{"uri": uri}]}, "x").anchors[0].uri == uri


@pytest.mark.parametrize("text", ["grade = ", "\udcff"])
def test_what_is_no_toml_is_refused(tmp_path, text):
    path = tmp_path / "p.toml"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(SettingsError):
        read_policy(path)
    with pytest.raises(SettingsError):
        read_policy(tmp_path / "none.toml")


def test_a_request_travels_unchanged():
    """Policy and what the anchors said go along: the server is told, not asked."""
    seen = Anchored("o", 4, bytes(32), 5, "there", ("k",), False, 3, (b"\x01" * 32,))
    request = VerifyRequest(
        run_id="a",
        since_us=1,
        depth=Depth.SAMPLE,
        sample=3,
        policy=Policy(grade=Grade.SIGNED, keys=(KEY,)),
        anchors=(
            AnchorReading(uri="file:/x", checkpoints=(seen,)),
            AnchorReading(uri="kafka:t", error="away"),
        ),
        control=ControlReading(partition="c/0", acts=(LoggedAct("a", "00" * 32, 7),)),
    )
    assert parse_request(request_members(request)) == request
    for broken in (
        {},
        request_members(request) | {"depth": "deep"},
        request_members(request) | {"anchors": [1]},
    ):
        with pytest.raises(InvalidRecordError):
            parse_request(broken)


def test_a_report_travels_unchanged_and_newer_members_are_passed_over():
    report = Report(scope="all", runs=3, journal=2, root="ab")
    assert parse_report({**report.json(), "something": "newer"}) == report


def test_a_newer_releases_finding_is_told_as_it_says():
    """A live owner may be newer than who asks: a name that is not known counts with the severity that comes with it."""
    newer = {"kind": "MOON_ALTERED", "severity": "violation", "run_id": "r", "says": "it is another"}
    members = {
        "format": 1,
        "scope": "all",
        "findings": [newer],
        "counts": {"MOON_ALTERED": 3},
        "exit_code": 5,
    }
    report = parse_report(members)
    assert not report.verdict(Severity.VIOLATION)
    assert report.verdict(Severity.INCOMPLETE)
    assert next(report.lines()).endswith("3 findings")
    assert sentence(newer) == "MOON_ALTERED run r: it is another"
    only_counted = parse_report({**members, "findings": [], "exit_code": 4})
    assert not only_counted.verdict(Severity.INCOMPLETE)
    assert only_counted.verdict(Severity.VIOLATION)


def test_the_state_is_the_verifiers_own(tmp_path):
    """Written after a check, read before the next: it makes a journal that forgot what was seen show."""
    path = tmp_path / "deep" / "state.json"
    assert read_state(path).apply(VerifyRequest()) == VerifyRequest()
    write_state(path, Report(scope="all", journal=4, root="ab" * 32, checked_at_us=9, sealed_to=3))
    request = read_state(path).apply(VerifyRequest())
    assert request.sealed_from == 3
    assert [(it.size, it.root) for it in request.anchors[0].checkpoints] == [(4, b"\xab" * 32)]
    path.write_text("{}")
    with pytest.raises(SettingsError, match="state"):
        read_state(path)


@pytest.mark.parametrize(
    ("members", "says"),
    [
        ({}, "ok    grade self (as asked): 4 leaves of the journal, under no known signature or anchor; whoever writes the database could have rewritten it"),
        ({"asked": "signed"}, "no    grade self (signed was asked for): 4 leaves of the journal, under no"),
        ({"grade": "signed", "asked": "signed", "signed": 4}, "ok    grade signed (as asked): 4 of 4 leaves of the journal signed by a known key, under no known anchor; whoever writes the database and holds the key could have rewritten it"),
        ({"grade": "signed", "asked": "anchored", "signed": 4}, "no    grade signed (anchored was asked for): "),
        ({"grade": "anchored", "asked": "anchored", "anchored": 4, "anchored_at_us": 0}, "ok    grade anchored (as asked): 4 of 4 leaves of the journal anchored at 1970-01-01T00:00:00Z, 41 s ago"),
        ({"grade": "anchored", "asked": "signed", "anchored": 4, "anchored_at_us": 0}, "ok    grade anchored (signed was asked for): "),
        ({"asked": "anchored", "anchored": 3, "anchored_at_us": 0}, "no    grade self (anchored was asked for): 3 of 4 leaves of the journal anchored at 1970-01-01T00:00:00Z, 41 s ago; whoever writes the database could have rewritten the rest"),
        ({"counts": {"EVENT_ALTERED": 1}, "exit_code": 5}, "no    nothing as a whole, since something is violated (self was asked for); 4 leaves of the journal"),
        ({"counts": {"NOT_CHECKED": 1}, "exit_code": 7}, "no    nothing as a whole, since a part was not checked (self was asked for); 4 leaves"),
        ({"journal": 1}, "ok    grade self (as asked): 1 leaf of the journal"),
    ],
)  # fmt: skip
def test_the_third_line_says_what_is_proven_and_what_was_asked_for(members, says):
    """`ok` only where it is proven to the grade asked for; what is weak about that grade stands behind it."""
    report = Report(**({"scope": "all", "journal": 4, "checked_at_us": 41_000_000} | members))
    third = list(report.lines())[2]
    assert third.startswith("proof         " + says)
