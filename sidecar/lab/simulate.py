"""Many trials of several policies on all processors, and what they come to.

The trial number i of a simulation with seed s has the seed s + i under every policy: a trial that went wrong is played
again, alone, by its own seed. The figures depend on nothing else, also not on how many processes share the work.
"""

from __future__ import annotations

import math
import multiprocessing
import signal
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from statistics import fmean
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from sidecar.lab import trial
from sidecar.lab.trial import SafetyError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from sidecar.lab.scenario import Scenario
    from sidecar.lab.trial import Outcome

SEEDS_SHOWN: Final = 20
"""Seeds of trials that did not end balanced, at most, in the figures of one phase."""

_NODES_SHOWN: Final = 6
_DIGITS: Final = 6


class TrialError(Exception):
    """A trial failed; says which one, and how it is played again."""


@dataclass(frozen=True, slots=True)
class Range:
    """Mean and greatest value; both `None` where there were no values."""

    mean: float | None
    max: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What one phase came to in all trials of one policy. Times are in seconds."""

    policy: str
    phase: str
    leaders_per_node: tuple[float, ...]
    """Mean load of the heaviest node, of the next one, and so on."""
    balanced: float
    """The share of runs that ended balanced."""
    unbalanced_seeds: tuple[int, ...]
    """The first `SEEDS_SHOWN` of the others."""
    spread_max: int
    """The greatest difference between the loads of two nodes."""
    variation: float
    """The mean coefficient of variation of the loads."""
    distance: Range
    """By how much the sum of the squared loads is above the optimum's."""
    leaderless: int
    """Elections, of all trials, that ended without a leader."""
    led_after: Range
    """From the end of the disturbance until every election had its leader."""
    settled_after: Range
    """From the end of the disturbance to the last change; of the trials that settled."""
    unsettled: int
    """Trials that did not settle in time."""
    leaders: Range
    """Terms that began in an election."""
    handovers: Range
    """Hand-overs of an election."""
    restless: int
    """Hand-overs, of all trials, that began in a balanced assignment."""
    requests: dict[str, int]
    """By verb, of all trials."""
    requests_per_election: dict[str, float]
    lists: Range
    """LIST requests of an election."""


@dataclass(frozen=True, slots=True)
class Result:
    """What was simulated, and what came out, by phase and then by policy."""

    scenario: Scenario
    policies: tuple[str, ...]
    trials: int
    seed: int
    figures: tuple[Figures, ...]

    def as_json(self) -> dict[str, Any]:
        """Return the same for programs."""
        return asdict(self)


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
            figures.append(_figures(policy, phase, [phases[index] for phases in of_policy], seed))
    return Result(scenario, tuple(policies), trials, seed, tuple(figures))


def _played(
    scenario: Scenario, asked: list[tuple[str, int]], workers: int, advance: Callable[[], None]
) -> list[list[Outcome]]:
    play = partial(_play, scenario)
    outcomes = []
    if workers == 1:
        for task in asked:
            outcomes.append(play(task))
            advance()
        return outcomes
    others = set(multiprocessing.active_children())
    # Fresh processes: one that is forked would take along the locks of whatever threads there are.
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _end_on_interrupt)
    try:
        for played in pool.map(play, asked):
            outcomes.append(played)
            advance()
    except BaseException as error:
        # What is under way may take minutes, and nobody wants it any more.
        for process in set(multiprocessing.active_children()) - others:
            process.terminate()
        if isinstance(error, BrokenProcessPool):
            raise TrialError("a process of the simulation was killed") from error
        raise
    finally:
        pool.shutdown(cancel_futures=True)
    return outcomes


def _end_on_interrupt() -> None:
    # Ctrl-C reaches the whole foreground; only the process that was started by hand has something to say then.
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _play(scenario: Scenario, task: tuple[str, int]) -> list[Outcome]:
    policy, seed = task
    try:
        return trial.run(scenario, policy, seed)
    except Exception as error:
        raise TrialError(
            f"policy {policy}, seed {seed}: {_said(error)}; again: --policy {policy} --seed {seed} --trials 1"
        ) from error


