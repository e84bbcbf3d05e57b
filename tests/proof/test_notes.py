"""Signed notes, checkpoints and keys, as C2SP writes them."""

import base64
import os
import stat

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.proof.support import NAME, signer

from skillaudit.contract.errors import SettingsError
from skillaudit.proof.checkpoint import Checkpoint, open_checkpoint, parse_checkpoint
from skillaudit.proof.errors import NoteError
from skillaudit.proof.keys import Signer, generate_key, parse_verifier, read_key
from skillaudit.proof.notes import parse_note, sign_note

CHECKPOINT = Checkpoint(NAME, 70_000, bytes(range(32)))
NOTE = CHECKPOINT.signed([signer()])


def test_a_note_of_go_is_opened():
    """The example of golang.org/x/mod/sumdb/note's documentation, of another implementation."""
    key = parse_verifier("PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW")
    note = parse_note(
        "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n\n"
        "\N{EM DASH} PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
    )
    assert note.verified_by([key]) == (key,)
    with pytest.raises(NoteError, match="not over this text"):
        type(note)(note.text + "more\n", note.signatures).verified_by([key])


def test_a_checkpoint_is_three_lines_and_signatures():
    """Origin, size, root; each key adds one line."""
    lines = NOTE.split("\n")
    assert lines[:3] == [NAME, "70000", base64.b64encode(bytes(range(32))).decode()]
    assert lines[3] == ""
    assert lines[4].startswith(f"\N{EM DASH} {NAME} ")
    assert lines[5:] == [""]
    assert len(NOTE.encode()) < 300


def test_only_keys_that_are_given_count():
    """A note by unknown keys opens, signed by nobody; by several, each of them counts once."""
    one, two = signer(), signer(seed=2)
    both = CHECKPOINT.signed([one, two])
    keys = [one.verifier, two.verifier]
    assert open_checkpoint(both, keys) == (CHECKPOINT, tuple(keys))
    assert open_checkpoint(both, keys[1:]) == (CHECKPOINT, (two.verifier,))
    assert open_checkpoint(both, [signer(seed=3).verifier]) == (CHECKPOINT, ())
    assert open_checkpoint(NOTE + NOTE.split("\n")[4] + "\n", keys) == (CHECKPOINT, (one.verifier,))


@settings(deadline=None)
@given(st.data())
def test_no_changed_byte_of_a_note_is_accepted(data):
    """It is no note any more, or no longer signed by the key."""
    changed = bytearray(NOTE.encode())
    at = data.draw(st.integers(0, len(changed) - 1))
    changed[at] ^= data.draw(st.integers(1, 255))
    try:
        text = changed.decode()
    except UnicodeDecodeError:
        return
    try:
        checkpoint, by = open_checkpoint(text, [signer().verifier])
    except NoteError:
        return
    assert not by or (checkpoint == CHECKPOINT and text == NOTE)


@pytest.mark.parametrize(
    "note",
    [
        "",
        "text\n",
        "text\n\n",
        "\n\n\N{EM DASH} name AAAAAAA=\n",
        "text\n\n- name AAAAAAA=\n",
        "text\n\n\N{EM DASH} name\n",
        "text\n\n\N{EM DASH} name AAAA\n",
        "text\n\n\N{EM DASH} na+me AAAAAAA=\n",
        "text\n\n\N{EM DASH} name AAAAAAA=",
        "text\n\n\N{EM DASH} name !!!!!!!=\n",
        "text\n\n\N{EM DASH} name AAAAAAB=\n",
        "te\rxt\n\n\N{EM DASH} name AAAAAAA=\n",
        "text\n\n" + "\N{EM DASH} name AAAAAAA=\n" * 101,
        "x" * 1_000_001,
    ],
)
def test_what_is_no_note_is_refused(note):
    """By its form, before any signature is looked at."""
    with pytest.raises(NoteError):
        parse_note(note)


ROOT = base64.b64encode(bytes(32)).decode()


