"""Locks belong to a process: they live exactly as long as it, and a forked child has nothing of them."""

import os
import signal
import subprocess
import sys
import textwrap
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.support import syscalls

from skillaudit.contract.outbox.locks import FileLock, is_locked, lock_holder


@contextmanager
def process(body, path):
    """A process that runs `body` with `lock` on the path; it says a word per line and ends when its stdin does."""
    code = "import os, sys\nfrom pathlib import Path\nfrom skillaudit.contract.outbox.locks import *\n"
    code += "lock = FileLock(Path(sys.argv[1]))\ndef say(*words): print(*words, flush=True)\n"
    done = subprocess.Popen(
        [sys.executable, "-c", code + textwrap.dedent(body), str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with done:
        try:
            yield done
        finally:
            done.kill()


def heard(running):
    return running.stdout.readline().split()


def test_a_lock_is_held_by_one(tmp_path):
    """Whoever comes second is told so, with the holder's pid, until it is given back."""
    path = tmp_path / "writer"
    with process(
        "say(lock.try_acquire(b'note')); sys.stdin.readline(); lock.release(); say('freed'); sys.stdin.read()",
        path,
    ) as owner:
        assert heard(owner) == ["True"]
        assert not FileLock(path).try_acquire()
        assert lock_holder(path) == owner.pid
        assert path.read_bytes() == b"note"
        owner.stdin.write("\n")
        owner.stdin.flush()
        assert heard(owner) == ["freed"]
        assert not is_locked(path)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_lock_goes_with_its_process(tmp_path, how):
    """However that dies."""
    path = tmp_path / "writer"
    with process("say(lock.try_acquire()); sys.stdin.read()", path) as owner:
        assert heard(owner) == ["True"]
        owner.send_signal(how)
        owner.wait(timeout=30)
        assert not is_locked(path)
        lock = FileLock(path)
        assert lock.try_acquire()
        lock.release()


def test_within_a_process_asking_frees_nothing(tmp_path):
    """Closing any descriptor of the file would free a POSIX lock: the table of what is held answers instead."""
    path = tmp_path / "writer"
    lock = FileLock(path)
    assert lock.try_acquire()
    assert not FileLock(path).try_acquire()
    assert not FileLock(path.parent / "." / "writer").try_acquire()
    assert lock_holder(path) == os.getpid()
    assert lock.held
    assert "held" in repr(lock)
    with process("say(lock.try_acquire())", path) as other:
        assert heard(other) == ["False"]
    lock.release()
    lock.release()
    assert not lock.held
    assert not is_locked(path)


def test_a_forked_child_neither_holds_nor_frees(tmp_path):
    """Not by asking, not by releasing, not by exiting; and it doesn't keep the lock after its parent's death."""
    path = tmp_path / "writer"
    body = """
        say(lock.try_acquire())
        sys.stdin.readline()
        down, up = os.pipe()
        child = os.fork()
        if child == 0:
            say("child", lock.held, lock_holder(lock.path) == os.getppid(), FileLock(lock.path).try_acquire())
            lock.release()
            say("released")
            os.close(up)
            os.read(down, 1)   # until the parent is dead
            os._exit(0)
        os.close(down)
        sys.stdin.read()
    """
    with process(body, path) as owner:
        assert heard(owner) == ["True"]
        owner.stdin.write("\n")
        owner.stdin.flush()
        assert heard(owner) == ["child", "False", "True", "False"]
        assert heard(owner) == ["released"]
        assert lock_holder(path) == owner.pid
        owner.kill()
        owner.wait(timeout=30)
        assert not is_locked(path)


def test_a_missing_file_is_not_locked(tmp_path):
    """And asking makes none."""
    assert lock_holder(tmp_path / "none") is None
    assert not (tmp_path / "none").exists()


def test_another_name_of_the_file_is_the_same_file(tmp_path, monkeypatch):
    """Asking by a symbolic link, or by a relative path, sees the lock and does not free it."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    lock = FileLock(tmp_path / "real" / "lock")
    assert lock.try_acquire()
    monkeypatch.chdir(tmp_path)
    for name in (tmp_path / "link" / "lock", Path("real/lock")):
        assert lock_holder(name) == os.getpid()
        assert not FileLock(name).try_acquire()
    with process("say(lock_holder(lock.path))", lock.path) as other:
        assert heard(other) == [str(os.getpid())], "the lock is still held"
    lock.release()
    assert not is_locked(tmp_path / "link" / "lock")


@pytest.mark.skipif(bool(syscalls.why_not()), reason="no seccomp filter here")
@pytest.mark.parametrize("call", ["FileLock(path).try_acquire()", "is_locked(path)"])
def test_a_file_system_without_locks_is_refused(tmp_path, call):
    """Whoever tries, and whoever only asks: without locks nobody can tell who lives. The remedy is said."""
    path = tmp_path / "writer"
    path.touch()
    code = textwrap.dedent(f"""
        from pathlib import Path
        from tests.support import syscalls
        from skillaudit.contract.errors import UnsupportedPlatformError
        from skillaudit.contract.outbox.locks import *
        path = Path({str(path)!r})
        syscalls.silence("no-locks")
        try:
            {call}
        except UnsupportedPlatformError as exc:
            print(exc)
    """)
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "has no working locks" in said.stdout
    assert "put the directory on a local one" in said.stdout
