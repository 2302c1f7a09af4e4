"""What is played in a simulation: who runs where, who starts when, and what happens after that.

A `Scenario` is what somebody asked for; `Cast` is what chance makes of it for one seed, the same for every policy.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random
from typing import TYPE_CHECKING, Final

from sidecar.lab import placement

if TYPE_CHECKING:
    from sidecar.lab.placement import Pod

POLICIES = STOCK, BACKOFF, FULL = "stock", "backoff", "full"
"""Policies: blind to nodes; bids from loaded nodes held back; that, and hand-over."""

SPREAD, RANDOM, RESTRICTED = "spread", "random", "restricted"
"""Placements: as the scheduler spreads pods; on any node; spread over a few nodes for each application."""

SPREAD_OUT, AT_ONCE, ORDERED, STRAGGLING = "spread", "at once", "ordered", "stragglers"
"""Kinds of start, one of which is drawn for each trial where they are mixed."""

LATENCY: Final = (0.001, 0.02)
"""Seconds of each way between a candidate and the API server."""

PAUSE: Final = (0.5, 3.0)
"""Seconds from a pod's being ready, or gone, until the one that waited for it has started."""

LATE: Final = (10.0, 30.0)
"""Seconds by which a straggler starts later than the others."""

STRAGGLING_SHARE: Final = 0.2
"""The part of the candidates that straggle where kinds of start are mixed."""

START, LATE_NODE, ROLLING_RESTART, NODE_LOSS, NODE_RETURN, QUIET = (
    "start",
    "late node",
    "rolling restart",
    "node loss",
    "node return",
    "quiet",
)
"""Phases."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """What is asked for. Times are in seconds."""

    apps: int = 5
    replicas: int = 5
    nodes: int = 3
    placement: str = SPREAD
    restricted_to: int = 0
    """On how many nodes the candidates of one application run, where placement is restricted."""
    starts: float = 1.0
    """The time over which starts are spread."""
    ordered: bool = False
    """As in a StatefulSet: each pod of an application starts after the one before it is ready."""
    stragglers: float = 0.0
    """The part of the candidates that start much later."""
    mixed_starts: bool = False
    """Draw the kind of start for each trial; then the two above do not count."""
    late_node: bool = False
    rolling_restart: bool = False
    node_loss: bool = False
    node_return: bool = False
    settle: float = 4.0
    """How long nothing may change, once every election has its leader, until what has happened counts as settled."""
    quiet: float = 0.0
    """How long to look on after everything has settled."""
    latency: tuple[float, float] = LATENCY
    """The time of each way between a candidate and the API server, drawn from this range."""
    weights: tuple[int, ...] = (1,)
    """What the weight of each election is drawn from."""
    ttl: int = 10
    """The lease."""

    @property
    def phases(self) -> tuple[str, ...]:
        """What happens, one after the other."""
        wanted = {
            START: True,
            LATE_NODE: self.late_node,
            ROLLING_RESTART: self.rolling_restart,
            NODE_LOSS: self.node_loss or self.node_return,
            NODE_RETURN: self.node_return,
            QUIET: self.quiet > 0,
        }
        return tuple(phase for phase, is_wanted in wanted.items() if is_wanted)

    @property
    def renew_deadline(self) -> float:
        """How long a leader tries to renew before it steps down."""
        return self.ttl * 2 / 3

    @property
    def retry_period(self) -> float:
        """The time from one renewal to the next."""
        return self.ttl / 4

    @property
    def request_timeout(self) -> float:
        """How long an answer is waited for: two requests fit between a renewal that is due and the deadline."""
        return (self.renew_deadline - self.retry_period) / 2

    @property
    def is_weighted(self) -> bool:
        """Whether loads are sums of weights, and not numbers of leaders."""
        return set(self.weights) != {1}

    @property
    def options(self) -> dict[str, str]:
        """The options of `electionctl simulate` that ask for this, with their values; that of a switch is `""`."""
        switches = {
            "--ordered": self.ordered,
            "--mixed-starts": self.mixed_starts,
            "--late-node": self.late_node,
            "--rolling-restart": self.rolling_restart,
            "--node-loss": self.node_loss,
            "--node-return": self.node_return,
        }
        return {
            "--apps": str(self.apps),
            "--replicas": str(self.replicas),
            "--nodes": str(self.nodes),
            "--placement": self.placement + (f":{self.restricted_to}" if self.placement == RESTRICTED else ""),
            "--weights": ",".join(map(str, self.weights)),
            "--starts": _decimal(self.starts),
            "--stragglers": _decimal(self.stragglers),
            **{switch: "" for switch, is_on in switches.items() if is_on},
            "--settle": _decimal(self.settle),
            "--quiet": _decimal(self.quiet),
            "--latency": ",".join(_decimal(way * 1000) for way in self.latency),
            "--ttl": f"{self.ttl}s",
        }

    @property
    def asked_for(self) -> str:
        """Those of the options that are not what they are by default, as they are typed; `""` when all of them are."""
        usual = Scenario().options
        return " ".join(f"{name} {value}".rstrip() for name, value in self.options.items() if usual.get(name) != value)


def _decimal(number: float) -> str:
    """Return it as the command line takes it: with nine decimals at most, and no exponent."""
    return f"{number:.9f}".rstrip("0").rstrip(".")


@dataclass(frozen=True, slots=True)
class Start:
    """When a pod starts.

    `after` seconds from the beginning or, where starts are ordered, from its predecessor's being ready.
    """

    pod: Pod
    after: float


@dataclass(frozen=True, slots=True)
class Cast:
    """One trial's course, as far as chance decides it beforehand."""

    starts: tuple[Start, ...]
    ordered: bool
    weights: dict[str, int]
    """By election."""
    late_node: str
    lost_node: str
    seed: int
    """For whatever chance decides on the way."""


