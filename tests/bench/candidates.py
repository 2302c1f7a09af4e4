"""The processes that are measured: started from a command template, asked who leads, looked at in /proc."""

from __future__ import annotations

import http.client
import json
import os
import shlex
import string
import subprocess
import time
import uuid
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from tests.bench.figures import Memory, parse_cpu_seconds, parse_smaps_rollup
from tests.testbed.processes import start, tail

if TYPE_CHECKING:
    import signal
    from collections.abc import Callable, Iterable, Mapping

    from sidecar.lab.placement import Pod
    from tests.bench.forking import ForkServer

PLACEHOLDERS = ("election", "id", "namespace", "port", "kubeconfig", "ttl")

ANSWER_SECONDS = 1.0
ANSWER_LIMIT = 64 * 1024
START_SECONDS = 60.0
"""Within which a candidate has to answer."""
EXIT_SECONDS = 15.0
"""Within which a candidate has to end after SIGTERM."""
START_PAUSE = 0.005
"""Seconds between two questions to a candidate that does not answer yet."""
FAILOVER_PAUSE = 0.004
"""Seconds between two questions to the followers, one after the other, so that the processor has time for them."""
TICKS = os.sysconf("SC_CLK_TCK")


class CandidateError(Exception):
    """A candidate did not do what it is there for; the message says which and what, with the end of its log."""


class TemplateError(Exception):
    """A command template cannot be used; the message is one line."""


class Process(Protocol):
    """What is used here of a process, whoever started it."""

    pid: int

    def poll(self) -> object:
        """Return its status when it has ended, None before."""

    def wait(self, timeout: float | None = None) -> object:
        """Wait for its end. Raises subprocess.TimeoutExpired."""

    def send_signal(self, number: signal.Signals, /) -> None:
        """Send it a signal; nothing happens when it has ended."""

    def kill(self) -> None:
        """Send SIGKILL; nothing happens when it has ended."""


