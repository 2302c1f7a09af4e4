"""The demonstration: leaders of several applications spread over the nodes, and stay spread when a node is lost.

First the stock algorithm elects, blind to nodes. Then the same pods start again, on the same nodes, and know their
nodes: the leaders must be spread as evenly as the placement allows, at a cold start, after a node was lost, after it
came back, and after a leader was told to end. The sidecars are processes of their own; only the API server is the
embedded one. Everything that is claimed is checked: what should happen and does not is a `DemoError`.
"""

from __future__ import annotations

import asyncio
import signal
import tempfile
from collections import Counter
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from statistics import median
from typing import TYPE_CHECKING, Protocol

from sidecar import duration
from sidecar.lab.apiserver import EmbeddedAPIServer
from sidecar.lab.chance import Chance, chance, sorted_loads
from sidecar.lab.fleet import Fleet
from sidecar.lab.observed import ObservedGroup, ratio
from sidecar.lab.observer import ObservationError, Observer
from sidecar.lab.placement import candidates_per_node, spread
from sidecar.lab.resources import NAMESPACES

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Sequence

    from sidecar.lab.observed import Board
    from sidecar.lab.placement import Pod

STOCK, NODE_AWARE = "stock-algorithm", "node-aware"
"""The namespaces of the two experiments."""

LOOK_SECONDS = 0.1
"""From one look at what was observed to the next."""

START_SECONDS, START_SECONDS_EACH = 10.0, 2.0
"""What processes may take until all of them answer; on two cores that do nothing else, each of them takes 0.3 s."""

LEADER_SECONDS = 10.0
"""What may pass from the last start until every election has a leader."""

BALANCE_SECONDS = 20.0
"""What may pass until the leaders are spread evenly, once all candidates answer and every lost lease has run out."""

STILL_SECONDS = 1.0
"""How long leaders must stay evenly spread before a stage counts as balanced."""

BLAMED = 8
"""Sidecars whose logs are quoted when something went wrong."""


class DemoError(Exception):
    """What should have happened did not. The first line says what and in which stage; the ends of logs follow."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """What is shown: so many applications with so many replicas each, on so many nodes.

    `seed` decides where the pods run, in which order they start, and who is told to end. `ttl` is the lease duration
    as the flag has it.
    """

    applications: int
    replicas: int
    nodes: int
    seed: int
    ttl: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StageFigures:
    """What came out of one stage. Times are in seconds."""

    stage: str
    balanced: bool
    leaders: dict[str, int]
    """Leaders on each node that was there."""
    sorted: tuple[int, ...]
    best: tuple[int, ...]
    """The most even leaders per node that the placement allows."""
    start_seconds: float
    """What it took to start processes, from the first start to the first answer of the last one; 0 where none were."""
    seconds: float
    """From the last start, or from what happened, until the leaders were as `leaders` has it."""
    hand_overs: list[float]
    """The gaps of hand-overs: how long nobody answered that it leads."""
    take_overs: list[float]
    """From the signal that ended a leader to the first answer of the next one."""
    requests: dict[str, int]
    """Requests to the API server by verb, of all sidecars together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What came out of the demonstration. Times are in seconds."""

    applications: int
    replicas: int
    nodes: int
    seed: int
    ttl: str
    chance: Chance
    """What the stock algorithm gives with this placement, computed."""
    stages: list[StageFigures]
    seconds: float


class Report(Protocol):
    """Where the demonstration says what happens."""

    def show(self, board: Board) -> None:
        """What is to be seen now; called often."""

    def tell(self, seconds: float, text: str) -> None:
        """Something happened, so many seconds after the start."""

    def picture(self, boards: Sequence[Board]) -> None:
        """What a stage ended with, beside what it is to be compared with."""


async def run(report: Report, experiment: Experiment) -> Figures:
    """Run the demonstration and return its figures. Raises `DemoError` when something did not happen as promised."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="leader-elector-demo-")))
        server = await stack.enter_async_context(EmbeddedAPIServer())
        for namespace in (STOCK, NODE_AWARE):
            server.store.create(NAMESPACES, "", {"metadata": {"name": namespace}})
        play = _Play(report, experiment, server, folder)
        try:
            return await play.run()
        except ObservationError as error:
            quoted = [line for sidecar in error.sidecars[:BLAMED] for line in sidecar.last_words()]
            raise DemoError("\n".join([f"{play.stage}: {error}", *quoted])) from error