@pytest.mark.parametrize(
    "text",
    [
        "",
        f"o\n1\n{ROOT}",
        f"o\n1\n{ROOT}\nextension\n",
        f"o\n01\n{ROOT}\n",
        f"o\n-1\n{ROOT}\n",
        f"o\n4611686018427387905\n{ROOT}\n",
        f"\n1\n{ROOT}\n",
        f"o o\n1\n{ROOT}\n",
        f"o\n1\n{ROOT[:-4]}\n",
        f"o\n1\n{ROOT[:-2]}B=\n",
        "o\n1\n???\n",
    ],
)
def test_what_is_no_checkpoint_is_refused(text):
    """Extension lines included: nobody here writes any."""
    with pytest.raises(NoteError):
        parse_checkpoint(text)


def test_a_text_that_can_not_be_a_note_is_not_signed():
    """Nor is a text without a key."""
    for text in ("", "no line end", "control\x01\n"):
        with pytest.raises(NoteError):
            sign_note(text, [signer()])
    with pytest.raises(NoteError):
        sign_note("text\n", [])
    for name in ("", "a b", "a+b", "a\nb"):
        with pytest.raises(NoteError):
            Signer(name, bytes(32))
        with pytest.raises(NoteError):
            Checkpoint(name, 1, bytes(32)).signed([signer()])


def test_a_key_is_read_back_from_a_file_nobody_else_can_read(tmp_path):
    """Its verifier key is text that may be shown."""
    old = os.umask(0)
    try:
        made = generate_key(tmp_path / "key", NAME)
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600
    key = read_key(tmp_path / "key")
    assert key.verifier == made == parse_verifier(made.text)
    assert made.verify(b"message", key.sign(b"message"))
    assert not made.verify(b"other", key.sign(b"message"))
    assert not made.verify(b"message", b"short")
    secret = (tmp_path / "key").read_text().strip().split("+", 4)[4]  # base64, which may hold a plus itself
    assert len(secret) > 40
    assert secret not in repr(key)


def test_a_key_is_never_overwritten(tmp_path):
    """Nor written through a link."""
    made = generate_key(tmp_path / "key", NAME)
    with pytest.raises(SettingsError, match="never overwritten"):
        generate_key(tmp_path / "key", NAME)
    assert read_key(tmp_path / "key").verifier == made
    (tmp_path / "link").symlink_to(tmp_path / "target")
    with pytest.raises(SettingsError):
        generate_key(tmp_path / "link", NAME)
    assert not (tmp_path / "target").exists()
    with pytest.raises(SettingsError, match="can't make"):
        generate_key(tmp_path / "missing" / "key", NAME)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644, 0o610])
def test_a_key_that_others_can_reach_is_refused(tmp_path, mode):
    """The text says what to do."""
    generate_key(tmp_path / "key", NAME)
    (tmp_path / "key").chmod(mode)
    with pytest.raises(SettingsError, match="chmod 600"):
        read_key(tmp_path / "key")


def test_a_file_without_a_key_is_refused_and_not_quoted(tmp_path):
    """Missing, a directory, or with something else in it, like a key that was cut off."""
    with pytest.raises(SettingsError, match="can't read"):
        read_key(tmp_path / "none")
    with pytest.raises(SettingsError, match="directory"):
        read_key(tmp_path)
    generate_key(tmp_path / "key", NAME)
    text = (tmp_path / "key").read_text()
    for changed in (
        "",
        text[:-9],
        text.replace("PRIVATE", "PUBLIC"),
        text.replace("fleet-1", "fleet-2"),
        "\xff",
    ):
        (tmp_path / "key").write_text(changed, encoding="latin-1")
        with pytest.raises(SettingsError, match="no private key") as caught:
            read_key(tmp_path / "key")
        assert text.rpartition("+")[2].strip() not in str(caught.value)


@pytest.mark.parametrize(
    "change", [("+c74f20a3", "+c74f20a4"), ("ARpc", "AhpC"), ("10TW", ""), ("+", " "), ("c7", "zz")]
)
def test_a_verifier_key_that_was_changed_is_refused(change):
    """Its id is made from name and key."""
    with pytest.raises(NoteError):
        parse_verifier(
            "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW".replace(*change, 1)
        )
