"""Processes under test: started so that none outlives the process that runs the tests, whatever happens to it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

TETHER = Path(__file__).with_name("tether.py")

# The kernel sends the death signal when the *thread* that started the process ends.
# So one thread, which lives as long as this process, starts them all, and anybody may ask it to.
_starter = ThreadPoolExecutor(max_workers=1, thread_name_prefix="process-starter")


def start(
    command: Sequence[str | Path],
    *,
    log: Path,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> subprocess.Popen[bytes]:
    """Start a command with both outputs appended to `log`; its pid is the command's own.

    It is killed when this process ends, by whatever cause. `env` replaces the environment.
    """
    tethered = [sys.executable, "-I", "-S", str(TETHER), str(os.getpid()), *map(str, command)]

    def popen() -> subprocess.Popen[bytes]:
        with log.open("ab") as output:
            # A session of its own, so that Ctrl-C on the terminal reaches the tests, which then end it in order.
            return subprocess.Popen(
                tethered,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=env,
                cwd=cwd,
                start_new_session=True,
            )

    return _starter.submit(popen).result()


def stop(process: subprocess.Popen[bytes], *, patience: float = 10) -> int:
    """End a process, stopped ones included: SIGTERM, after `patience` seconds SIGKILL. Returns its status."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGCONT)
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            process.kill()
    return process.wait()


def state(pid: int) -> str:
    """Return the letter of a process's state (proc_pid_stat(5)); empty when there is no such process."""
    try:
        # The command's name, in parentheses, may hold spaces.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def is_running(pid: int) -> bool:
    """Tell whether there is such a process, and it does not only wait to be collected."""
    return state(pid) not in ("", "Z")


def tail(log: Path, *, lines: int = 15) -> str:
    """Return the last lines of a log, for messages; empty when there is no log."""
    try:
        return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
    except FileNotFoundError:
        return ""
