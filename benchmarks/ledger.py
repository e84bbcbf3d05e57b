"""digest_1kb_us, ledger_cost, proof_bytes_share: what the proof costs the caller, ingest, and the disk.

`digest_1kb_us`: header, digest and manifest of a log of 1 kB, as the Writer makes them, in processor time.

`ledger_cost`: CPU time of the materializer on the same records with the ledger and without, in turn; events as of
`materialize`. `proof_bytes_share`: a database of a fleet's runs with everything the proof needs (tags, salts, heads,
ledger, journal, checkpoints), against the same tables without, both written anew and compressed the same way. Payloads
are random words, 400 bytes of them, which zstd brings to about a third.
"""

from __future__ import annotations

import contextlib
import gc
import random
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb

import benchmarks.materialize as fleet
from benchmarks.harness import median, result
from skillaudit.consumer.database import open_database
from skillaudit.consumer.materializer import Materializer
from skillaudit.consumer.notary import Notary, WriterAccess
from skillaudit.contract.clock import SystemClock
from skillaudit.contract.digests import RunDigest, log_header
from skillaudit.contract.settings import Settings
from skillaudit.contract.sources import SourceRecord
from skillaudit.producer import Sink, SkillRun
from skillaudit.producer.publisher import partition_for
from skillaudit.proof.keys import generate_key

ROUNDS = 7
SHARE_RUNS = 2_400
WORDS = [f"{number:x}{'aeiou'[number % 5]}" for number in range(7, 60_007, 29)]
WORDS_EACH = 75

DIGESTS = 5_000
DIGEST_ROUNDS = 40
EVENT_BYTES = 1_000

Items = list[tuple[bytes, bytes]]


class Unledgered(Materializer):
    """The product without its ledger."""

    def _take(self, *arguments: Any, ledger: bool) -> int:
        del ledger
        return super()._take(*arguments, ledger=False)


def records_of(items: Items) -> list[SourceRecord]:
    place = [partition_for(key, fleet.PARTITIONS) for key, _ in items]
    return [
        SourceRecord(f"bench/{at}", n, n + 1, 1_700_000_000_000_000 + n, key, value)
        for n, (at, (key, value)) in enumerate(zip(place, items, strict=True))
    ]


def apply_all(kind: type[Materializer], records: Sequence[SourceRecord]) -> float:
    """CPU seconds."""
    gc.collect()
    with (
        tempfile.TemporaryDirectory() as directory,
        open_database(Path(directory) / "bench.duckdb") as database,
        contextlib.closing(kind(database, identity="bench")) as materializer,
    ):
        began = time.process_time()
        for at in range(0, len(records), fleet.FETCH_RECORDS):
            materializer.apply(records[at : at + fleet.FETCH_RECORDS])
        return time.process_time() - began


def cost(records: Sequence[SourceRecord]) -> tuple[float, float, float]:
    """Median microseconds per event with and without, and the median of the rounds' ratios."""
    apply_all(Materializer, records)
    pairs = []
    for number in range(ROUNDS):
        kinds = (Materializer, Unledgered) if number % 2 else (Unledgered, Materializer)
        found = {kind: apply_all(kind, records) for kind in kinds}
        pairs.append((found[Materializer], found[Unledgered]))
    each = 1e6 / len(records)
    ratio = median([ours / bare for ours, bare in pairs])
    return median([a for a, _ in pairs]) * each, median([b for _, b in pairs]) * each, ratio


def digest_us() -> float:
    """Of the quietest round: what others take of the machine only adds."""
    body, taken = random.Random(3).randbytes(EVENT_BYTES), []
    for _ in range(DIGEST_ROUNDS):
        digest = RunDigest("0199f0a0-0000-7000-8000-000000000001", "5" * 32)
        began = time.process_time()
        for seq in range(DIGESTS):
            header = log_header(seq, 1_700_000_000_000_000 + seq, "step")
            digest.add(header, digest.digest(seq, header, body))
        taken.append((time.process_time() - began) / DIGESTS * 1e6)
    return min(taken)


