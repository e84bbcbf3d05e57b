"""`purge`, `redact`, `erase`, `hold`, `release`, `acts`, `restore`, `keys`: exit codes, JSON, and the question before."""

import getpass
import json
import stat
from dataclasses import replace

import pytest
from tests.conformance.compositions import settings_at

from skillaudit.producer import Sink, SkillRun


@pytest.fixture
def settings(tmp_path):
    """Two finished runs in a directory of their own; nobody owns it."""
    settings = settings_at(tmp_path / "data")
    with Sink.from_settings(settings) as sink:
        for run_id in ("a", "b"):
            with sink.start_run(SkillRun(id=run_id, skill_id="s", caller_id="ada")) as run:
                run.step("secret")
    return settings


@pytest.fixture
def act(command, settings):
    """A command on that directory, its JSON."""
    assert command("runs", settings=settings).code == 0  # reads in what waits

    def call(*words, code=0):
        said = command(*words, "--json", settings=settings)
        assert said.code == code, said.err
        return json.loads(said.out) if said.out else said

    return call


def test_the_way_of_a_run(command, act, settings):
    """Held, so not erased; released, erased, purged; each is in the list with who and why."""
    hold = act("hold", "a", "--reason", "case 7")["acts"][0]
    assert command("erase", "a", "--yes", settings=settings).code == 1
    assert act("acts", "--holds")[0]["runs"] == ["a"]
    act("release", hold, "--actor", "grace")
    assert act("erase", "--caller", "ada", "--yes")["runs"] == 2
    assert act("redact", "a", "1", "--yes")["acts"] == []
    assert "_redacted" in command("show", "a", settings=settings).out
    assert act("purge", "--before", "2100-01-01", "--yes")["runs"] == 2
    listed = act("acts")
    assert [it["kind"] for it in listed] == ["purge", "erase", "release", "hold"]
    assert [it["actor"] for it in listed] == [
        getpass.getuser(),
        getpass.getuser(),
        "grace",
        getpass.getuser(),
    ]
    assert listed[-1]["reason"] == "case 7"
    table = command("acts", "--kind", "hold", settings=settings)
    assert "case 7" in table.out
    assert table.err.endswith("1 act\n")


def test_a_purge_of_what_is_held(command, act, settings):
    """1 where all of it is kept, naming the hold; 4 where some is; what is kept is told in every case."""
    hold = act("hold", "a", "--reason", "case 7")["acts"][0]
    said = command("purge", "a", "--yes", settings=settings)
    assert (said.code, said.out) == (1, "nothing was done\n")
    assert f"1 run kept by the hold {hold}" in said.err
    assert act("purge", "a", "--yes", code=1) == {
        "acts": [], "runs": 0, "events": 0, "held": 1, "young": 0, "holds": [hold],
    }  # fmt: skip
    everything = act("hold", "--all")["acts"][0]
    assert act("purge", "a", "b", "--yes", code=1)["holds"] == [hold, everything]
    said = command("erase", "a", "--yes", settings=settings)
    assert (said.code, said.out) == (1, "")
    assert hold in said.err, "by which hold, too"
    act("release", everything)
    said = command("purge", "a", "b", "--yes", settings=settings)
    assert said.code == 4
    assert said.out.startswith("1 run and 1 event deleted\nact ")
    assert f"1 run kept by the hold {hold}" in said.err
    said = command("purge", "--before", "2100-01-01", "--yes", settings=settings)
    assert (said.code, said.out) == (0, "nothing was done\n"), (
        "a retention that meets a hold has done its work"
    )
    assert f"1 run kept by the hold {hold}" in said.err
    act("release", hold)
    assert act("purge", "a", "--yes")["runs"] == 1


