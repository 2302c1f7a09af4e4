"""What `make test` runs: which sessions of pytest, in which order, and what becomes of them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from tests.testbed import sessions
from tests.testbed.processes import is_running
from tests.testbed.sessions import CLUSTER, IMAGE, MODEST, SEARCHES, SERVERS, SESSIONS, run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

# In pytest's place: writes down how it was started and that it ended, and does as a file says that has its name.
STAND_IN = """
import json, os, sys, time
from pathlib import Path

here = Path(__file__).parent
AUTOGROUP = Path("/proc/self/autogroup") if Path("/proc/self/autogroup").exists() else None
name = next(Path(one.partition("=")[2]).stem for one in sys.argv if one.startswith("--junit-xml="))

def note(what):
    docker, autogroup = os.environ.get("DOCKER_HOST"), AUTOGROUP and AUTOGROUP.read_text()
    told = [what, name, sys.argv[1:], os.nice(0), docker, autogroup]
    os.write(notes, json.dumps(told).encode() + b"\\n")

notes = os.open(here / "notes", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
order = here / name
text = order.read_text() if order.exists() else ""
print("this is", name, flush=True)
try:
    note("begun")
    exec(text)
finally:
    note("ended")
"""

SLEEP = "while True: time.sleep(0.05)"
"""Not one long sleep: an interrupt that comes in the instant before it begins is not noticed before it ends."""


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Put a program in pytest's place."""
    monkeypatch.setattr(sessions, "REPORTS", tmp_path / "build")
    (tmp_path / "stand_in.py").write_text(STAND_IN)
    return [sys.executable, str(tmp_path / "stand_in.py")]


def an_engine() -> Iterator[dict[str, str]]:
    """Stand for an engine."""
    yield {"DOCKER_HOST": "unix:///for-both"}


def notes(folder: Path) -> list[tuple[Any, ...]]:
    """Return what was written down: begun or ended, which session, its arguments, its priority, its engine."""
    file = folder / "notes"
    return [tuple(json.loads(line)) for line in file.read_text().splitlines()] if file.exists() else []


def told(folder: Path, what: str) -> list[str]:
    """Return the sessions that began, or ended, in that order."""
    return [note[1] for note in notes(folder) if note[0] == what]


def test_all_sessions_are_run(stand_in: Sequence[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Searches beside the servers' tests, with less priority; then image and cluster together, on one engine."""
    # Each waits for another one, so that none of them comes to an end unless they run at the same time.
    wait = "while {!r} not in (here / 'notes').read_text(): time.sleep(0.01)"
    for waiting, other in ((SERVERS, SEARCHES), (SEARCHES, CLUSTER), (CLUSTER, IMAGE), (IMAGE, CLUSTER)):
        (tmp_path / waiting.name).write_text(wait.format(f'["begun", "{other.name}"'))
    assert run(["-x"], pytest=stand_in, engine_for_all=an_engine) == 0

    assert {*told(tmp_path, "begun")[:2]} == {SERVERS.name, SEARCHES.name}
    assert told(tmp_path, "ended")[0] == SERVERS.name
    begun = {note[1]: note for note in notes(tmp_path) if note[0] == "begun"}
    assert len(begun) == len(SESSIONS)
    for session in SESSIONS:
        _, _, arguments, niceness, docker, autogroup = begun[session.name]
        assert arguments[-1] == "-x"
        assert niceness == min(os.nice(0) + (MODEST if session is SEARCHES else 0), 19)
        # "/autogroup-123 nice 19", where there is such a thing.
        assert session is not SEARCHES or not autogroup or autogroup.split()[-1] == str(MODEST)
        assert (docker == "unix:///for-both") == (session in {IMAGE, CLUSTER})
    assert {*capfd.readouterr().out.splitlines()} == {f"this is {session.name}" for session in SESSIONS}


@pytest.mark.parametrize("session", [SEARCHES, IMAGE, CLUSTER])
def test_one_that_fails_fails_the_run(stand_in: Sequence[str], tmp_path: Path, session: sessions.Session) -> None:
    """The others come to their end all the same."""
    (tmp_path / session.name).write_text("sys.exit(1)")
    assert run([], pytest=stand_in, engine_for_all=an_engine) == 1
    assert {*told(tmp_path, "ended")} == {each.name for each in SESSIONS}


def test_nothing_is_begun_after_the_servers_tests_failed(stand_in: Sequence[str], tmp_path: Path) -> None:
    """The searches are told to end, and nobody waits for what they would still find."""
    (tmp_path / SERVERS.name).write_text("while 'searches' not in (here / 'notes').read_text(): pass\nsys.exit(1)")
    (tmp_path / SEARCHES.name).write_text(SLEEP)
    assert run([], pytest=stand_in, engine_for_all=an_engine) == 1
    assert {*told(tmp_path, "begun")} == {*told(tmp_path, "ended")} == {SERVERS.name, SEARCHES.name}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_all_end_with_it(stand_in: Sequence[str], tmp_path: Path, number: signal.Signals) -> None:
    """Told to end, it tells its sessions, waits until they have ended in order, and exits 130."""
    for session in SESSIONS:
        (tmp_path / session.name).write_text(SLEEP)
    with running(stand_in, tmp_path) as process:
        process.send_signal(number)
        assert process.wait(60) == 130
    assert {*told(tmp_path, "ended")} == {SERVERS.name, SEARCHES.name}


def test_none_outlives_it(stand_in: Sequence[str], tmp_path: Path) -> None:
    """When it is killed, so are its sessions."""
    for session in SESSIONS:
        (tmp_path / session.name).write_text(f"note(os.getpid())\n{SLEEP}")
    with running(stand_in, tmp_path) as process:
        wait(lambda: len(pids(tmp_path)) == 2, "both have said who they are")
        process.kill()
    wait(lambda: not any(map(is_running, pids(tmp_path))), "both have ended")


def pids(folder: Path) -> list[int]:
    """Return the processes of the sessions that have said who they are."""
    return [note[0] for note in notes(folder) if isinstance(note[0], int)]


@contextmanager
def running(stand_in: Sequence[str], folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run the program until its first sessions have begun, and the block."""
    program = (
        "import sys\nfrom pathlib import Path\nfrom tests.testbed import sessions\n"
        "sessions.REPORTS = Path(sys.argv[1])\n"
        "sys.exit(sessions.run([], pytest=sys.argv[2:]))\n"
    )
    command = [sys.executable, "-c", program, str(folder / "build"), *stand_in]
    with subprocess.Popen(command, cwd=sessions.ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        wait(lambda: len(told(folder, "begun")) == 2, "both have begun")
        yield process


def wait(condition: Callable[[], object], what: str) -> None:
    """Wait for a condition; fails the test after a minute."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def test_only_its_folder_is_read_unless_tests_are_named() -> None:
    """To read all tests in order to leave nearly all of them out takes seconds; who names tests wants those."""
    assert IMAGE.command(["-k", "memory"])[0] == "tests/image"
    assert "tests/image" not in IMAGE.command(["tests/image/test_footprint.py::test_memory"])
