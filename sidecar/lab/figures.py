"""What the trials of a simulation come to, phase by phase and policy by policy."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sidecar.lab.scenario import Scenario
    from sidecar.lab.trial import Outcome

SEEDS_SHOWN: Final = 20
"""Seeds of trials that did not end balanced, at most, in the figures of one phase."""

_DIGITS: Final = 6


@dataclass(frozen=True, slots=True)
class Range:
    """Mean and greatest value; both `None` where there were no values."""

    mean: float | None
    max: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What one phase came to in all trials of one policy. Times are in seconds.

    Of how even the loads are, trials that ended with an election without a leader say nothing: `spread_max`,
    `variation` and `distance` leave them out, and are `None` when there were no others.
    """

    policy: str
    phase: str
    leaders_per_node: tuple[float, ...]
    """Mean load of the heaviest node, of the next one, and so on."""
    balanced: float
    """The share of trials that ended balanced."""
    unbalanced_seeds: tuple[int, ...]
    """The first `SEEDS_SHOWN` of the others."""
    spread_max: int | None
    """The greatest difference between the loads of two nodes."""
    variation: float | None
    """The mean coefficient of variation of the loads."""
    distance: Range
    """By how much the sum of the squared loads is above the least possible or, with weights, above the best found."""
    leaderless: int
    """Elections, of all trials, that ended without a leader."""
    leaderless_trials: int
    """Trials that ended with such an election."""
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
    counted_for: Range
    """How long terms, hand-overs and requests were counted in a trial: from the phase's beginning to its end."""


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

    def of_phase(self, phase: str) -> list[Figures]:
        """Return the figures of a phase, in the order of the policies."""
        return [figures for figures in self.figures if figures.phase == phase]

    @property
    def simulated(self) -> str:
        """What was simulated, for people; the options in it are as they are typed."""
        asked = self.scenario
        size = f"{asked.apps} elections x {asked.replicas} candidates on {asked.nodes} nodes"
        options = f"; {asked.asked_for}" if asked.asked_for else ""
        return f"{size}, {self.trials} trials from seed {self.seed}{options}"

    @property
    def loads_are(self) -> str:
        """What a load is, for people."""
        return "load per node (weight)" if self.scenario.is_weighted else "leaders per node"

    def balanced(self, figures: Figures) -> str:
        """Say for people how many trials ended balanced: no percentage, which would round 9999 of 10000 to all."""
        return f"{round(figures.balanced * self.trials)} of {self.trials}"


def figures_of(policy: str, phase: str, outcomes: Sequence[Outcome], *, seed: int) -> Figures:
    """Return what one phase came to, from its outcomes in the trials with the seeds from `seed` on."""
    places = max(len(outcome.loads) for outcome in outcomes)
    unbalanced = [seed + number for number, outcome in enumerate(outcomes) if not outcome.balanced]
    complete = [outcome for outcome in outcomes if not outcome.leaderless]
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
        spread_max=max((outcome.spread for outcome in complete), default=None),
        variation=_mean([outcome.variation for outcome in complete]) if complete else None,
        distance=_range(outcome.distance for outcome in outcomes if outcome.distance is not None),
        leaderless=sum(outcome.leaderless for outcome in outcomes),
        leaderless_trials=len(outcomes) - len(complete),
        led_after=_range(outcome.led_after for outcome in outcomes),
        settled_after=_range(outcome.settled_after for outcome in outcomes),
        unsettled=sum(math.isinf(outcome.settled_after) for outcome in outcomes),
        leaders=_range(count for outcome in outcomes for count in outcome.leaders.values()),
        handovers=_range(count for outcome in outcomes for count in outcome.handovers.values()),
        restless=sum(outcome.restless for outcome in outcomes),
        requests=dict(sorted(requests.items())),
        requests_per_election={verb: round(count / elections, _DIGITS) for verb, count in sorted(requests.items())},
        lists=_range(count for outcome in outcomes for count in outcome.lists.values()),
        counted_for=_range(outcome.counted_for for outcome in outcomes),
    )


def _mean(values: Sequence[float]) -> float:
    return round(fmean(values), _DIGITS)


def _range(values: Iterable[float]) -> Range:
    finite = [value for value in values if math.isfinite(value)]
    return Range(_mean(finite), round(max(finite), _DIGITS)) if finite else Range(None, None)
