"""Commands of the test bed: run to their end, with a time-out, and with one line that says what went wrong."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

from tests.testbed.processes import TETHER

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

LINES = 3
"""How many of the last lines that a command wrote go into the error."""


def path() -> str:
    """Return PATH with the folders of the programs for root, which not every PATH names."""
    return os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])


def run(
    *command: str,
    error: type[Exception],
    seconds: float = 30,
    env: Mapping[str, str] | None = None,
    tether: bool = False,
    within: Sequence[str] = (),
) -> str:
    """Run a command with further variables and return its standard output. Raises `error`.

    With `tether` it is killed when this process ends. `within` is the command line of a program that runs it.
    """
    name = " ".join(command[:3])
    before = [sys.executable, "-I", "-S", str(TETHER), str(os.getpid())] if tether else []
    try:
        done = subprocess.run(
            [*before, *within, *command],
            env={**os.environ, "PATH": path(), **(env or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
            check=False,
        )
    except FileNotFoundError:
        raise error(f"{command[0]}: not found on PATH") from None
    except subprocess.TimeoutExpired:
        raise error(f"{name} did not end within {seconds:g} s") from None
    if done.returncode != 0:
        # Some, debootstrap for one, say on standard output what went wrong.
        last = (done.stdout + done.stderr).strip().splitlines()[-LINES:]
        raise error(f"{name}: {' | '.join(last) or f'status {done.returncode}'}")
    return done.stdout