@pytest.mark.parametrize(
    ("words", "code"), [(("a",), 1), (("--before", "2100-01-01"), 0)], ids=["named", "by age"]
)
def test_a_purge_of_what_is_too_young(command, act, settings, words, code):
    """The minimum age is told with how many it keeps."""
    said = command("purge", *words, "--yes", settings=replace(settings, min_retention_days=7))
    assert (said.code, said.out) == (code, "nothing was done\n")
    assert f"{len(words)} run" in said.err
    assert "min_retention_days" in said.err
    assert act("acts") == []


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("purge", "--yes"), 2),
        (("purge", "a", "--before", "1d", "--yes"), 2),
        (("purge", "a"), 2),  # nobody can be asked
        (("purge", "nobody's", "--yes"), 3),
        (("redact", "a", "99", "--yes"), 1),
        (("redact", "a", "0", "--field", "output", "--yes"), 1),
        (("redact", "a", "-1", "--yes"), 2),
        (("erase", "--yes"), 2),
        (("erase", "nobody's", "--yes"), 3),
        (("erase", "--caller", "nobody", "--yes"), 3),
        (("dead-letters", "discard", "99"), 3),
        (("dead-letters", "replay", "99"), 3),
        (("hold",), 2),
        (("hold", "a", "--all"), 2),
        (("release", "no such"), 3),
        (("restore", "/no/such/file", "--yes"), 1),
        (("keys", "record"), 2),
        (("keys", "new", "/no/such/directory/key", "--name", "x"), 2),
        (("keys", "new", "/no/such/directory/key", "--name", "white space"), 2),
        (("acts", "--kind", "prge"), 2),
    ],
    ids=str,
)
def test_what_is_refused(command, act, settings, words, code):
    """By the code for it, with words, and nothing is recorded."""
    said = command(*words, settings=settings)
    assert (said.code, said.out) == (code, "")
    assert said.err
    assert act("acts") == []


def test_a_backup_put_back(command, act, settings, tmp_path):
    """The file that was there stays beside it, and the restore is an act."""
    backup = tmp_path / "backup"
    assert command("backup", str(backup), settings=settings).code == 0
    act("purge", "a", "--yes")
    report = act("restore", str(backup), "--yes")
    assert report["replaced"]
    assert [it["kind"] for it in act("acts")] == ["restore", "purge"]
    gone = command("show", "a", settings=settings)
    assert gone.code == 3, "what was purged since is purged again"
    assert "purged" in gone.err, "a purged run is told as one, not as one that never was"


def test_keys(command, act, settings, tmp_path):
    """A private half that nobody else can read; the verifier's half on stdout; a change of keys is an act."""
    file = tmp_path / "key"
    made = command("keys", "new", str(file), "--name", "audit.example.org/fleet-1", settings=settings)
    assert made.code == 0
    assert made.out.startswith("audit.example.org/fleet-1+")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert command("keys", "show", str(file), settings=settings).out == made.out
    assert command("keys", "new", str(file), "--name", "x", settings=settings).code == 2
    act("keys", "record", str(file))
    (recorded,) = act("acts", "--kind", "key")
    assert recorded["scope"] == {"origin": "audit.example.org/fleet-1", "key": made.out.strip()}


@pytest.mark.parametrize("words", [("hold",), ("release",), ("restore",), ("keys", "record")])
def test_what_nothing_can_forbid_takes_no_force(command, words):
    """`--force` goes over holds and the minimum age; where neither can be in the way it is no option."""
    said = command(*words, "--force")
    assert said.code == 2
    assert "No such option" in said.err


def test_acts_are_told_in_words(command, act, settings):
    """What each was about; a list that ends at its limit says so; JSON keeps the scope as it is."""
    hold = command("hold", "a", "--reason", "x", settings=settings)
    hold_id = hold.out.splitlines()[1].removeprefix("act ")
    assert hold.out.startswith(f"held; to end it: skillaudit release {hold_id}\n")
    assert hold.err == ""
    assert command(*hold.out.splitlines()[0].split("skillaudit ")[1].split(), settings=settings).code == 0
    assert (
        "not stored here, held in case they come: run z" in command("hold", "a", "z", settings=settings).err
    )
    act("hold", "--all")
    act("redact", "b", "1", "--force", "--yes")
    act("redact", "b", "0", "--field", "inputs", "--force", "--yes")
    act("purge", "--before", "2100-01-01", "--force", "--yes")
    table = command("acts", settings=settings)
    for words in (
        "runs started before 2100-01-01T00:00:00.000Z",
        "run b event 1",
        "run b event 0, inputs",
        "all runs",
        "runs a, z",
        f"hold {hold_id}",
    ):
        assert f"  {words}  " in table.out
    assert table.err == "7 acts\n"
    assert command("acts", "--limit", "2", settings=settings).err == "2 acts at least; --limit shows more\n"
    assert act("acts")[0]["scope"] == {"started_before": 4_102_444_800_000_000}


def test_a_backup_that_is_not_there(command, settings, tmp_path):
    """Named as missing; nothing is put anywhere."""
    said = command("restore", str(tmp_path / "none"), "--yes", settings=settings)
    assert (said.code, "there is no file" in said.err) == (1, True)
