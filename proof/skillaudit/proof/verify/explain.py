"""What verify can't know. Printed by `skillaudit verify --explain`; the same text stands in docs/verify.md."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Final

LIMITS: Final = """\
It honestly cannot detect:

1. what an agent never recorded, or recorded falsely, on a host that lies from the start; nor whether a model or a tool
   really answered so;
2. a source that was suppressed from its first event on, unless its host is on the list of those you expect
   (`expected_hosts` of the policy); and a dead source's runs after its last heartbeat;
3. anything done to what no seal covers yet (by default the last 60 seconds): whoever can write the database before the next
   seal can rewrite rows and ledger together, or append an act to the journal, and the sealer signs what it finds (but no
   cut: 12). An act that nobody ordered shows where the acts are held against the control log (`--control-log`), as long as
   he can't write that, too; rewritten events show only beside another copy. The same until the next anchor for somebody who
   holds broker, database and key together; and what somebody who writes to the topic made of records before they were
   read, as long as digests, tags and head were made anew: sources do not sign;
4. a rewriting that the operator agreed on with every anchor; and, where no anchor is configured, any careful rewriting
   by whoever writes the database (grade `self`), or by whoever does and holds the key (grade `signed`); to put an
   older copy in its place takes no key;
5. which event was changed, when all tags and heads were recomputed and no second copy exists: the run, or the batch, is
   still named. As long as Kafka holds the records `--against-kafka` names the event, unless whoever did it can write
   there, too;
6. whether an event that the run's own row calls missing never arrived, or was deleted and the row edited to say so: both
   are incomplete, exit code 4; or, called refused by the broker, declared lost, exit code 6. The head of such a run
   can't be computed: what else was changed in it together with its tags is not seen;
7. what a redacted or purged record said, or that it was harmless; whether a purged run was held by its skill where the
   act doesn't say so (a forced purge says what it goes over, and stands in the journal), and whether it was really as old
   as a purge by age asks for, or, of one whose start never came, as the minimum age does: its skill and its date are gone
   with it;
8. true time: only that a run came before the first anchor that covers it, and after what its broker received before;
9. the deletion of everything, anchors included: somebody must expect a checkpoint and miss it (the policy's
   `anchor_age_s_max` makes verify do so);
10. what was written through a bare Storage, or by a release before the ledger: it reads `unproven`;
11. copies that left by the side: this is integrity, not secrecy;
12. whether a database had to be made again at all: who takes it away, or empties a part of it, where the topic no longer
    reaches back, leaves a lawful rebuild that lacks (`LEDGER_CUT`) what no record says any more. It is told, exit code 6, for
    ever, unless the verifier's policy names it, and a backup or another database that holds it meets the same seals. A cut that is only written into the database is
    signed by no sealer: it signs those that its consumer decided and kept beside `seal_state_file`, as long as nobody
    writes that file, too.
"""

NOT_COVERED: Final[Mapping[str, tuple[str, ...]]] = {
    "the `clock` of a run's start": ("runs.clock",),
    "a source's host, process, version, times and backlog, whether it lives, and how many runs it counted before its last word": (
        "sources.*",
    ),
    "events of runs of which no start came": ("orphans",),
    "calls of a bare Storage": ("calls",),
    "incidents and dead letters": ("incidents", "dead_letters"),
    "what is kept of refused and conflicting records beside their numbers": ("kept", "conflicts"),
    "what a purged run was, and how much a purge took": ("tombstones.*", "purges.*"),
    "where the control log holds an act, and when it was applied": (
        "acts.control_partition",
        "acts.control_offset",
        "acts.applied_us",
    ),
    "the times of leaves and checkpoints beside what is in them, and what anchors answered": (
        "journal.at_us",
        "checkpoints.signed_us",
        "checkpoints.published",
    ),
    "where an earlier release's record ended, which makes what is before it unproven": ("ledger_from",),
    "and everything that is made again from the rest: how far partitions were read, what is still to be done, caches": (
        "positions.*",
        "pending_acts",
        "redacted_runs",
        "runs.known",
        "runs.refused",
        "runs.received",
        "runs.first_offset",
        "runs.first_us",
        "meta",
    ),
}
"""What no proof covers, and the tables and columns that it is (`*`: those that the fuzz does not name as covered)."""

COLUMNS: Final = (
    textwrap.fill(f"Not covered by any proof, and held against nothing: {'; '.join(NOT_COVERED)}.", 120)
    + "\n"
)


def explanation() -> str:
    """All of it."""
    return f"{LIMITS}\n{COLUMNS}"
