"""The demonstration, as a user runs it."""

from __future__ import annotations

import errno
import json
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sidecar.lab import demo, terminal

if TYPE_CHECKING:
    from collections.abc import Mapping

pytestmark = pytest.mark.election

ELECTIONCTL = Path(sys.executable).with_name("electionctl")


def _electionctl(
    *arguments: str, env: Mapping[str, str] | None = None, seconds: float = 60
) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, **(env or {})}
    return subprocess.run(
        [ELECTIONCTL, *arguments], capture_output=True, text=True, timeout=seconds, check=False, env=environ
    )


def test_it_shows_both_take_overs_in_plain_lines() -> None:
    """In a pipe there are plain lines that tell of the election and both take-overs, and the exit status is 0."""
    done = _electionctl("demo", "--ttl", "2s")
    assert (done.returncode, done.stderr) == (0, "")
    assert "\x1b" not in done.stdout
    told = [line.split(" s  ", 1)[-1] for line in done.stdout.splitlines()]
    assert "leads, and all say so" in told[1]
    assert "SIGKILL to" in told[3]
    assert "took over" in told[4]
    assert "SIGTERM to" in told[5]
    assert "took over" in told[6]
    assert told[7].startswith("first leader after")


def test_it_shows_a_table_on_a_terminal() -> None:
    """On a terminal there is a table that says who leads and what became of the others, and the same lines."""
    ours, theirs = pty.openpty()
    environ = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "200", "LINES": "50"}
    command = [str(ELECTIONCTL), "demo", "--ttl", "2s"]
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environ) as program:
        os.close(theirs)
        shown = _read_to_the_end(ours)
    assert program.returncode == 0, shown
    assert "\x1b[" in shown
    for text in ("identity", "answer of /", '{"name":"demo-', "leading", "following", "killed", "terminated"):
        assert text in shown
    assert shown.count("took over") >= 2
    assert "first leader after" in shown.splitlines()[-1]


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


def test_programs_get_the_figures_and_nothing_else() -> None:
    """`--json` prints one object with the figures: three times in seconds, and requests a second by verb.

    With the ttl that a user gets who gives none: it is over within the time that a user was promised, and a release
    saves several seconds of the lease.
    """
    done = _electionctl("demo", "--json", seconds=45)
    assert (done.returncode, done.stderr) == (0, "")
    figures = json.loads(done.stdout)
    assert set(figures) == {"first_leader", "after_sigkill", "after_sigterm", "requests"}
    assert 0 < figures["after_sigterm"] < figures["after_sigkill"]
    assert set(figures["requests"]) == {"update"}


def test_a_demonstration_that_fails_says_why() -> None:
    """Sidecars that reach no API server: status 1, one line that says what did not happen, and the ends of the logs."""
    done = _electionctl("demo", "--ttl", "2s", env={"HTTP_PROXY": "http://127.0.0.1:1", "NO_PROXY": "", "no_proxy": ""})
    assert done.returncode == 1
    assert "started 3 sidecars" in done.stdout
    first, *logs = done.stderr.splitlines()
    assert first == "electionctl: after 15 s this had not happened: all agree on a leader"
    for identity in demo.CANDIDATES:
        assert any(line.startswith(f"{identity}: ") and "get failed" in line for line in logs)
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("ttl", ["1s", "1h", "soon"])
def test_a_ttl_that_does_not_fit_is_refused(ttl: str) -> None:
    """A ttl that is not a duration, or too short or too long to watch, is refused in one line with exit status 2."""
    done = _electionctl("demo", "--ttl", ttl)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("electionctl demo: error: argument --ttl: ")


def _with_flag(monkeypatch: pytest.MonkeyPatch, flag: str) -> None:
    flags = demo._flags
    monkeypatch.setattr(demo, "_flags", lambda sidecar, ttl: [*flags(sidecar, ttl), flag.format(sidecar.identity)])


async def test_what_should_happen_and_does_not_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Candidates that never elect a leader make the demonstration fail, with the ends of their logs."""
    _with_flag(monkeypatch, "--election-namespace=nowhere")
    monkeypatch.setattr(demo, "START_SECONDS", 4.0)
    with pytest.raises(demo.DemoError, match=r"this had not happened: all agree on a leader\n(demo-\d: .*\n?)+"):
        await demo.run(terminal.Silence(), ttl="2s")


async def test_two_leaders_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two sidecars that name themselves at once are noticed; here each has an election of its own."""
    _with_flag(monkeypatch, "--election=only-{}")
    with pytest.raises(demo.DemoError, match="two sidecars named themselves at once"):
        await demo.run(terminal.Silence(), ttl="2s")


async def test_a_sidecar_that_ends_unasked_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sidecar that does not start makes the demonstration fail at once, and its last words are shown."""
    monkeypatch.setattr(demo, "_flags", lambda _sidecar, _ttl: ["--no-such-flag"])
    with pytest.raises(demo.DemoError, match=r"(?s)exited 2.*unknown flag '--no-such-flag'"):
        await demo.run(terminal.Silence(), ttl="2s")
