"""The demonstration, as a user runs it."""

from __future__ import annotations

import errno
import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from sidecar.lab import demo, terminal
from sidecar.lab.demo import Experiment

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

pytestmark = [pytest.mark.election, pytest.mark.timeout(300)]

ELECTIONCTL = Path(sys.executable).with_name("electionctl")

SMALL = ("--apps", "3", "--replicas", "3", "--nodes", "3", "--ttl", "4s")
STAGES = ["stock algorithm", "cold start", "a node is lost", "the node comes back", "a leader ends"]
PATIENCE = 240.0
"""Seconds that a demonstration may take on a machine that is busy with other things; on two idle cores it takes 40."""


def _electionctl(
    *arguments: str, env: Mapping[str, str] | None = None, seconds: float = PATIENCE
) -> subprocess.CompletedProcess[str]:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("ELECTION_")}
    return subprocess.run(
        [ELECTIONCTL, *arguments],
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
        env={**environ, **(env or {})},
    )


def _judge(figures: dict[str, Any], *, elections: int, nodes: int) -> None:
    """Assert that the figures are those of a demonstration in which everything went as it should."""
    stages = {stage["stage"]: stage for stage in figures["stages"]}
    assert list(stages) == STAGES
    for name, stage in stages.items():
        assert sum(stage["leaders"].values()) == elections
        assert len(stage["leaders"]) == nodes - (name == "a node is lost")
        assert stage["sorted"] == sorted(stage["leaders"].values(), reverse=True)
        assert stage["balanced"] == (stage["sorted"] == stage["best"])
        assert stage["balanced"] or name == "stock algorithm"
        assert sum(stage["requests"].values()) > 0
    lost, back, ended = (stages[name] for name in STAGES[2:])
    [node] = stages["cold start"]["leaders"].keys() - lost["leaders"].keys()
    # Each of the lost node's elections was taken over.
    assert len(lost["take_overs"]) == stages["cold start"]["leaders"][node] > 0
    assert back["take_overs"] == []
    assert len(back["hand_overs"]) >= back["leaders"][node] > 0
    assert len(ended["take_overs"]) == 1


def test_the_papers_experiment_ends_balanced_in_every_stage() -> None:
    """5 applications x 5 replicas on 3 nodes, as `make demo` has it: balanced throughout."""
    done = _electionctl("demo", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    figures = json.loads(done.stdout)
    _judge(figures, elections=5, nodes=3)
    assert figures["chance"]["best"] == [2, 2, 1]


def test_it_tells_every_stage_in_plain_lines() -> None:
    """In a pipe there is a line for whatever happens and a table for every stage; the exit status is 0."""
    done = _electionctl("demo", *SMALL, "--seed", "7")
    assert (done.returncode, done.stderr) == (0, "")
    assert "\x1b" not in done.stdout
    lines = done.stdout.splitlines()
    assert "3 applications with 3 sidecars each on 3 nodes" in lines[0]
    assert "--seed 7" in lines[0]
    for stage in STAGES:
        assert any(f" s  {stage}: " in line for line in lines)
    for stage in STAGES[1:]:
        assert any(f" s  {stage}: " in line and ", balanced " in line for line in lines)
        assert done.stdout.count(f"node-aware: {stage}") == 1
    assert sum("leaders" in line and "│" in line for line in lines) == len(STAGES) - 1
    assert "take-over: " in done.stdout
    assert "hand-over" in done.stdout


def test_it_shows_a_live_table_on_a_terminal() -> None:
    """On a terminal there is a table that is drawn over and over, also while sidecars start, and the same lines."""
    ours, theirs = pty.openpty()
    environ = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "200", "LINES": "50"}
    command = [str(ELECTIONCTL), "demo", *SMALL]
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environ) as program:
        os.close(theirs)
        shown = _read_to_the_end(ours)
    assert program.returncode == 0, shown
    assert "\x1b[" in shown
    assert shown.count("candidate") > len(STAGES)
    for text in ("·", "●", "node-1", "lost", "app-3", "take-over", "hand-over", ", balanced"):
        assert text in shown


def _read_to_the_end(terminal_side: int) -> str:
    shown = b""
    with open(terminal_side, "rb", buffering=0) as stream:
        try:
            while part := stream.read(2**16):
                shown += part
        except OSError as error:
            # How Linux says that nobody has the other side open any more.
            if error.errno != errno.EIO:
                raise
    return shown.decode()


