"""Running campaigns: each target gets its share of the time, and what it reached is read from what libFuzzer says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.safety.fuzz import targets

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

ROOT = Path(__file__).resolve().parents[3]
"""The tree whose `sidecar` is fuzzed."""

BUILD = ROOT / "build" / "fuzz"
"""What is kept between runs: the corpus that was found, what libFuzzer said, and findings."""

UNIT_SECONDS = 20
"""One input may take so long, on a machine that is busy; a longer one is a finding."""

MEMORY_MIB = 1024
"""One process may use so much; more is a finding."""

LONGEST_INPUT = 4096
"""Bytes."""

GRACE_SECONDS = 60.0
"""How much longer than it was given a campaign may take, to start and to read its corpus."""

_REACHED = re.compile(r"cov: (\d+) ft: (\d+) corp: (\d+)/")
_EXECUTED = re.compile(r"^stat::number_of_executed_units: (\d+)", re.MULTILINE)
_PROGRESS = re.compile(r"^#(\d+)\t", re.MULTILINE)
_LOG_TAIL = 15


class HarnessError(Exception):
    """The fuzzer itself could not run; the text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What one campaign came to. `coverage` is branches and comparisons, `features` what libFuzzer tells apart."""

    target: str
    seconds: float
    cpu_seconds: float
    executions: int
    coverage: int
    features: int
    corpus: int
    findings: tuple[Path, ...]
    """Files: inputs that break a promise."""


class Campaign:
    """One running campaign."""

    def __init__(self, name: str, *, seconds: float, seed: int) -> None:
        target = targets.load(name)
        self.name = name
        self._seconds = seconds
        self._findings = BUILD / "findings" / name
        corpus = BUILD / "corpus" / name
        for folder in (self._findings, corpus):
            folder.mkdir(parents=True, exist_ok=True)
        self._known = set(self._findings.iterdir())
        self._log = BUILD / f"{name}.log"
        words = BUILD / f"{name}.dict"
        words.write_text("".join(f'"{_quoted(token)}"\n' for token in target.tokens), encoding="ascii")
        kept = [str(target.corpus)] if target.corpus.is_dir() else []
        command = [
            *(sys.executable, "-m", "tests.safety.fuzz.campaign", name),
            f"-max_total_time={max(1, round(seconds))}",
            f"-seed={seed}",
            f"-dict={words}",
            f"-artifact_prefix={self._findings}/",
            f"-timeout={UNIT_SECONDS}",
            f"-rss_limit_mb={MEMORY_MIB}",
            f"-max_len={LONGEST_INPUT}",
            "-print_final_stats=1",
            str(corpus),
            *kept,
        ]
        self._began = time.monotonic()
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(command, cwd=ROOT, env=_environment(), stdout=log, stderr=log)

    def poll(self) -> Outcome | None:
        """Return the outcome once there is one. Raises `HarnessError` when the fuzzer failed."""
        pid, ended, used = os.wait4(self._process.pid, os.WNOHANG)
        seconds = time.monotonic() - self._began
        if pid == 0:
            if seconds > self._seconds + UNIT_SECONDS + GRACE_SECONDS:
                self.end()
                raise HarnessError(f"{self.name}: the fuzzer did not end in time; see {self._log}")
            return None
        status = self._process.returncode = os.waitstatus_to_exitcode(ended)
        findings = tuple(sorted(set(self._findings.iterdir()) - self._known))
        said = self._log.read_text(errors="replace")
        if status != 0 and not findings:
            tail = "\n".join(said.splitlines()[-_LOG_TAIL:])
            raise HarnessError(f"{self.name}: the fuzzer ended with status {status}; it said last:\n{tail}")
        reached = [tuple(map(int, found)) for found in _REACHED.findall(said)]
        coverage, features, corpus = reached[-1] if reached else (0, 0, 0)
        executed = [*map(int, _PROGRESS.findall(said)), *map(int, _EXECUTED.findall(said))]
        return Outcome(
            target=self.name,
            seconds=round(seconds, 1),
            cpu_seconds=round(used.ru_utime + used.ru_stime, 1),
            executions=max(executed, default=0),
            coverage=coverage,
            features=features,
            corpus=corpus,
            findings=findings,
        )

    def end(self) -> None:
        """End the process, whatever it does."""
        self._process.kill()
        self._process.wait()


def run(names: Sequence[str], *, minutes: float, seed: int, workers: int, tell: Callable[[str], None]) -> list[Outcome]:
    """Fuzz each target for its share of the time, so many at once. Raises `HarnessError`."""
    share = minutes * 60 * workers / len(names)
    waiting, running, outcomes = list(names), list[Campaign](), list[Outcome]()
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                running.append(Campaign(waiting.pop(0), seconds=share, seed=seed))
                tell(f"{len(outcomes)} of {len(names)} done; now: {', '.join(one.name for one in running)}")
            for campaign in list(running):
                if (outcome := campaign.poll()) is not None:
                    running.remove(campaign)
                    outcomes.append(outcome)
            time.sleep(0.1)
    finally:
        for campaign in running:
            campaign.end()
    return sorted(outcomes, key=lambda outcome: names.index(outcome.target))


def _environment() -> dict[str, str]:
    """Return an environment in which this tree is what is imported, wherever the tests were started from."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH", ""))))
    return {**os.environ, "PYTHONPATH": path}


def _quoted(token: bytes) -> str:
    """Return a token as libFuzzer's dictionaries have it."""
    plain = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 -_.:/=,{}[]()$"
    return "".join(chr(byte) if byte in plain else f"\\x{byte:02x}" for byte in token)
