"""Anchors: one suite for each of them, and what only one of them has."""

import asyncio
import os
import threading
import time
from dataclasses import replace

import pytest
from aiokafka import AIOKafkaProducer
from tests.proof.support import NAME, NOW_US, signer

from skillaudit.contract.errors import SettingsError, UnreachableError
from skillaudit.contract.settings import Settings
from skillaudit.producer.kafka import KafkaTopicAdmin
from skillaudit.producer.topics import TopicPlan
from skillaudit.proof import merkle
from skillaudit.proof.anchors import AnchorObject, kafka, newest_of, open_anchor
from skillaudit.proof.anchors.base import parse_object
from skillaudit.proof.checkpoint import Checkpoint
from skillaudit.proof.errors import AnchorConflictError, AnchorContentError, NewestUnknownError
from skillaudit.proof.leaves import SealLeaf, encode_act
from skillaudit.proof.policy import AnchorPolicy, Policy
from skillaudit.proof.tiles import parse_entries, tiles_between
from skillaudit.proof.verify.journal import judge_reading
from skillaudit.proof.verify.witness import read_anchor

DAY_US = 86_400_000_000


def leaf(number):
    return encode_act(b'{"n":%d}' % number)


def made(first, size, *, content=leaf, key=None):
    """An object of the journal whose leaves are `content(0)`, `content(1)`, ..."""
    leaves = [content(number) for number in range(size)]
    root = merkle.root_of(b"".join(map(merkle.leaf_hash, leaves)))
    note = Checkpoint(NAME, size, root).signed([key or signer()])
    return AnchorObject(first, tuple(leaves[first:]), note)


OBJECTS = [made(0, 2), made(2, 3), made(3, 7)]


@pytest.fixture
def file_anchor(tmp_path):
    return open_anchor(f"file:{tmp_path}/anchor")


@pytest.fixture
def topic(kafka_bootstrap, topic_names):
    settings = Settings(kafka_bootstrap_servers=kafka_bootstrap)
    make_topic(settings, topic_names.events)
    return topic_names.events, settings


def make_topic(settings, name, partitions=1, times="LogAppendTime"):
    async def make():
        config = {"message.timestamp.type": times, "retention.ms": "-1"}
        async with KafkaTopicAdmin(settings) as admin:
            await admin.create(TopicPlan(name=name, partitions=partitions, replication=1, config=config))

    asyncio.run(make())


@pytest.fixture
def kafka_anchor(topic):
    return open_anchor(f"kafka:{topic[0]}", topic[1])


@pytest.fixture(params=["file_anchor", pytest.param("kafka_anchor", marks=pytest.mark.broker)])
def anchor(request):
    opened = request.getfixturevalue(request.param)
    yield opened
    opened.close()
    opened.close()


def contents(anchor, after=0):
    return [stored.content for stored in anchor.objects(after)]


def test_an_anchor_keeps_what_it_was_given_in_order(anchor):
    """Empty at first; the newest, all, those beyond a size, and one by its size are read back."""
    assert anchor.newest() is None
    assert contents(anchor) == []
    assert anchor.publish([]) == []
    receipts = anchor.publish(OBJECTS[:1]) + anchor.publish(OBJECTS[1:])
    assert anchor.newest().content == OBJECTS[-1]
    assert contents(anchor) == OBJECTS
    assert contents(anchor, after=2) == OBJECTS[1:]
    assert contents(anchor, after=7) == []
    assert anchor.at(3).content == OBJECTS[1]
    assert anchor.at(4) is None
    stored = list(anchor.objects())
    assert [(r.at_us, r.place) for r in receipts] == [(s.at_us, s.place) for s in stored]
    assert all(abs(r.at_us - stored[0].at_us) < DAY_US for r in receipts)
    assert len({r.place for r in receipts}) == 3


def test_publishing_again_is_no_error(anchor):
    """After an answer that was lost on the way; also under another key of ours."""
    anchor.publish(OBJECTS)
    anchor.publish(OBJECTS[2:])
    anchor.publish([made(3, 7, key=signer(seed=2))])
    assert anchor.newest().content.checkpoint == OBJECTS[2].checkpoint
    assert anchor.at(7).content == OBJECTS[2]


def test_objects_as_large_as_they_may_be(anchor):
    """640 KiB of leaves and a checkpoint."""
    large = made(0, 10, content=lambda n: encode_act(b'{"n":%d%b}' % (n, b" " * 65_000)))
    anchor.publish([large])
    assert contents(anchor) == [large]


