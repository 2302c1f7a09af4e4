"""Becomes candidates of this project's own program again and again, its libraries loaded once: part of forking.py.

Each line of standard input is one candidate as JSON: `arguments`, `environment`, `log`. Each line of the output is its
process id.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import signal
import sys

from sidecar import __main__ as entry
from sidecar import program  # noqa: F401 - loaded here, so that no candidate has to

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Fork a candidate for each line, until there are no more. All of them end with this process."""
    libc = ctypes.CDLL(None, use_errno=True)
    own = os.getpid()
    # Whoever asked for them looks after them; here nobody collects how they ended.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    gc.freeze()
    for line in sys.stdin:
        order = json.loads(line)
        child = os.fork()
        if child == 0:
            if libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0 or os.getppid() != own:
                os._exit(1)
            _become(order["arguments"], order["environment"], order["log"])
        sys.stdout.write(f"{child}\n")
        sys.stdout.flush()


def _become(arguments: list[str], environment: dict[str, str], log: str) -> None:
    """Run the program's own entry point, as a process of its own would."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    nothing = os.open(os.devnull, os.O_RDONLY)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for file, place in ((nothing, 0), (output, 1), (output, 2)):
        os.dup2(file, place)
    for file in (nothing, output):
        os.close(file)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["leader-elector", *arguments]
    entry.main()


if __name__ == "__main__":
    main()