def fleets_events() -> Items:
    log = fleet.Collector()
    sink, chance = Sink(log), random.Random(5)
    for _ in range(SHARE_RUNS // fleet.OPEN_AT_ONCE):
        runs = [
            sink.start_run(
                SkillRun(skill_id=f"s-{n % 9}", caller_id=f"u-{n}", inputs={"q": words(chance, 12)})
            )
            for n in range(fleet.OPEN_AT_ONCE)
        ]
        for _ in range(fleet.PER_RUN - 2):
            for run in runs:
                run.log("step", {"content": words(chance, WORDS_EACH), "model": "m"})
        for run in runs:
            run.finish(output=words(chance, 30))
    sink.close()
    return log.items


def words(chance: random.Random, count: int) -> str:
    return " ".join(chance.choices(WORDS, k=count))


def share(items: Items) -> tuple[float, float]:
    """Bytes of the database with and without what the proof needs."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        generate_key(directory / "key", "bench.example.org/log")
        settings = Settings(
            data=directory / "data",
            seal_key_file=directory / "key",
            seal_state_file=directory / "state",
            anchors=f"file:{directory / 'anchor'}",
        )
        with (
            open_database(settings.database) as database,
            contextlib.closing(Materializer(database, identity="bench")) as materializer,
        ):
            notary = Notary(settings, WriterAccess(lambda: materializer), SystemClock())
            records = records_of(items)
            for at in range(0, len(records), fleet.FETCH_RECORDS):
                materializer.apply(records[at : at + fleet.FETCH_RECORDS])
            notary.step(force=True)
            notary.publish()
            notary.close()
            materializer.sealer.seal()
        return written_anew(settings.database, directory / "with", bare=False), written_anew(
            settings.database, directory / "without", bare=True
        )


PROOF_TABLES = {"ledger", "ledger_from", "journal", "journal_nodes", "checkpoints"}
PROOF_COLUMNS = {"tag", "salt", "start_tag", "finish_tag", "head", "source_seq"}


def written_anew(source: Path, target: Path, *, bare: bool) -> int:
    """Size of a copy of the tables, in their order."""
    config = {"storage_compatibility_version": "v1.5.0"}
    with contextlib.closing(duckdb.connect(str(target), config=config)) as copy:
        copy.execute(f"ATTACH '{source}' AS old (READ_ONLY)")
        copy.execute("CREATE SCHEMA store")
        tables = copy.execute(
            "SELECT table_name, list((column_name, data_type) ORDER BY column_index) FROM duckdb_columns()"
            " WHERE database_name = 'old' AND schema_name = 'store' GROUP BY table_name"
        ).fetchall()
        for table, columns in tables:
            if bare and table in PROOF_TABLES:
                continue
            kept = [(n, t) for n, t in columns if not (bare and n in PROOF_COLUMNS)]
            zstd = " USING COMPRESSION zstd"
            made = ", ".join(
                f"{n} {t}{zstd if (table, n) == ('events_sealed', 'payload') else ''}" for n, t in kept
            )
            copy.execute(f"CREATE TABLE store.{table} ({made})")
            copy.execute(
                f"INSERT INTO store.{table} SELECT {', '.join(n for n, _ in kept)} FROM old.store.{table}"
            )
        copy.execute("CHECKPOINT")
    return target.stat().st_size


def main() -> list[dict[str, Any]]:
    events = fleet.EVENTS
    fleet.EVENTS = 125_000
    try:
        records = records_of(fleet.events())
    finally:
        fleet.EVENTS = events
    ours, bare, ratio = cost(records)
    whole, without = share(fleets_events())
    return [
        result("digest_1kb_us", digest_us(), "us of CPU per event of 1 kB", goal="value <= 3.5"),
        result(
            "ledger_cost",
            ours,
            "us of CPU per event",
            baseline="the same without the ledger",
            baseline_value=bare,
            ratio=ratio,
        ),
        result(
            "proof_bytes_share",
            100 * (whole - without) / whole,
            f"% of a database of {whole / 1e6:.0f} MB, {SHARE_RUNS * fleet.PER_RUN} events",
            goal="value <= 7",
        ),
    ]