class Candidate:
    """One process that takes part in one election, as a pod on a node.

    `variables` is what it finds in its environment beside what every pod has. With `fork_server` it is forked there.
    """

    def __init__(
        self,
        *,
        identity: str,
        port: int,
        command: list[str],
        kubeconfig: Path,
        log: Path,
        node: str = "",
        variables: Mapping[str, str] | None = None,
        fork_server: ForkServer | None = None,
    ) -> None:
        self.identity = identity
        self.port = port
        self.node = node
        self._command = command
        self._log = log
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("ELECTION_")}
        pod = {"POD_NAME": identity, "POD_UID": str(uuid.uuid4()), "NODE_NAME": node}
        self._environment = {**inherited, "KUBECONFIG": str(kubeconfig), **pod, **(variables or {})}
        self._fork_server = fork_server
        self._process: Process | None = None

    def begin(self) -> None:
        """Start it, and do not wait for anything. Raises OSError."""
        if self._fork_server is not None:
            self._process = self._fork_server.start(self._command, environment=self._environment, log=self._log)
        else:
            self._process = start(self._command, log=self._log, env=self._environment)

    def start(self) -> float:
        """Start it; return the seconds until its first answer. Raises CandidateError."""
        began = time.monotonic()
        self.begin()
        self.await_that(lambda: self.name() is not None, START_SECONDS, "does not answer", pause=START_PAUSE)
        return time.monotonic() - began

    def name(self) -> str | None:
        """Return the leader that its `/` names, `""` for nobody; None when it does not answer in time."""
        try:
            return leader_named_on(self.port)
        except ValueError as error:
            raise self._error(str(error)) from error

    def leads(self) -> bool:
        """Tell whether its own `/` names itself."""
        return self.name() == self.identity

    def await_that(
        self, condition: Callable[[], bool], seconds: float, problem: str, *, pause: float = START_PAUSE
    ) -> None:
        """Wait until a condition holds. Raises CandidateError when it ends before, or the time is up."""
        deadline = time.monotonic() + seconds
        while not condition():
            self.check()
            if time.monotonic() > deadline:
                raise self._error(f"{problem} within {seconds:g} s")
            time.sleep(pause)

    def check(self) -> None:
        """Raise CandidateError when it has ended."""
        status = None if self._process is None else self._process.poll()
        if status is not None:
            raise self._error(f"ended with status {status}")

    def send_signal(self, number: signal.Signals) -> None:
        """Send it a signal. Raises CandidateError when it has ended."""
        self.check()
        self._running().send_signal(number)

    def await_end(self) -> None:
        """Wait until it has ended. Raises CandidateError when it does not."""
        try:
            self._running().wait(EXIT_SECONDS)
        except subprocess.TimeoutExpired:
            raise self._error(f"did not end within {EXIT_SECONDS:g} s") from None

    def cpu_seconds(self) -> float:
        """Return the processor time of its process so far."""
        return cpu_seconds(self._running().pid)

    def memory(self) -> Memory:
        """Return what its process occupies."""
        return parse_smaps_rollup(Path(f"/proc/{self._running().pid}/smaps_rollup").read_text())

    def output(self) -> str:
        """Return all that it wrote to both outputs."""
        return self._log.read_text(errors="replace")

    def kill(self) -> None:
        """Send SIGKILL, if it is running."""
        if self._process is not None:
            self._process.kill()

    def bury(self) -> None:
        """Wait for the end that `kill` brings."""
        if self._process is not None:
            self._process.wait()

    def _running(self) -> Process:
        if self._process is None:
            raise self._error("was not started")
        return self._process

    def _error(self, problem: str) -> CandidateError:
        log = tail(self._log)
        return CandidateError(f"candidate {self.identity} {problem}" + (f"; its log ends:\n{log}" if log else ""))


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A command template, what its figures are called, and variables for its processes alone."""

    name: str
    template: str
    variables: Mapping[str, str] = field(default_factory=dict)
    is_own: bool = False
    """Whether it is this project's own program."""

    def candidate(
        self,
        pod: Pod,
        *,
        namespace: str,
        port: int,
        kubeconfig: Path,
        ttl: str,
        folder: Path,
        fork_server: ForkServer | None = None,
    ) -> Candidate:
        """Return what runs in a pod, not started yet; its log is to be in that folder. Raises TemplateError."""
        values = {
            "election": pod.election,
            "id": pod.identity,
            "namespace": namespace,
            "port": str(port),
            "kubeconfig": str(kubeconfig),
            "ttl": ttl,
        }
        return Candidate(
            identity=pod.identity,
            port=port,
            command=command_from(self.template, values),
            kubeconfig=kubeconfig,
            log=folder / f"{pod.identity}.log",
            node=pod.node,
            variables=self.variables,
            fork_server=fork_server,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Election:
    """The candidates of one election."""

    name: str
    candidates: list[Candidate]

    def leader(self) -> Candidate | None:
        """Return the candidate that every candidate names; None while they do not agree. Raises CandidateError."""
        named = set()
        for candidate in self.candidates:
            candidate.check()
            named.add(candidate.name())
        return next((one for one in self.candidates if named == {one.identity}), None)

    def await_leader(self, seconds: float) -> Candidate:
        """Wait until all agree on a leader. Raises CandidateError."""
        deadline = time.monotonic() + seconds
        while (leader := self.leader()) is None:
            if time.monotonic() > deadline:
                answers = {candidate.identity: candidate.name() for candidate in self.candidates}
                raise CandidateError(f"election {self.name}: no common leader within {seconds:g} s: {answers}")
            time.sleep(0.05)
        return leader

    def fail_over(self, number: signal.Signals, seconds: float) -> float:
        """Signal the leader; return the seconds until another's own `/` names itself. Raises CandidateError.

        Each follower is asked in its turn; one that is named by any of them is asked at once. Afterwards the old leader
        is started again, and has answered.
        """
        leader = self.await_leader(seconds)
        others = {candidate.identity: candidate for candidate in self.candidates if candidate is not leader}
        began = time.monotonic()
        leader.send_signal(number)
        for candidate in cycle(others.values()):
            named = others.get(candidate.name() or "")
            if named is not None and (named is candidate or named.leads()):
                break
            candidate.check()
            if time.monotonic() - began > seconds:
                raise CandidateError(f"election {self.name}: nobody leads {seconds:g} s after {number.name}")
            time.sleep(FAILOVER_PAUSE)
        elapsed = time.monotonic() - began
        leader.await_end()
        leader.start()
        return elapsed


def elections_of(pods: Iterable[Pod], candidates: Mapping[str, Candidate]) -> dict[str, Election]:
    """Return the elections that pods take part in, by name; `candidates` has what runs in each, by identity."""
    members: dict[str, list[Candidate]] = {}
    for pod in pods:
        members.setdefault(pod.election, []).append(candidates[pod.identity])
    return {name: Election(name=name, candidates=some) for name, some in members.items()}


def command_from(template: str, values: dict[str, str]) -> list[str]:
    """Fill the placeholders of a template; quotes are a shell's, but no shell runs it. Raises TemplateError."""
    try:
        words = shlex.split(template)
        for name in (name for word in words for _, name, _, _ in string.Formatter().parse(word) if name is not None):
            if name not in PLACEHOLDERS:
                known = " ".join(f"{{{placeholder}}}" for placeholder in PLACEHOLDERS)
                raise TemplateError(f"{template!r}: unknown placeholder {{{name}}}; there are {known}")
        filled = [word.format(**values) for word in words]
    except ValueError as error:
        raise TemplateError(f"{template!r}: {error}") from error
    if not filled:
        raise TemplateError("the command is empty")
    return filled


def leader_named_on(port: int) -> str | None:
    """Return the leader that `/` on a port of this machine names, `""` for nobody; None when nothing answers in time.

    Raises ValueError when it answers something else.
    """
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWER_SECONDS)
    try:
        client.request("GET", "/")
        body = client.getresponse().read(ANSWER_LIMIT)
    except (OSError, http.client.HTTPException):
        return None
    finally:
        client.close()
    try:
        return str(json.loads(body)["name"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"answers what is no leader's name: {body[:80]!r}") from error


def cpu_seconds(pid: int) -> float:
    """Return the processor time of a process so far."""
    return parse_cpu_seconds(Path(f"/proc/{pid}/stat").read_text(), ticks=TICKS)