def _said(error: BaseException) -> str:
    """Return what went wrong in a line; of a group of errors, what went wrong first."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    kind = "" if isinstance(error, SafetyError) else f"{type(error).__name__}: "
    return kind + " ".join(str(error).split())


@contextmanager
def _progress(total: int) -> Iterator[Callable[[], None]]:
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("trials", total=total)
        yield partial(progress.advance, task)


# -- What it comes to --------------------------------------------------------------------------------------------------


def _figures(policy: str, phase: str, outcomes: list[Outcome], seed: int) -> Figures:
    places = max(len(outcome.loads) for outcome in outcomes)
    unbalanced = [seed + number for number, outcome in enumerate(outcomes) if not outcome.balanced]
    requests: Counter[str] = Counter()
    for outcome in outcomes:
        requests.update(outcome.requests)
    elections = sum(len(outcome.leaders) for outcome in outcomes)
    return Figures(
        policy=policy,
        phase=phase,
        leaders_per_node=tuple(
            _mean([outcome.loads[place] if place < len(outcome.loads) else 0 for outcome in outcomes])
            for place in range(places)
        ),
        balanced=_mean([outcome.balanced for outcome in outcomes]),
        unbalanced_seeds=tuple(unbalanced[:SEEDS_SHOWN]),
        spread_max=max(outcome.spread for outcome in outcomes),
        variation=_mean([outcome.variation for outcome in outcomes]),
        distance=_range(outcome.distance for outcome in outcomes),
        leaderless=sum(outcome.leaderless for outcome in outcomes),
        led_after=_range(outcome.led_after for outcome in outcomes),
        settled_after=_range(outcome.settled_after for outcome in outcomes),
        unsettled=sum(math.isinf(outcome.settled_after) for outcome in outcomes),
        leaders=_range(count for outcome in outcomes for count in outcome.leaders.values()),
        handovers=_range(count for outcome in outcomes for count in outcome.handovers.values()),
        restless=sum(outcome.restless for outcome in outcomes),
        requests=dict(sorted(requests.items())),
        requests_per_election={verb: round(count / elections, _DIGITS) for verb, count in sorted(requests.items())},
        lists=_range(count for outcome in outcomes for count in outcome.lists.values()),
    )


def _mean(values: Sequence[float]) -> float:
    return round(fmean(values), _DIGITS)


def _range(values: Iterable[float]) -> Range:
    finite = [value for value in values if math.isfinite(value)]
    return Range(_mean(finite), round(max(finite), _DIGITS)) if finite else Range(None, None)


# -- For people --------------------------------------------------------------------------------------------------------


def show(result: Result) -> None:
    """Print a table for each phase, with a column for each policy."""
    console = Console(highlight=False)
    asked = result.scenario
    for phase in asked.phases:
        of_phase = [figures for figures in result.figures if figures.phase == phase]
        table = Table(
            title=f"{phase}: {asked.apps} elections x {asked.replicas} candidates on {asked.nodes} nodes, "
            f"{result.trials} trials from seed {result.seed}",
            title_justify="left",
        )
        table.add_column()
        for figures in of_phase:
            table.add_column(figures.policy, justify="right")
        verbs = sorted({verb for figures in of_phase for verb in figures.requests})
        for row in zip(*(_rows(figures, verbs) for figures in of_phase), strict=True):
            table.add_row(row[0][0], *(cell for _, cell in row))
        console.print(table)


def _rows(figures: Figures, verbs: Sequence[str]) -> list[tuple[str, str]]:
    return [
        ("leaders per node", _loads(figures.leaders_per_node)),
        ("balanced runs", f"{figures.balanced:.2%}"),
        ("worst spread", str(figures.spread_max)),
        ("coefficient of variation", f"{figures.variation:.3f}"),
        ("above the optimum", _shown(figures.distance)),
        ("all led after (s)", _shown(figures.led_after)),
        ("settled after (s)", _shown(figures.settled_after)),
        ("runs not settled in time", str(figures.unsettled)),
        ("leaderless elections", str(figures.leaderless)),
        ("leaders an election", _shown(figures.leaders)),
        ("hand-overs an election", _shown(figures.handovers)),
        ("hand-overs when balanced", str(figures.restless)),
        ("LISTs an election", _shown(figures.lists)),
        *((f"{verb}: all (an election)", _requests(figures, verb)) for verb in verbs),
    ]


def _loads(loads: Sequence[float]) -> str:
    if len(loads) <= _NODES_SHOWN:
        return ":".join(f"{load:.2f}" for load in loads)
    return f"{loads[0]:.2f}..{loads[-1]:.2f}"


def _shown(range_: Range) -> str:
    if range_.mean is None or range_.max is None:
        return "never"
    most = str(range_.max) if isinstance(range_.max, int) else f"{range_.max:.2f}"
    return f"{range_.mean:.2f}, max {most}"


def _requests(figures: Figures, verb: str) -> str:
    return f"{figures.requests.get(verb, 0)} ({figures.requests_per_election.get(verb, 0):.2f})"