def draw(scenario: Scenario, seed: int) -> Cast:
    """Return what this seed makes of a scenario."""
    random = Random(f"scenario {seed}")  # noqa: S311 - plays, protects nothing
    pods = _placed(scenario, random)
    kind = _kind(scenario, random)
    spread_over = 0.0 if kind == AT_ONCE else scenario.starts
    share = STRAGGLING_SHARE if scenario.mixed_starts else scenario.stragglers
    starts = []
    previous = ""
    for pod in pods:
        after = random.uniform(0.0, spread_over)
        if kind == ORDERED and pod.election == previous:
            after = random.uniform(*PAUSE)
        if kind == STRAGGLING and random.random() < share:
            after += random.uniform(*LATE)
        previous = pod.election
        starts.append(Start(pod, after))
    used = sorted({pod.node for pod in pods})
    return Cast(
        starts=tuple(starts),
        ordered=kind == ORDERED,
        weights={pod.election: random.choice(scenario.weights) for pod in pods[:: scenario.replicas]},
        late_node=random.choice(used),
        lost_node=random.choice(used),
        seed=random.getrandbits(64),
    )


def _kind(scenario: Scenario, random: Random) -> str:
    if scenario.mixed_starts:
        return random.choice((SPREAD_OUT, AT_ONCE, ORDERED, STRAGGLING))
    return ORDERED if scenario.ordered else STRAGGLING if scenario.stragglers else SPREAD_OUT


def _placed(scenario: Scenario, random: Random) -> list[Pod]:
    """Return all pods, those of one application together and in order."""
    nodes = [f"node-{number}" for number in range(1, scenario.nodes + 1)]
    pods = placement.spread(scenario.apps, scenario.replicas, nodes, random)
    if scenario.placement == RANDOM:
        return [replace(pod, node=random.choice(nodes)) for pod in pods]
    if scenario.placement == RESTRICTED:
        placed = []
        for first in range(0, len(pods), scenario.replicas):
            chosen = random.sample(nodes, scenario.restricted_to)
            # Each of the chosen nodes in turn: as even as it can be, and by chance who gets one more.
            siblings = pods[first : first + scenario.replicas]
            placed += [replace(pod, node=chosen[number % len(chosen)]) for number, pod in enumerate(siblings)]
        return placed
    return pods
