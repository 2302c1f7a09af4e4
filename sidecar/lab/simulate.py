"""Many trials of several policies on all processors.

The trial number i of a simulation with seed s has the seed s + i under every policy: a trial that went wrong is played
again, alone, by its own seed. The figures depend on nothing else, also not on how many processes share the work.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from sidecar.lab import trial
from sidecar.lab.figures import Result, figures_of
from sidecar.lab.trial import SafetyError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from sidecar.lab.scenario import Scenario
    from sidecar.lab.trial import Outcome

_MOST_PARTS: Final = 1000
"""Into which the work is cut: all of it is handed out before the first worker has started."""

_ENDS: Final = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
"""What tells the command to end. A terminal sends it to the workers as well, and they have nothing to say to it."""


class TrialError(Exception):
    """A trial failed; says which one, and how it is played again."""


def run(scenario: Scenario, policies: Sequence[str], *, trials: int, seed: int, workers: int) -> Result:
    """Play `trials` trials of each policy in up to `workers` processes, with progress on a terminal.

    Raises `TrialError` when in any of them two candidates led at once, or a candidate failed.
    """
    asked = [(policy, seed + number) for policy in policies for number in range(trials)]
    with _progress(len(asked)) as advance:
        outcomes = _played(scenario, asked, min(workers, len(asked)), advance)
    figures = []
    for index, phase in enumerate(scenario.phases):
        for first, policy in enumerate(policies):
            of_policy = outcomes[first * trials : (first + 1) * trials]
            figures.append(figures_of(policy, phase, [phases[index] for phases in of_policy], seed=seed))
    return Result(scenario, tuple(policies), trials, seed, tuple(figures))


def _played(
    scenario: Scenario, asked: list[tuple[str, int]], workers: int, advance: Callable[[int], None]
) -> list[list[Outcome]]:
    size = -(-len(asked) // _MOST_PARTS)
    parts = [asked[first : first + size] for first in range(0, len(asked), size)]
    play = partial(_play, scenario)
    outcomes: list[list[Outcome]] = []
    if workers == 1:
        for part in parts:
            outcomes += play(part)
            advance(len(part))
        return outcomes
    others = set(multiprocessing.active_children())
    # Fresh processes: one that is forked would take along the locks of whatever threads there are.
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _end_with_parent)
    try:
        with _held_back():
            futures = [pool.submit(play, part) for part in parts]
        for future, part in zip(futures, parts, strict=True):
            outcomes += future.result()
            advance(len(part))
    except BaseException as error:
        # What is under way may take minutes, and nobody wants it any more.
        for process in set(multiprocessing.active_children()) - others:
            process.kill()
        if isinstance(error, BrokenProcessPool):
            raise TrialError("a process of the simulation was killed") from error
        raise
    finally:
        pool.shutdown(cancel_futures=True)
    return outcomes


@contextmanager
def _held_back() -> Iterator[None]:
    """Let signals wait until the block ends; to the processes that are started in it they never come."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_with_parent() -> None:
    """Let this worker end when the process that started it does, however that ended."""
    parent = multiprocessing.parent_process()

    def wait() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _play(scenario: Scenario, part: Sequence[tuple[str, int]]) -> list[list[Outcome]]:
    return [_play_one(scenario, policy, seed) for policy, seed in part]


def _play_one(scenario: Scenario, policy: str, seed: int) -> list[Outcome]:
    try:
        return trial.run(scenario, policy, seed)
    except Exception as error:
        again = f"electionctl simulate {scenario.asked_for}".rstrip()
        raise TrialError(
            f"policy {policy}, seed {seed}: {_said(error)}; again: {again} --policy {policy} --seed {seed} --trials 1"
        ) from error


def _said(error: BaseException) -> str:
    """Return what went wrong in a line; of a group of errors, what went wrong first."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    kind = "" if isinstance(error, SafetyError) else f"{type(error).__name__}: "
    return kind + " ".join(str(error).split())


@contextmanager
def _progress(total: int) -> Iterator[Callable[[int], None]]:
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("trials", total=total)
        yield partial(progress.advance, task)
