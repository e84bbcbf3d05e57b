"""System calls of a process that fail, or do nothing, from here on: by a seccomp filter, without touching the program.

`python -m tests.support.syscalls WHAT MODULE [ARGUMENTS]` runs a module under it. WHAT is one of `ANSWERS`.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import runpy
import struct
import sys
from collections.abc import Iterator

_NUMBERS = {
    "x86_64": {"fsync": 74, "fdatasync": 75, "msync": 26, "sync_file_range": 277, "fcntl": 72},
    "aarch64": {"fsync": 82, "fdatasync": 83, "msync": 227, "sync_file_range": 84, "fcntl": 25},
}
_LOCKS = (5, 6, 7)
"""F_GETLK, F_SETLK, F_SETLKW."""
ANSWERS = {
    "no-sync": {"fsync": 0, "fdatasync": 0, "msync": 0, "sync_file_range": 0},
    "no-locks": {"fcntl": errno.ENOLCK},
    "lying-locks": {"fcntl": 0},
}
"""What each system call answers: 0 is success, with nothing done. `fcntl` only where it is about locks."""
_SET_NO_NEW_PRIVS, _SET_SECCOMP, _FILTER = 38, 22, 2
_LOAD, _EQUAL, _RETURN = 0x20, 0x15, 0x06
_ALLOW, _ANSWER = 0x7FFF0000, 0x00050000
_NUMBER_AT, _SECOND_ARGUMENT_AT = 0, 24


def why_not() -> str:
    """Why it can't be had here; empty where it can."""
    known = sys.platform == "linux" and platform.machine() in _NUMBERS
    return "" if known else f"no seccomp filter for {sys.platform} on {platform.machine()}"


def silence(what: str) -> None:
    """From here on, for this thread and everything it starts, for good."""
    libc = ctypes.CDLL(None, use_errno=True)
    code = b"".join(_program(what))
    holder = ctypes.create_string_buffer(code)
    program = struct.pack("HxxxxxxP", len(code) // 8, ctypes.addressof(holder))
    if libc.prctl(_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(_SET_SECCOMP, _FILTER, program, 0, 0):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _program(what: str) -> Iterator[bytes]:
    numbers = _NUMBERS[platform.machine()]
    for name, answer in ANSWERS[what].items():
        told = _instruction(_RETURN, 0, 0, _ANSWER | answer)
        if name != "fcntl":
            yield from (
                _instruction(_LOAD, 0, 0, _NUMBER_AT),
                _instruction(_EQUAL, 0, 1, numbers[name]),
                told,
            )
            continue
        checks = [_instruction(_EQUAL, len(_LOCKS) - 1 - n, 0, kind) for n, kind in enumerate(_LOCKS[:-1])]
        yield from (
            _instruction(_LOAD, 0, 0, _NUMBER_AT),
            _instruction(_EQUAL, 0, len(_LOCKS) + 2, numbers[name]),
            _instruction(_LOAD, 0, 0, _SECOND_ARGUMENT_AT),
            *checks,
            _instruction(_EQUAL, 0, 1, _LOCKS[-1]),
            told,
        )
    yield _instruction(_RETURN, 0, 0, _ALLOW)


def _instruction(code: int, if_true: int, if_false: int, operand: int) -> bytes:
    return struct.pack("HBBI", code, if_true, if_false, operand)


if __name__ == "__main__":
    silence(sys.argv[1])
    sys.argv = sys.argv[2:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
