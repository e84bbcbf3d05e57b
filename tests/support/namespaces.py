"""A process on a host of its own, as far as names go: `python -m tests.support.namespaces HOSTNAME MODULE [ARGUMENTS]`.

It runs as process 1 under that host name, as in a container. Needs root.
"""

from __future__ import annotations

import ctypes
import os
import runpy
import sys

_NEW_NAMES, _NEW_PIDS = 0x04000000, 0x20000000


def main(host: str, module: str) -> int:
    """The exit code of the module, which runs in a child."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_NEW_NAMES | _NEW_PIDS):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    if libc.sethostname(host.encode(), len(host)):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    child = os.fork()
    if child == 0:
        sys.argv = sys.argv[2:]
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        sys.exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2]))
