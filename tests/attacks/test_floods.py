"""More of one kind than is told one by one: what is found of one run is found however much else was forged."""

from tests.attacks.test_attacks import KEY, forge_redaction, remove_run, run_id
from tests.attacks.world import names, told, violations

from skillaudit.proof.findings import FINDINGS_MAX

FLOOD = FINDINGS_MAX + 100


def forge_tombstone(t, run_key, name, source_id, source_seq, purge_id=77):
    t.sql(
        "INSERT INTO store.tombstones BY NAME SELECT ? AS run_key, TRY_CAST('0x' || left(sha256(?), 16) AS UBIGINT) AS run_hash,"
        " ? AS id, 'skillaudit.events' AS topic, ? AS source_id, ? AS source_seq, 'closed' AS liveness, 1 AS events_stored,"
        " '' AS missing, '' AS lost, 0 AS conflicts, NULL AS last_event_at, ? AS purge_id, 0 AS records_dropped,"
        " NULL AS started_at, NULL AS received_at, '' AS violates",
        run_key, name, name, source_id, source_seq, purge_id,
    )  # fmt: skip


def forge_purge(t, key=KEY):
    """The run deleted, and a tombstone in its place that names a purge which never was."""
    row = t.sql("SELECT id, source_id, source_seq FROM store.runs WHERE run_key = ?", key)[0]
    remove_run(t, key)
    forge_tombstone(t, key, *row)
    return row[0]


def test_a_run_deleted_without_an_act_is_missing_among_any_number_of_forged_tombstones(attacked):
    """Findings of one kind are kept up to a number; those of others leave no less room for this run's."""
    t = attacked
    t.sql("CREATE TEMP TABLE flood AS SELECT -n AS run_key, 'f' || n AS id FROM range(1, ?) AS r(n)", FLOOD)
    forge_tombstone(t, 0, "flood", "x", 1)
    t.sql(
        "INSERT INTO store.tombstones SELECT s.* REPLACE (f.run_key AS run_key, f.id AS id)"
        " FROM store.tombstones AS s, flood AS f WHERE s.run_key = 0"
    )
    gone = forge_purge(t)
    alone = t.verify(run_id=gone)
    assert (alone.exit_code, violations(alone)) == (5, {"RUN_MISSING"}), told(alone)


def test_a_redaction_without_an_act_is_named_among_any_number_of_forged_ones(attacked):
    """The same, of redactions."""
    forge_redaction(attacked, "no-such-act")
    attacked.sql(
        "INSERT INTO store.redactions SELECT -n, 1, NULL, ''::BLOB, 'x' FROM range(1, ?) AS r(n)", FLOOD
    )
    alone = attacked.verify(run_id=run_id(attacked))
    assert alone.exit_code == 5
    assert "REDACTED_WITHOUT_ACT" in violations(alone), told(alone)


def test_only_its_own_findings_are_told_of_a_run_whose_tombstone_names_no_purge(attacked):
    """A finding that is about no act is not about the act that is not named."""
    gone = forge_purge(attacked)
    other = forge_purge(attacked, KEY + 1)
    alone = attacked.verify(run_id=gone)
    assert (names(alone), [it["run_id"] for it in alone.findings]) == ({"RUN_MISSING"}, [gone]), told(alone)
    assert other not in told(alone)


def test_what_is_missing_is_not_called_unchecked(attacked):
    """The lines for people and the exit code say the same."""
    alone = attacked.verify(run_id=forge_purge(attacked))
    assert (alone.run["integrity"], alone.run["completeness"]) == ("altered", "incomplete")
