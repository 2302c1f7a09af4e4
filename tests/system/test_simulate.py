"""`electionctl simulate` as a program: however it is ended, and wherever its output goes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ELECTIONCTL = Path(sys.executable).with_name("electionctl")

LONG = ("--trials", "100000", "--workers", "2")
"""More than any of these tests waits for."""
SHORT = ("--trials", "1", "--workers", "1")

PATIENCE = 30.0
"""Seconds within which a busy machine starts processes, or ends them."""


@contextmanager
def simulating(*prefix: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a long simulation as long as the block runs, in a process group of its own."""
    command = [*prefix, str(ELECTIONCTL), "simulate", *LONG]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, start_new_session=True) as program:
        try:
            yield program
        finally:
            with suppress(ProcessLookupError):
                os.killpg(program.pid, signal.SIGKILL)


def until(holds: Callable[[], object]) -> None:
    """Wait."""
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def is_alive(pid: int) -> bool:
    """Tell whether a process runs; one that has only not been waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def workers(program: subprocess.Popen[bytes]) -> list[int]:
    """Return the processes in which trials are played, as soon as they have been started."""
    try:
        children = Path(f"/proc/{program.pid}/task/{program.pid}/children").read_text().split()
        return [int(pid) for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def play(program: subprocess.Popen[bytes]) -> list[int]:
    """Wait until its workers play, and return them."""
    until(lambda: len(workers(program)) == 2)
    started = workers(program)
    # As soon as a worker has a thread that looks after its parent, it has started.
    until(lambda: all(len(list(Path(f"/proc/{pid}/task").iterdir())) > 1 for pid in started))
    return started


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda how: how.name)
@pytest.mark.parametrize("prefix", [(), ("sh", "-c", 'trap "" INT; exec "$0" "$@"')], ids=["started", "in-background"])
def test_told_to_end(how: signal.Signals, prefix: tuple[str, ...]) -> None:
    """However it is told, it ends its workers, says nothing, and exits 130; also in the background of a script."""
    with simulating(*prefix) as program:
        started = play(program)
        program.send_signal(how)
        out, errors = program.communicate(timeout=PATIENCE)
        assert (program.returncode, out, errors) == (130, b"", b"")
        assert not any(map(is_alive, started))


def test_killed() -> None:
    """Its workers end as well when it can no longer tell them to."""
    with simulating() as program:
        started = play(program)
        program.kill()
        program.wait()
        until(lambda: not any(map(is_alive, started)))


def test_interrupted_at_once() -> None:
    """Ctrl-C, which reaches all processes in the foreground, while the workers are only being started: no complaint."""
    with simulating() as program:
        until(lambda: workers(program))
        os.killpg(program.pid, signal.SIGINT)
        out, errors = program.communicate(timeout=PATIENCE)
        assert (program.returncode, out, errors) == (130, b"", b"")


def test_a_worker_is_killed() -> None:
    """As the kernel does when memory runs out: one line, status 1, and the other worker ends."""
    with simulating() as program:
        started = play(program)
        os.kill(started[0], signal.SIGKILL)
        _, errors = program.communicate(timeout=PATIENCE)
        assert (program.returncode, errors) == (1, b"electionctl: a process of the simulation was killed\n")
        assert not any(map(is_alive, started))


@pytest.mark.parametrize("buffered", [True, False], ids=["buffered", "unbuffered"])
@pytest.mark.parametrize(
    ("output", "told"),
    [
        ("| true", ""),
        (">/dev/full", "electionctl: [Errno 28] No space left on device\n"),
        (">&-", "electionctl: standard output is closed\n"),
    ],
    ids=["broken-pipe", "full", "closed"],
)
@pytest.mark.parametrize("arguments", [SHORT, (*SHORT, "--json")], ids=["table", "json"])
def test_nowhere_to_print_to(arguments: tuple[str, ...], output: str, told: str, *, buffered: bool) -> None:
    """Where nothing can be printed, one line says so, and none where nobody reads any more; status 1."""
    # Of a pipeline a shell tells only how its last command ended.
    script = f'{{ "$0" "$@"; echo "status $?" >&2; }} {output}'
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run(
        ["sh", "-c", script, ELECTIONCTL, "simulate", *arguments],
        env=environ if buffered else {**environ, "PYTHONUNBUFFERED": "1"},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
    )
    assert done.stderr == f"{told}status 1\n"


@pytest.mark.parametrize("arguments", [("--help",), ("simulate", "--help")], ids=" ".join)
def test_help_that_cannot_be_printed(arguments: tuple[str, ...]) -> None:
    """What holds for what is worked out holds for the help as well."""
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with open("/dev/full", "wb") as full:  # noqa: PTH123 - a device
        done = subprocess.run(
            [ELECTIONCTL, *arguments], env=environ, stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert (done.returncode, done.stderr) == (1, "electionctl: [Errno 28] No space left on device\n")
