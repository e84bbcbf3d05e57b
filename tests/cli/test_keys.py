"""Keys of the journal: changed by an act and a time of signing with both, and kept apart from the database or told."""

import asyncio
import json
import logging
from dataclasses import replace

import pytest
from prometheus_client import generate_latest
from tests.attacks.world import Store, Topic, record_fleet
from tests.conformance.compositions import settings_at
from tests.consumer.test_notary import consuming, elsewhere, record_runs

from skillaudit.consumer.metrics import make_registry
from skillaudit.consumer.notary import Notary, WriterAccess, kept_too_near, read_signing
from skillaudit.consumer.service import ConsumerService
from skillaudit.contract.clock import SystemClock
from skillaudit.contract.errors import SettingsError
from skillaudit.proof import proving
from skillaudit.proof.errors import AnchorContentError
from skillaudit.proof.keys import generate_key

NAME = "audit.example.org/fleet-1"


@pytest.fixture
def keys(tmp_path):
    """The verifiers' halves of three keys of one journal, by the names of their files."""
    apart = tmp_path / "keys"
    apart.mkdir()
    return {name: generate_key(apart / name, NAME).text for name in ("old", "new", "newer")}


@pytest.fixture
def settings(tmp_path, keys):
    """Sealed every second, signed by the old key, anchored; nothing of that in the data directory."""
    return replace(
        settings_at(tmp_path / "data"),
        outbox_free_bytes_min=0,
        seal_interval_ms=1_000,
        seal_key_file=tmp_path / "keys" / "old",
        seal_state_file=tmp_path / "signed",
        anchors=f"file:{tmp_path / 'anchor'}",
    )


def consume(settings):
    """Some runs more, sealed, signed and anchored at the consumer's end."""

    async def consumed():
        async with consuming(settings):
            pass

    record_runs(settings)
    asyncio.run(consumed())


@pytest.fixture
def verified(command, tmp_path):
    """Exit code and names of what `verify --all` finds, by a policy that names these keys."""

    def verify(settings, *keys, anchors=True):
        policy = tmp_path / "policy.toml"
        names = ", ".join(f'"{key}"' for key in keys)
        asked = f'[[anchors]]\nuri = "{settings.anchors}"\n' if anchors else ""
        policy.write_text(f"keys = [{names}]\n{asked}")
        said = command("verify", "--all", "--policy", str(policy), "--json", settings=settings)
        return said.code, {found["kind"]: found for found in json.loads(said.out)["findings"]}

    return verify


def test_keys_change_by_an_act_and_by_signing_with_both(command, verified, settings, keys, tmp_path):
    """The old policy holds as long as both sign; one that knows both holds for ever; a signer without an act is told."""
    consume(settings)
    assert verified(settings, keys["old"]) == (0, {})
    both = replace(
        settings, seal_key_file=tmp_path / "keys" / "new", seal_former_key_file=tmp_path / "keys" / "old"
    )
    assert command("keys", "record", settings=both).code == 0
    consume(both)
    assert verified(both, keys["old"]) == (0, {})
    assert verified(both, keys["old"], keys["new"]) == (0, {})
    alone = replace(both, seal_former_key_file=None)
    consume(alone)
    code, found = verified(alone, keys["old"])
    assert (code, "UNKNOWN_KEY" in found) == (6, True), "the old key no longer signs what is new"
    assert verified(alone, keys["old"], keys["new"]) == (0, {})
    code, found = verified(alone, keys["new"])
    assert (code, set(found)) == (6, {"UNKNOWN_KEY"}), "what only the old key signed"
    unsaid = replace(
        alone, seal_key_file=tmp_path / "keys" / "newer", seal_former_key_file=tmp_path / "keys" / "new"
    )
    consume(unsaid)
    code, found = verified(unsaid, *keys.values())
    assert (code, set(found)) == (0, {"KEY_UNRECORDED"})
    told = found["KEY_UNRECORDED"]
    assert (told["severity"], told["key"]) == ("note", "+".join(keys["newer"].split("+")[:2]))
    assert command("keys", "record", settings=unsaid).code == 0
    consume(unsaid)
    assert verified(unsaid, *keys.values()) == (0, {})


def test_where_no_key_is_recorded_none_is_told_to_be_unrecorded(verified, settings, keys, tmp_path):
    """Recording is the operator's choice."""
    consume(settings)
    consume(
        replace(
            settings, seal_key_file=tmp_path / "keys" / "new", seal_former_key_file=tmp_path / "keys" / "old"
        )
    )
    assert verified(settings, keys["old"], keys["new"]) == (0, {})


