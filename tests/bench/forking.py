"""Candidates of this project's own program, forked from a process that has loaded its libraries already.

They run the program's entry point as any process does. Only the half second of processor time that each would spend on
loading is saved: two cores cannot start 25 interpreters within a second, as the nodes of a cluster can.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

SERVER = Path(__file__).with_name("forkserver.py")
UNKNOWN = "unknown"
"""The status of a process that ended: only its parent is told."""


class Forked:
    """A process that is no child of this one. It has what is used here of `subprocess.Popen`."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        # Stands for this very process, also when it has ended and its number is another's; None when it ended at once.
        self._file: int | None = None
        with suppress(ProcessLookupError):
            self._file = os.pidfd_open(pid)

    def poll(self) -> str | None:
        """Return `UNKNOWN` when it has ended, None before."""
        return UNKNOWN if self._has_ended(0) else None

    def wait(self, timeout: float | None = None) -> str:
        """Wait for its end. Raises subprocess.TimeoutExpired."""
        if not self._has_ended(timeout):
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0)
        return UNKNOWN

    def send_signal(self, number: signal.Signals) -> None:
        """Send it a signal; nothing happens when it has ended."""
        if self._file is not None and not self._has_ended(0):
            signal.pidfd_send_signal(self._file, number)

    def kill(self) -> None:
        """Send SIGKILL; nothing happens when it has ended."""
        self.send_signal(signal.SIGKILL)

    def __del__(self) -> None:
        if self._file is not None:
            os.close(self._file)

    def _has_ended(self, seconds: float | None) -> bool:
        if self._file is None:
            return True
        poll = select.poll()
        poll.register(self._file, select.POLLIN)
        return bool(poll.poll(None if seconds is None else 1000 * seconds))


class ForkServer:
    """The process that forks them. All of them end with it, and it ends with this one."""

    def __init__(self, log: Path) -> None:
        self._log = log
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                [sys.executable, str(SERVER)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                bufsize=1,
                start_new_session=True,
            )

    def start(self, command: Sequence[str], *, environment: Mapping[str, str], log: Path) -> Forked:
        """Fork a candidate; the first word of its command is the program's name. Raises OSError."""
        order = {"arguments": command[1:], "environment": dict(environment), "log": str(log)}
        answer = ""
        if self._process.stdin is not None and self._process.stdout is not None:
            with suppress(BrokenPipeError):
                self._process.stdin.write(json.dumps(order) + "\n")
                answer = self._process.stdout.readline()
        if not answer:
            raise ChildProcessError(f"the process that forks candidates has ended: {self._log.read_text()[-500:]}")
        return Forked(int(answer))

    def close(self) -> None:
        """End it, and with it all that it forked."""
        self._process.kill()
        with suppress(BrokenPipeError):
            self._process.communicate()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
