"""Runs all tests, several sessions of pytest at a time: `python -m tests.testbed.sessions [ARGUMENT...]`.

What `make test` runs. Most tests wait most of the time, and a machine has few processors, so what needs none and what
needs nothing else go together:

* the *servers'* tests, all that take neither containers nor minutes, several at a time;
* all the while, with what they leave of the processors, the *searches*;
* after the servers' tests, because these measure as well: the *cluster*, and beside it the *image*, each in one process
  of its own, on one Docker Engine.

Arguments go to every session. What those in the background print is shown when they have ended. Status 1 when one of
them failed; when the servers' tests failed, nothing else is begun.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.testbed import engine, golang, image, standins
from tests.testbed.processes import TETHER

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

ROOT = Path(__file__).parents[2]
PYTEST = (str(Path(sys.executable).with_name("pytest")),)
REPORTS = ROOT / "build"
END_SECONDS = 90.0
"""How long a session may take to end when it is told to: its tests remove containers and nodes."""

MODEST = 15
"""The niceness of what takes what others leave of the processors, and beside them next to nothing."""

YIELDING = '{ echo "$0" >/proc/self/autogroup; } 2>/dev/null; exec nice -n "$0" "$@"'
"""Runs a command with a niceness. Linux may share the processors out among sessions first, each as large as any other,
and only then among the processes of each (sched_autogroup_enabled): so the session's own is set as well."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """One run of pytest: its options, where its tests are if they are in one place, and its priority."""

    name: str
    options: tuple[str, ...]
    folder: str = ""
    niceness: int = 0

    def command(self, arguments: Sequence[str]) -> list[str]:
        """Return pytest's arguments. Only the folder is read, unless the arguments name tests."""
        named = any(Path(argument.partition("::")[0]).exists() for argument in arguments)
        folder = [self.folder] if self.folder and not named else []
        report = f"--junit-xml={REPORTS / f'{self.name}.xml'}"
        return [*folder, *self.options, "--leave-out-unavailable", report, *arguments]


SERVERS = Session(
    name="tests", options=("-n", "3", "--dist", "worksteal", "-m", "not image and not cluster and not search")
)
SEARCHES = Session(
    name="tests-searches",
    # While everybody else is busy, seconds become minutes.
    options=("-n", "2", "--dist", "worksteal", "-m", "search", "--timeout=600"),
    folder="tests/safety",
    niceness=MODEST,
)
IMAGE = Session(name="tests-image", options=("-m", "image"), folder="tests/image")
CLUSTER = Session(name="tests-cluster", options=("-m", "cluster"), folder="tests/cluster")

SESSIONS = (SERVERS, SEARCHES, IMAGE, CLUSTER)


class Sessions:
    """Starts sessions, and ends those that still run when it is left."""

    def __init__(self, arguments: Sequence[str], pytest: Sequence[str]) -> None:
        self._arguments = arguments
        self._pytest = pytest
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def begin(self, session: Session, *, env: Mapping[str, str] | None = None, shown: bool = False) -> None:
        """Start a session. What it prints is shown as it comes, or kept for `end`."""
        REPORTS.mkdir(exist_ok=True)
        command = [*self._pytest, *session.command(self._arguments)]
        if session.niceness:
            command = ["sh", "-c", YIELDING, str(session.niceness), *command]
        # None outlives this process, whatever becomes of it.
        tethered = [sys.executable, "-I", "-S", str(TETHER), str(os.getpid()), *command]
        with self._log(session).open("wb") as log:
            self._running[session.name] = subprocess.Popen(
                tethered,
                cwd=ROOT,
                env={**os.environ, **(env or {})},
                stdin=subprocess.DEVNULL,
                stdout=None if shown else log,
                stderr=None if shown else log,
                # Ctrl-C on the terminal reaches this process, which tells them once: a second time, while their
                # fixtures remove what they made, would keep them from it.
                start_new_session=True,
            )

    def end(self, session: Session) -> bool:
        """Wait for the end of a session, show what it has kept, and tell whether it succeeded."""
        status = self._running[session.name].wait()
        del self._running[session.name]
        sys.stdout.flush()
        with self._log(session).open("rb") as log:
            shutil.copyfileobj(log, sys.stdout.buffer)
        sys.stdout.flush()
        return status == 0

    def close(self) -> None:
        """Tell those that still run to end, and wait until they have removed what they made."""
        for process in self._running.values():
            process.send_signal(signal.SIGINT)
        for process in self._running.values():
            try:
                process.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    @staticmethod
    def _log(session: Session) -> Path:
        return REPORTS / f"{session.name}.log"


def run(
    arguments: Sequence[str],
    *,
    pytest: Sequence[str] = PYTEST,
    engine_for_all: Callable[[], Iterator[dict[str, str]]] | None = None,
) -> int:
    """Run all sessions, and return the status: 0, 1, and 130 when this process was told to end."""
    with_engine = contextmanager(engine_for_all or one_engine)
    sessions = Sessions(arguments, pytest)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    try:
        sessions.begin(SEARCHES)
        sessions.begin(SERVERS, shown=True)
        if not sessions.end(SERVERS):
            return 1
        with with_engine() as env:
            sessions.begin(IMAGE, env=env)
            sessions.begin(CLUSTER, env=env, shown=True)
            # Of all of them the ends are waited for: whoever mends one failure wants to know of the others.
            succeeded = [sessions.end(session) for session in (CLUSTER, IMAGE, SEARCHES)]
    except KeyboardInterrupt:
        return 130
    finally:
        sessions.close()
    return 0 if all(succeeded) else 1


def one_engine() -> Iterator[dict[str, str]]:
    """Serve an engine with the image to both sessions, by its variable, so that neither starts or builds its own.

    Where there is none to be had, or no image, they find that out by themselves, and say what it means for their tests.
    """
    with ExitStack() as stack:
        try:
            served = stack.enter_context(engine.ensure())
            image.ensure(served)
        except (engine.EngineError, golang.BuildError, image.ImageError, standins.StandInError):
            stack.close()
            yield {}
        else:
            yield {engine.ENVIRONMENT_HOST: served.host}


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