def test_a_key_that_signs_no_more_still_counts_by_its_verifiers_half(verified, settings, keys, tmp_path):
    """A leaked key is replaced at once; and what only it signed is taken from an anchor when a database is made again."""
    consume(settings)
    former = tmp_path / "former"
    former.write_text(f"{keys['newer']}\n{keys['old']}\n")
    now = replace(settings, seal_key_file=tmp_path / "keys" / "new", seal_former_key_file=former)
    signing = read_signing(now)
    assert [it.verifier.text for it in signing.signers] == [keys["new"]]
    assert [it.text for it in signing.former] == [keys["newer"], keys["old"]]
    consume(now)
    again = elsewhere(now, tmp_path)
    (settings.outbox_dir / "reader").unlink()
    with pytest.raises(AnchorContentError, match="none of the keys given"):
        consume(replace(again, seal_former_key_file=None))
    again = replace(again, db_file=tmp_path / "once-more.duckdb")
    (settings.outbox_dir / "reader").unlink(missing_ok=True)
    consume(again)
    assert verified(again, keys["old"], keys["new"], anchors=False)[0] == 0


def test_a_file_of_former_keys_that_holds_something_else_is_refused(settings, tmp_path):
    """By name, and before anything is consumed; a private key in it is nobody else's to read."""
    former = tmp_path / "former"
    for content, says in (("", "holds no key"), ("x+y\n", "something else than keys")):
        former.write_text(content)
        with pytest.raises(SettingsError, match=says):
            read_signing(replace(settings, seal_former_key_file=former))
    old = tmp_path / "keys" / "old"
    old.chmod(0o644)
    with pytest.raises(SettingsError, match="chmod 600"):
        read_signing(replace(settings, seal_key_file=tmp_path / "keys" / "new", seal_former_key_file=old))


def test_what_lies_in_the_data_directory_is_told_once(settings, tmp_path, caplog):
    """The key, a former key, the state; by whichever way the path leads there."""
    assert kept_too_near(settings) == []
    assert kept_too_near(replace(settings, seal_key_file=None, seal_state_file=None, anchors="")) == []
    settings.data.mkdir(exist_ok=True)
    (tmp_path / "link").symlink_to(settings.data)
    generate_key(settings.data / "key", NAME)
    near = replace(settings, seal_key_file=tmp_path / "link" / "key", seal_state_file=None)
    first, second = kept_too_near(near)
    assert "whoever gets at the database can sign" in first
    assert "seal_state_file" in second
    with caplog.at_level(logging.WARNING, logger="skillaudit.consumer"):
        consume(near)
    assert [text for text in caplog.messages if "data directory" in text] == [first, second]
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger="skillaudit.consumer"):
        consume(replace(settings, data=tmp_path / "other", anchors="", seal_state_file=tmp_path / "state"))
    assert not [text for text in caplog.messages if "data directory" in text]


def test_a_new_key_in_the_data_directory_is_told(command, settings, tmp_path):
    """At once, where it is made."""
    settings.data.mkdir(exist_ok=True)
    near = command("keys", "new", str(settings.data / "key"), "--name", NAME, settings=settings)
    assert (near.code, "lies in the data directory" in " ".join(near.err.split())) == (0, True)
    apart = command("keys", "new", str(tmp_path / "apart"), "--name", NAME, settings=settings)
    assert (apart.code, "data directory" in apart.err) == (0, False)


def test_runs_that_are_sealed_unchecked_are_counted(settings, tmp_path, monkeypatch, caplog):
    """In the status and the metrics, and said in the log the first time."""
    monkeypatch.setattr(proving, "EVENTS_MAX", 100)
    topic, store = Topic(), Store(tmp_path / "audit.duckdb")
    store.take(topic, [record for stage in record_fleet(topic) for record in stage])
    notary = Notary(settings, WriterAccess(lambda: store.materializer), SystemClock())
    with caplog.at_level(logging.WARNING, logger="skillaudit.consumer"):
        notary.step(force=True)
        notary.step(force=True)
    notary.close()
    store.close()
    unchecked = notary.status.unchecked_runs
    assert 20 < unchecked < 35
    assert [text for text in caplog.messages if f"{unchecked} runs left" in text] == caplog.messages
    service = ConsumerService(settings, seal=True)
    service.status.notary = notary.status
    assert (
        f"skillaudit_seal_unchecked_runs_total {unchecked}.0"
        in generate_latest(make_registry(service)).decode()
    )