class _Play:
    """The stages, one after the other."""

    def __init__(self, report: Report, experiment: Experiment, server: EmbeddedAPIServer, folder: Path) -> None:
        self.stage = "start"
        self._report = report
        self._experiment = experiment
        self._server = server
        self._folder = folder
        self._random = Random(experiment.seed)  # noqa: S311 - places pods, protects nothing
        self._nodes = tuple(f"node-{number + 1}" for number in range(experiment.nodes))
        self._pods = spread(experiment.applications, experiment.replicas, self._nodes, self._random)
        self._chance = chance(candidates_per_node(self._pods).values(), self._nodes)
        self._stages: list[StageFigures] = []
        self._clock = asyncio.get_running_loop().time
        self._began = self._since = self._clock()
        self._start_seconds = 0.0
        self._changes = 0
        self._requests: Counter[tuple[str, str]] = Counter()

    async def run(self) -> Figures:
        """See `run`."""
        shown = self._experiment
        self._tell(
            f"{shown.applications} applications with {shown.replicas} sidecars each on {shown.nodes} nodes, "
            f"ttl {shown.ttl}; the same placement again: --seed {shown.seed}"
        )
        stock = await self._stock()
        await self._node_aware(stock)
        took = round(self._clock() - self._began, 1)
        return Figures(**asdict(self._experiment), chance=self._chance, stages=self._stages, seconds=took)

    async def _stock(self) -> Board:
        async with self._group(STOCK, balance=False) as group:
            self._begin(group, "stock algorithm")
            await self._start(group, self._pods)
            await self._until(group, lambda: not group.leaderless, LEADER_SECONDS, "not every election has a leader")
            figures = self._end(group, self._clock() - self._since)
            luck = "even by chance" if figures.balanced else "uneven"
            mean = " : ".join(f"{load:.2f}" for load in self._chance.mean)
            self._tell(f"{ratio(figures.sorted)}, {luck}")
            self._tell(f"on average {mean}, and even in {self._chance.balanced:.0%} of cold starts with this placement")
            return group.board("stock algorithm", f"{ratio(figures.sorted)}, {luck}")

    async def _node_aware(self, stock: Board) -> None:
        async with self._group(NODE_AWARE, balance=True) as group:
            self._begin(group, "cold start")
            await self._start(group, self._pods)
            await self._balanced(group, BALANCE_SECONDS, beside=stock)

            self._begin(group, "a node is lost")
            group.lost = self._most_loaded(group)
            gone = [sidecar for sidecar in group.fleet.living if sidecar.pod.node == group.lost]
            self._tell(f"SIGKILL to all {len(gone)} sidecars on {group.lost}, which has the most leaders")
            for sidecar in gone:
                sidecar.end(signal.SIGKILL)
            await self._balanced(group, duration.parse(self._experiment.ttl) + BALANCE_SECONDS)

            self._begin(group, "the node comes back")
            self._tell(f"{len(gone)} new sidecars on {group.lost}")
            group.lost = ""
            await self._start(group, [sidecar.pod for sidecar in gone])
            await self._balanced(group, BALANCE_SECONDS)

            self._begin(group, "a leader ends")
            leaders = sorted(group.observer.leaders().items())
            leader = self._random.choice(leaders)[1]
            self._tell(f"SIGTERM to {leader.pod.identity} on {leader.pod.node}")
            leader.end(signal.SIGTERM)
            await self._balanced(group, BALANCE_SECONDS)
            if (code := await leader.process.wait()) != 0:
                raise ObservationError(f"{leader.pod.identity} exited {code} on SIGTERM instead of 0", leader)

    @asynccontextmanager
    async def _group(self, namespace: str, *, balance: bool) -> AsyncIterator[ObservedGroup]:
        kubeconfig = self._folder / f"{namespace}.kubeconfig"
        self._server.write_kubeconfig(kubeconfig, namespace=namespace)
        ttl = self._experiment.ttl
        async with (
            Fleet(self._folder, kubeconfig, namespace=namespace, ttl=ttl, balance=balance) as fleet,
            Observer(self._server.store, namespace) as observer,
        ):
            yield ObservedGroup(fleet, observer, self._nodes)

    # -- What every stage does -----------------------------------------------------------------------------------------

    def _begin(self, group: ObservedGroup, stage: str) -> None:
        """Begin a stage; what it is to cost counts from here."""
        self.stage = stage
        self._since = self._clock()
        self._start_seconds = 0.0
        self._changes = len(group.observer.changes)
        self._requests = Counter(self._server.requests)

    async def _start(self, group: ObservedGroup, pods: Iterable[Pod]) -> None:
        """Start the pods' sidecars, all at once, and wait until all of them answer; the time counts from then on."""
        ordered = list(pods)
        self._random.shuffle(ordered)
        started = await group.fleet.start(ordered)
        if not self._stages:
            told = " ".join(f"{name}={value}" for name, value in started[0].variables.items())
            self._tell(f"{told} leader-elector, and {len(started) - 1} more")
        group.observer.follow(started)
        limit = START_SECONDS + START_SECONDS_EACH * len(started)
        await self._until(group, lambda: not group.starting, limit, "not all sidecars answer")
        began, self._since = self._since, self._clock()
        self._start_seconds = self._since - began
        self._tell(f"{len(started)} sidecars started within {self._start_seconds:.1f} s")

    async def _balanced(self, group: ObservedGroup, seconds: float, *, beside: Board | None = None) -> None:
        """Wait until the leaders are spread as evenly as they can be and stay so, and tell what came out."""
        since = self._clock()

        def still_balanced() -> bool:
            nonlocal since
            if not group.balanced:
                since = self._clock() + LOOK_SECONDS
            return self._clock() - since >= STILL_SECONDS

        await self._until(group, still_balanced, seconds, "not balanced")
        figures = self._end(group, since - self._since)
        self._tell(f"{ratio(figures.sorted)}, balanced {figures.seconds:.1f} s after {self._what()}")
        for name, gaps in (("take-over", figures.take_overs), ("hand-over", figures.hand_overs)):
            if gaps:
                longest = f", the longest {max(gaps):.2f} s" if len(gaps) > 1 else ""
                self._tell(f"{_counted(len(gaps), name)}: {median(gaps):.2f} s without a leader{longest}")
        cost = ", ".join(f"{count} {verb}" for verb, count in figures.requests.items())
        self._tell(f"requests to the API server: {cost}")
        board = group.board(f"node-aware: {self.stage}", f"{ratio(figures.sorted)}, balanced")
        self._report.picture([board] if beside is None else [beside, board])

    def _end(self, group: ObservedGroup, seconds: float) -> StageFigures:
        """End a stage and return what came out of it."""
        changes = group.observer.changes[self._changes :]
        requests: Counter[str] = Counter()
        for (verb, _), count in (Counter(self._server.requests) - self._requests).items():
            requests[verb] += count
        figures = StageFigures(
            stage=self.stage,
            balanced=group.balanced,
            leaders=group.loads,
            sorted=sorted_loads(group.loads.values()),
            best=group.best,
            start_seconds=round(self._start_seconds, 2),
            seconds=round(seconds, 2),
            hand_overs=[round(change.gap, 3) for change in changes if change.handed_over],
            take_overs=[round(change.gap, 3) for change in changes if not change.handed_over],
            requests=dict(sorted(requests.items())),
        )
        self._stages.append(figures)
        return figures

    async def _until(self, group: ObservedGroup, holds: Callable[[], bool], seconds: float, otherwise: str) -> None:
        """Wait until something holds. Raises `ObservationError`, which says what did not, when that takes longer."""
        deadline = self._clock() + seconds
        while not holds():
            group.observer.check()
            self._report.show(group.board(self.stage))
            if self._clock() > deadline:
                self._report.picture([group.board(self.stage, otherwise)])
                raise ObservationError(f"{otherwise} after {seconds:g} s: {group.state}", *group.suspects)
            await asyncio.sleep(LOOK_SECONDS)
        group.observer.check()
        self._report.show(group.board(self.stage))

    def _most_loaded(self, group: ObservedGroup) -> str:
        """Return the node on which most elections are led; any of several."""
        most = max(group.loads.values())
        return self._random.choice([node for node, load in group.loads.items() if load == most])

    def _what(self) -> str:
        """Return from when on the stage's time is counted."""
        return "the last start" if self._start_seconds else "the signal"

    def _tell(self, text: str) -> None:
        self._report.tell(self._clock() - self._began, f"{self.stage}: {text}")


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'s' if number != 1 else ''}"