def test_an_object_is_what_the_format_says():
    """Byte for byte; what is nearly one names its place."""
    content = OBJECTS[1].encode()
    expected = b'skillaudit anchor 1\nleaves 2 1\n25:skillaudit act 1\n{"n":2}\n\n' + OBJECTS[1].note.encode()
    assert content == expected
    assert parse_object(content, "here") == OBJECTS[1]
    empty = made(2, 2)
    assert parse_object(empty.encode(), "here") == empty
    for wrong in (
        b"",
        content[:-9],
        content[:40],
        content.replace(b"leaves 2 1", b"leaves 2 2"),
        content.replace(b"leaves 2 1", b"leaves 3 1"),
        content.replace(b"25:", b"24:"),
        content.replace(b"25:", b"025:"),
        content.replace(b"25:", b"99999:"),
        content.replace(b"anchor 1", b"anchor 2"),
        content + b"\xff",
    ):
        with pytest.raises(AnchorContentError, match="here"):
            parse_object(wrong, "here")


# file:


def test_a_file_is_never_overwritten(file_anchor):
    """A journal of the same size with other leaves is a conflict, and what was there stays."""
    file_anchor.publish(OBJECTS)
    with pytest.raises(AnchorConflictError, match="another journal of 7"):
        file_anchor.publish([made(3, 7, content=lambda n: leaf(n + 1))])
    assert contents(file_anchor) == OBJECTS


def test_of_two_that_publish_at_once_one_wins_whole(file_anchor):
    """The files appear under their names complete, or not at all."""
    objects = [made(0, 40, content=lambda n, base=base: leaf(100 * base + n)) for base in range(6)]
    failed = []

    def publish(content):
        try:
            file_anchor.publish([content])
        except AnchorConflictError as exc:
            failed.append(exc)

    threads = [threading.Thread(target=publish, args=[content]) for content in objects]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(failed) == len(objects) - 1
    assert contents(file_anchor)[0] in objects


def test_complete_tiles_are_stored_too(file_anchor, tmp_path):
    """From its own objects, as the tree has them: nothing partial."""
    for first, size in ((0, 200), (200, 300), (300, 511), (511, 800)):
        file_anchor.publish([made(first, size)])
    hashes = b"".join(merkle.leaf_hash(leaf(n)) for n in range(800))
    complete = [tile for tile in tiles_between(0, 800) if tile.complete]
    base = tmp_path / "anchor"
    for tile in complete:
        assert (base / tile.path).read_bytes() == hashes[tile.first * 32 :][: 256 * 32]
        leaves = parse_entries((base / tile.entries_path).read_bytes())
        assert leaves == tuple(leaf(n) for n in range(tile.first, tile.first + 256))
    files = {path.relative_to(base).as_posix() for path in (base / "tile").rglob("*") if path.is_file()}
    assert files == {path for tile in complete for path in (tile.path, tile.entries_path)}


def test_tiles_that_a_crash_left_out_are_made_with_the_next_object(file_anchor, tmp_path):
    """The object is there first; where its tiles were not made any more, the next one makes them."""
    file_anchor.publish([made(0, 256)])
    names = [tmp_path / "anchor" / name for name in ("tile/0/000", "tile/entries/000")]
    before = [name.read_bytes() for name in names]
    for lost in (names[:1], names):
        for name in lost:
            name.unlink()
        size = file_anchor.newest().content.checkpoint.size
        file_anchor.publish([made(size, size + 1)])
        assert [name.read_bytes() for name in names] == before


def test_an_anchor_whose_objects_were_taken_away_is_named(file_anchor, tmp_path):
    """A tile can't be completed from what is not there."""
    file_anchor.publish([made(0, 200)])
    next((tmp_path / "anchor" / "objects").rglob("*200")).unlink()
    with pytest.raises(AnchorConflictError, match="taken away"):
        file_anchor.publish([made(200, 300)])


def test_damaged_files_and_directories_are_named(file_anchor, tmp_path):
    """Never read as if nothing were there."""
    file_anchor.publish(OBJECTS)
    path = next((tmp_path / "anchor" / "objects").rglob("*7"))
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(AnchorContentError, match=path.name):
        file_anchor.newest()
    (tmp_path / "file").write_text("")
    blocked = open_anchor(f"file:{tmp_path}/file")
    with pytest.raises(UnreachableError):
        blocked.publish(OBJECTS)
    with pytest.raises(UnreachableError):
        blocked.newest()


def test_others_may_read_what_is_published(file_anchor, tmp_path):
    """An auditor is somebody else; the umask decides."""
    old = os.umask(0o022)
    try:
        file_anchor.publish(OBJECTS)
    finally:
        os.umask(old)
    modes = {path.stat().st_mode & 0o777 for path in (tmp_path / "anchor").rglob("*") if path.is_file()}
    assert modes == {0o644}