async def test_leaders_that_are_not_spread_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the balance no leader ever goes to the node that comes back: that stage fails, if none before it does.

    The first line says in which stage, after how long and what there was instead; the ends of the leaders' logs follow.
    """
    monkeypatch.setenv("ELECTION_BALANCE", "off")
    monkeypatch.setattr(demo, "BALANCE_SECONDS", 4.0)
    experiment = Experiment(applications=3, replicas=3, nodes=3, seed=1, ttl="4s")
    with pytest.raises(demo.DemoError) as raised:
        await demo.run(terminal.Silence(), experiment)
    first, *logs = str(raised.value).splitlines()
    stage, _, rest = first.partition(": not balanced after ")
    assert stage in STAGES[1:4]
    assert rest.partition(": ")[2].startswith("node-")
    assert "; possible is " in rest
    assert 0 < len(logs) <= demo.BLAMED * 3
    assert all(line.startswith("app-") for line in logs)


def test_a_demonstration_that_fails_says_why() -> None:
    """Sidecars that reach no API server: status 1, one line that says what did not happen, and the ends of the logs."""
    done = _electionctl(
        "demo",
        *("--apps", "1", "--replicas", "2", "--nodes", "2"),
        env={"HTTP_PROXY": "http://127.0.0.1:1", "NO_PROXY": "", "no_proxy": ""},
    )
    assert done.returncode == 1
    assert "stock algorithm: 2 sidecars started" in done.stdout
    first, *logs = done.stderr.splitlines()
    assert first == (
        "electionctl: stock algorithm: not every election has a leader after 10 s: "
        "no leader that all candidates name in app-1"
    )
    for identity in ("app-1-0", "app-1-1"):
        assert any(line.startswith(f"{identity}: ") and "get failed" in line for line in logs)
    assert "Traceback" not in done.stderr


def test_a_sidecar_that_ends_unasked_is_an_error() -> None:
    """A sidecar that does not start makes the demonstration fail at once, and its last words are shown."""
    done = _electionctl(
        "demo", "--apps", "1", "--replicas", "2", "--nodes", "2", env={"ELECTION_LOG_LEVEL": "deafening"}
    )
    assert done.returncode == 1
    first, *logs = done.stderr.splitlines()
    assert first.startswith("electionctl: stock algorithm: app-1-")
    assert first.endswith(" exited 2")
    assert any("ELECTION_LOG_LEVEL" in line and "deafening" in line for line in logs)


@pytest.mark.parametrize(
    ("how", "prefix"),
    [
        pytest.param(signal.SIGINT, (), id="interrupted"),
        pytest.param(signal.SIGTERM, (), id="terminated"),
        pytest.param(signal.SIGTERM, ("sh", "-c", 'trap "" INT; exec "$0" "$@"'), id="terminated-in-the-background"),
    ],
)
def test_what_it_started_ends_with_it(how: signal.Signals, prefix: tuple[str, ...]) -> None:
    """Interrupted or terminated, it ends all of its sidecars, says nothing, and exits 130.

    So it does when it was started with SIGINT ignored, as a shell script starts what runs in its background.
    """
    command = [*prefix, str(ELECTIONCTL), "demo", *SMALL]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as program:
        _until(lambda: len(_children(program.pid)) == 9)
        started = _children(program.pid)
        program.send_signal(how)
        _, errors = program.communicate(timeout=30)
    assert (program.returncode, errors) == (130, b"")
    assert not [pid for pid in started if Path("/proc", str(pid)).exists()]


def _until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--ttl", "1s"),
        ("--ttl", "1h"),
        ("--ttl", "soon"),
        ("--apps", "0"),
        ("--apps", "11"),
        ("--apps", "five"),
        ("--replicas", "1"),
        ("--replicas", "11"),
        ("--nodes", "1"),
        ("--nodes", "9"),
        ("--seed", "-1"),
        ("--seed", "1" * 5000),
    ],
)
def test_an_option_that_does_not_fit_is_refused(option: str, value: str) -> None:
    """A value that is none, or is out of bounds, is refused in one line that names the option, with exit status 2."""
    done = _electionctl("demo", option, value)
    assert (done.returncode, done.stdout) == (2, "")
    [line] = done.stderr.splitlines()
    assert line.startswith(f"electionctl demo: argument {option}: ")


def test_too_many_processes_are_refused() -> None:
    """More sidecars than a machine should be asked for are refused in one line, before any is started."""
    done = _electionctl("demo", "--apps", "10", "--replicas", "6")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "electionctl: --apps 10 --replicas 6 makes 60 processes, more than 50\n"
