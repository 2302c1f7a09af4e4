"""Many seeds on several processes, what they found, and how much went wrong in them."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import threading
import time
from collections import Counter
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from tests.safety.simulate.plan import draw
from tests.safety.simulate.play import play

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from tests.safety.simulate.play import Outcome

PART: Final = 10
"""Seeds that a worker is given at once."""

AFTERMATH: Final = 1.5
"""Leases after its end in which a term that begins is put down to a fault."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Played:
    """What is kept of a seed."""

    seed: int
    violations: list[str]
    excused: int
    faults: dict[str, tuple[int, bool]]
    """By kind: how many there were, and whether a term began under one of them or in its aftermath."""
    terms: int
    recovered_after: float
    balances: bool
    requests: int
    cpu_seconds: float


@dataclass(slots=True)
class Tally:
    """What many seeds have in common."""

    seeds: int = 0
    failed: list[Played] = field(default_factory=list)
    excused: int = 0
    """Seeds in which a hand made a second leader."""
    terms: int = 0
    requests: int = 0
    balances: int = 0
    """Seeds in which leaders were to be spread in the end."""
    cpu_seconds: float = 0.0
    recovered_after: list[float] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)
    """By kind, how many there were."""
    seeds_with: Counter[str] = field(default_factory=Counter)
    """By kind, in how many seeds."""
    elected_under: Counter[str] = field(default_factory=Counter)
    """By kind, in how many of those a term began under it or in its aftermath."""

    def add(self, played: Played) -> None:
        """Count a seed in."""
        self.seeds += 1
        if played.violations:
            self.failed.append(played)
        else:
            self.recovered_after.append(played.recovered_after)
        self.excused += bool(played.excused)
        self.terms += played.terms
        self.requests += played.requests
        self.balances += played.balances
        self.cpu_seconds += played.cpu_seconds
        for kind, (number, elected) in played.faults.items():
            self.faults[kind] += number
            self.seeds_with[kind] += 1
            self.elected_under[kind] += elected


def play_seed(seed: int) -> Played:
    """Play one seed."""
    began = time.process_time()
    outcome = play(draw(seed))
    gc.collect()
    return Played(
        seed=seed,
        violations=outcome.violations,
        excused=len(outcome.excused),
        faults=_faults(outcome),
        terms=len(outcome.began),
        recovered_after=outcome.recovered_after,
        balances=outcome.balances,
        requests=outcome.requests,
        cpu_seconds=time.process_time() - began,
    )


def _faults(outcome: Outcome) -> dict[str, tuple[int, bool]]:
    found: dict[str, tuple[int, bool]] = {}
    for fault in outcome.plan.faults:
        until = fault.at + fault.lasts + AFTERMATH * outcome.plan.longest_ttl
        elected = any(fault.at <= when <= until for when, _ in outcome.began)
        number, before = found.get(fault.kind, (0, False))
        found[fault.kind] = number + 1, before or elected
    return found


def play_seeds(first: int, number: int, *, workers: int, advance: Callable[[int], None]) -> Generator[Played]:
    """Play that many seeds from `first` on, and yield what is kept of each, in whatever order they are done.

    Stop asking for more, and what is under way is given up. Raises BrokenProcessPool when a worker was killed.
    """
    if workers == 1:
        freeze()
        for seed in range(first, first + number):
            yield play_seed(seed)
            advance(1)
        return
    parts = [range(start, min(start + PART, first + number)) for start in range(first, first + number, PART)]
    others = set(multiprocessing.active_children())
    # Fresh processes: one that is forked would take along the locks of whatever threads there are.
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _begin)
    try:
        waiting = {pool.submit(_play_part, part) for part in parts}
        while waiting:
            done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            for future in done:
                played = future.result()
                advance(len(played))
                yield from played
    finally:
        # Nobody wants what is under way; it holds nothing but processor time.
        for process in set(multiprocessing.active_children()) - others:
            process.kill()
        pool.shutdown(cancel_futures=True)


def _play_part(part: range) -> list[Played]:
    return [play_seed(seed) for seed in part]


def freeze() -> None:
    """Spare the collection after each seed what is loaded by now."""
    gc.collect()
    gc.freeze()


def _begin() -> None:
    """Let this worker end when the process that started it does, however that ended, and not by the terminal."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    freeze()
    parent = multiprocessing.parent_process()

    def end_with_parent() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