def test_sizes_of_any_length_are_in_order(file_anchor):
    """Names are padded, and there are at most 4,096 in one directory."""
    notes = [Checkpoint(NAME, size, bytes(32)).signed([signer()]) for size in (9, 10, 4_095, 4_096, 1 << 40)]
    objects = [AnchorObject(parse(note), (), note) for note in notes]
    for content in objects:
        file_anchor._create(file_anchor._path(content.checkpoint.size), content.encode())
    assert contents(file_anchor) == objects
    assert contents(file_anchor, after=4_095) == objects[3:]
    assert file_anchor.newest().content == objects[-1]


def parse(note):
    return int(note.split("\n")[1])


# kafka:


@pytest.mark.broker
def test_a_repeated_old_object_does_not_hide_the_newest(kafka_anchor):
    """Somebody who may write there can repeat, not take away."""
    kafka_anchor.publish([*OBJECTS, OBJECTS[0]])
    assert kafka_anchor.newest().content == OBJECTS[-1]


MINUTE_MS = 60_000
BEGUN_MS = time.time_ns() // 1_000_000 - 500 * MINUTE_MS


def seal(number):
    return SealLeaf((BEGUN_MS + number * MINUTE_MS) * 1000, ()).encode()


MANY = [made(number, number + 1, content=seal) for number in range(500)]
"""One a minute, the newest just now."""


@pytest.fixture
def dated(topic):
    """An anchor in a topic whose records may bear any time, and what appends objects, as of a moment: by default now."""
    settings, name = topic[1], f"{topic[0]}.dated"
    make_topic(settings, name, times="CreateTime")

    async def send(objects, at_ms):
        async with AIOKafkaProducer(bootstrap_servers=settings.kafka_bootstrap_servers) as producer:
            sent = [
                await producer.send(name, it.encode(), partition=0, timestamp_ms=at_ms(it)) for it in objects
            ]
            await asyncio.gather(*sent)

    def append(objects, at_ms=lambda _: time.time_ns() // 1_000_000):
        asyncio.run(send(objects, at_ms))

    return open_anchor(f"kafka:{name}", settings), append


def in_their_time(content):
    return BEGUN_MS + (content.checkpoint.size - 1) * MINUTE_MS


@pytest.mark.broker
def test_the_newest_objects_are_read_from_the_end(dated):
    """A year of objects is half a million: what a check needs of them stands at the end, and little else is read."""
    kafka_anchor, append = dated
    append(MANY, in_their_time)
    assert contents(kafka_anchor, after=490) == MANY[490:]
    assert kafka_anchor.records_read <= 300
    before = kafka_anchor.records_read
    assert kafka_anchor.newest().content == MANY[-1]
    assert kafka_anchor.records_read - before <= 16
    assert contents(kafka_anchor, after=20) == MANY[20:]


@pytest.mark.broker
def test_many_old_objects_said_again_do_not_hide_the_newest(dated):
    """In the order of a journal, and more of them than are looked at first: all since the time of which they speak is read."""
    kafka_anchor, append = dated
    append(MANY, in_their_time)
    append([*MANY[:490], MANY[495], MANY[480]])
    assert kafka_anchor.newest().content == MANY[-1]
    assert kafka_anchor.records_read <= 600
    policy = Policy(anchors=(AnchorPolicy(kafka_anchor.uri),))
    [checkpoint] = read_anchor(kafka_anchor, policy.anchors[0], policy, newest_only=True).checkpoints
    assert checkpoint.size == 500


@pytest.mark.broker
def test_more_old_objects_than_are_read_leave_the_newest_unknown(dated):
    """Never taken for what there is: the check of one run says that it can't be told, that of all reads on."""
    kafka_anchor, append = dated
    append(MANY, in_their_time)
    append(MANY[:490] * 21)
    with pytest.raises(NewestUnknownError, match="10,000 records"):
        kafka_anchor.newest()
    entry = AnchorPolicy(kafka_anchor.uri)
    policy = Policy(anchors=(entry,))
    one = read_anchor(kafka_anchor, entry, policy, newest_only=True)
    assert (one.checkpoints, "verify --all" in one.error, one.altered) == ((), True, False)
    every = read_anchor(kafka_anchor, entry, policy)
    assert max(it.size for it in every.checkpoints) == 500
    assert "CHECKPOINT_OLDER" in {it.kind for it in judge_reading(every, policy)}


@pytest.mark.broker
def test_a_newest_object_that_is_dated_ahead_is_told_by_its_size(dated, monkeypatch):
    """A clock was wrong once, and the topic is long: nobody can say by times that nothing newer is there. Who goes on from it
    takes the largest of what stands near the end, and the next object is dated right again.
    """
    monkeypatch.setattr(kafka, "NEWEST_RECORDS_MAX", 100)
    kafka_anchor, append = dated
    ahead = SealLeaf((BEGUN_MS + 10_000 * MINUTE_MS) * 1000, ()).encode()
    append(MANY, in_their_time)
    newest = AnchorObject(500, (ahead,), made(500, 501, content=lambda n: seal(n) if n < 500 else ahead).note)
    append([newest])
    with pytest.raises(NewestUnknownError):
        kafka_anchor.newest()
    for known in (501, 490, 0):
        assert newest_of(kafka_anchor, known).content == newest
    append([made(501, 502, content=lambda n: ahead if n == 500 else seal(n))])
    assert kafka_anchor.newest().content.checkpoint.size == 502


@pytest.mark.broker
def test_what_speaks_of_no_time_hides_nothing(dated):
    """An old checkpoint over leaves that say none, or one to come: as many records are read as may be."""
    kafka_anchor, append = dated
    append(MANY, in_their_time)
    note = MANY[495].note
    to_come = SealLeaf((BEGUN_MS + 10_000 * MINUTE_MS) * 1000, ()).encode()
    for leaf_there in (leaf(1), to_come):
        append([AnchorObject(495, (leaf_there,), note)] * 40)
        assert kafka_anchor.newest().content == MANY[-1]


@pytest.mark.broker
def test_old_objects_said_again_hide_no_newer_ones(kafka_anchor):
    """Who may only append puts many old ones behind those that he wants to be overlooked."""
    kafka_anchor.publish([*MANY[:300], *MANY[:250], MANY[260]])
    found = [content.checkpoint.size for content in contents(kafka_anchor, after=255)]
    assert found == [*range(256, 301), 261]


@pytest.mark.broker
def test_a_record_that_is_no_object_is_named_by_its_offset(kafka_anchor, topic):
    """A verifier is told, whoever put it there."""
    kafka_anchor.publish(OBJECTS[:1])

    async def send():
        producer = AIOKafkaProducer(bootstrap_servers=topic[1].kafka_bootstrap_servers)
        await producer.start()
        await producer.send_and_wait(topic[0], b"something")
        await producer.stop()

    asyncio.run(send())
    with pytest.raises(AnchorContentError, match="/0#1 "):
        kafka_anchor.newest()


@pytest.mark.broker
def test_a_topic_that_can_be_no_anchor_is_refused(topic):
    """Missing: it is never created by the way; of several partitions: there is no order."""
    settings = topic[1]
    missing = open_anchor(f"kafka:{topic[0]}.missing", settings)
    for call in (missing.newest, lambda: missing.publish(OBJECTS)):
        with pytest.raises(UnreachableError, match="skillaudit topics"):
            call()
    make_topic(settings, f"{topic[0]}.wide", partitions=2)
    with pytest.raises(SettingsError, match="one partition"):
        open_anchor(f"kafka:{topic[0]}.wide", settings).publish(OBJECTS)


def test_a_broker_out_of_reach_is_said_within_the_bound():
    """Nobody listens at the address."""
    settings = Settings(kafka_bootstrap_servers="127.0.0.1:1", kafka_request_timeout_ms=1_000)
    anchor = open_anchor("kafka:topic", settings)
    with pytest.raises(UnreachableError, match=r"127\.0\.0\.1:1"):
        anchor.publish(OBJECTS)
    with pytest.raises(UnreachableError):
        anchor.newest()
    elsewhere = open_anchor("kafka://127.0.0.1:2/topic", settings)
    with pytest.raises(UnreachableError, match=r"127\.0\.0\.1:2"):
        elsewhere.newest()


@pytest.mark.parametrize(
    ("uri", "says"),
    [
        ("", "a URI like"),
        ("/some/path", "a URI like"),
        ("file:", "a URI like"),
        ("file://host/path", "this machine"),
        ("file:/path?x=1", "this machine"),
        ("https://witness.example", "not there yet"),
        ("exec:git push", "not there yet"),
        ("witness:x", "not there yet"),
        ("ftp:x", "no anchor is called"),
        ("kafka:a topic", "names no topic"),
        ("kafka://host:9092/", "names no topic"),
    ],
)
def test_an_address_that_names_no_anchor_is_refused(uri, says):
    """The text says what to write instead."""
    with pytest.raises(SettingsError, match=says):
        open_anchor(uri, replace(Settings(), kafka_bootstrap_servers="x:1"))


def test_a_topic_needs_a_broker():
    """In the settings or in the address."""
    with pytest.raises(SettingsError, match="kafka_bootstrap_servers"):
        open_anchor("kafka:topic")


def test_receipts_are_of_the_anchors_own_time(file_anchor):
    """Not of whoever publishes."""
    (receipt,) = file_anchor.publish(OBJECTS[:1])
    assert receipt.at_us != NOW_US
    assert receipt.at_us == file_anchor.newest().at_us
