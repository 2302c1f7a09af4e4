"""What is explored: small worlds, each complete within the faults that it allows.

Seconds are made large or small so that everything that matters falls on a step of time: with a lease of 3 steps, a
renew deadline of 2 and a retry period of 1, back-offs and jitters end within the next step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from sidecar.balance import LockSeen
from sidecar.election import CHECK_SECONDS, Abstain, Balance
from sidecar.record import CLAIM_ANNOTATION, RECORD_ANNOTATION, Claim, Record, format_time
from sidecar.registration import Registration, registration_key

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sidecar.election import Order

FAULTS = {
    "lost": "a request that is lost, or applied any time after it was given up",
    "unanswered": "an answer that is lost, of a request that was served",
    "refused": "a request that the API server refuses",
    "crash": "a process that is killed, and starts again in the same pod",
    "replaced": "a process that is killed, and starts again under its name in another pod",
    "leaving": "a process that is told to end",
    "ordered": "a process is told not to stand for election, for a time or until it is told that it may",
    "deleted": "the lock object is deleted",
    "edited": "the record is edited by hand, or the leader asked there to step down",
    "broken": "a watch that ends, and goes on later where it was",
    "gap": "a watch that ends, and whose version is forgotten (410)",
    "stalled": "a process that stands still between the decision on a request and sending it",
    "advised": "advice of a balance that has gone mad",
    "shifted": "other elections of the group are led elsewhere from now on, and the leader is nudged",
    "uncounted": "a census that fails",
    "swapped": "a process that is killed, while a stock candidate starts under its name",
}
"""Each kind of fault that a scenario allows so many of; pauses, slow requests and watches that lag cost nothing."""

LOCK = "default/store"
"""The name of the explored lock object."""


class Timing(NamedTuple):
    """What a candidate's ttl comes to, in seconds."""

    lease: int = 3
    deadline: float = 2.0
    retry: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """A small world: who takes part, on which clocks, and how much goes wrong."""

    name: str
    about: str
    identities: tuple[str, ...] = ("a", "b")
    rates: tuple[float, ...] = (1.0, 1.0, 1.0)
    """How fast each candidate's clock runs."""
    stock: frozenset[int] = frozenset()
    """Which of them are candidates of the stock image."""
    balance: Balance | None = None
    """How those that are not take part in spreading leaders over nodes, candidate x on node-x."""
    settles: bool = False
    """Whether they have a settler; without one the balance is silent, or mad."""
    group: tuple[tuple[LockSeen, ...], ...] = ()
    """The other elections of the group: one list for each way in which they may be led."""
    delays: tuple[float | None, ...] = (0.0,)
    """By how much a bid is held back, where there is no group to count."""
    step: float = 1.0
    """Seconds that pass at once."""
    steps: int | None = None
    """How often they do, at most; `None` leaves time without end."""
    timings: tuple[Timing, ...] = (Timing(),) * 3
    lucks: tuple[float, ...] = (0.0,)
    faults: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    orders: tuple[Order, ...] = ()
    """What a process may be told by who runs it; one that abstained may stand again at any time."""
    release_delay: float = 0.0
    releases_on_exit: bool = True
    edits: tuple[str, ...] = ()
    coarse: bool = False
    """Whether what may follow at once does so in one move: an answer arrives as soon as the request was served, a
    process goes on as soon as it learnt something, and watches as soon as it may. So there are fewer orders, and longer
    stories come within reach; what may lie in between is explored by the scenarios that are not coarse."""
    watches: bool = True
    lag: int = 2
    """Events that a watch is behind, at most; one that falls back further breaks off with a gap."""
    repeats: bool = False
    """Whether a watch also shows what is known from an answer already, or that is left out: it changes nothing."""
    led: bool = False
    """Whether the first candidate leads already and the others follow it, or there is no lock object yet."""
    sampled: int = 1
    """Of so many states one is asked whether a leader is elected; 0 for none."""

    def __post_init__(self) -> None:
        """Refuse what is misspelt, or would never happen."""
        if unknown := self.faults.keys() - FAULTS.keys():
            raise ValueError(f"{self.name}: no such fault: {', '.join(sorted(unknown))}")

    @property
    def recovery(self) -> int:
        """Steps within which a leader is elected once faults ended: a lease, two retry periods, and maybe a check."""
        longest = max(timing.lease + 2 * timing.retry for timing in self.timings[: len(self.identities)])
        checks = CHECK_SECONDS if self.balance is not None else 0.0
        longest += self.release_delay
        return math.ceil((longest + checks) / min(self.rates[: len(self.identities)]) / self.step)

    @property
    def budget(self) -> tuple[int, ...]:
        """How many of each kind of fault there may be, in the order of `FAULTS`."""
        return tuple(self.faults.get(kind, 0) for kind in FAULTS)


def _other(name: str, node: str, *, nodes: tuple[str, ...], version: int) -> LockSeen:
    """Return another election of the group, which is led on `node` and could be led on `nodes`."""
    holder = f"{name}-on-{node}"
    now = format_time(1_700_000_000)
    record = Record(holder=holder, lease_seconds=3, acquire_time=now, renew_time=now, transitions=0)
    claim = Claim(holder=holder, node=node, pod_uid=holder, term=version, renewed=now)
    registered = {
        registration_key(f"{name}-on-{at}"): Registration(
            identity=f"{name}-on-{at}", node=at, pod_uid=f"{name}-on-{at}"
        ).encode()
        for at in nodes
    }
    annotations = {RECORD_ANNOTATION: record.encode(), CLAIM_ANNOTATION: claim.encode(), **registered}
    return LockSeen(f"default/{name}", version, annotations)


CROWDED = (_other("crowd", "node-a", nodes=("node-a",), version=1), _other("rest", "", nodes=("node-b",), version=2))
"""The first candidate's node leads another election, which cannot move: the explored one should be led on node-b."""

SPREAD = (_other("crowd", "node-b", nodes=("node-b",), version=1), _other("rest", "", nodes=("node-a",), version=2))
"""The other way round."""

NEVER, FULL = Balance(rebalance=False), Balance()

SCENARIOS = (
    Scenario(
        name="start",
        about="two start where there is no lock object, draw different luck, and stand still at any time",
        lucks=(0.0, 0.99),
        steps=3,
    ),
    Scenario(
        name="pauses",
        about="one leads, one follows, and both stand still at any time, or wait for an answer",
        led=True,
        steps=4,
    ),
    Scenario(
        name="drift",
        about="a slow clock leads, a fast one follows, at exactly the bound, lease / renew deadline: 1.5 times as fast",
        rates=(1.0, 1.5),
        led=True,
        coarse=True,
        faults={"crash": 1},
        steps=3,
    ),
    Scenario(
        name="drift-fine",
        about="the same without faults, in steps of half a second",
        rates=(1.0, 1.5),
        led=True,
        coarse=True,
        step=0.5,
        steps=8,
    ),
    Scenario(
        name="answers",
        about="answers are lost: whether the write was applied has to be found out",
        faults={"unanswered": 2},
        led=True,
        coarse=True,
        steps=3,
    ),
    Scenario(
        name="requests",
        about="a request is lost, or arrives at any time after it was given up",
        faults={"lost": 1},
        led=True,
        coarse=True,
        steps=4,
    ),
    Scenario(
        name="refusals",
        about="requests are refused, and processes stand still between a decision and its request",
        faults={"refused": 1, "stalled": 1},
        led=True,
        steps=3,
    ),
    Scenario(
        name="watches",
        about="watches lag, repeat what is known, break off, and lose what happened meanwhile",
        faults={"broken": 1, "gap": 1},
        repeats=True,
        led=True,
        coarse=True,
        steps=3,
    ),
    Scenario(
        name="polling",
        about="nobody may watch, and an answer is lost",
        faults={"unanswered": 1},
        watches=False,
        coarse=True,
        steps=5,
    ),
    Scenario(
        name="restarts",
        about="processes are killed, and start again in the same pod or, under the same name, in another one",
        faults={"crash": 1, "replaced": 1},
        led=True,
        coarse=True,
        steps=3,
    ),
    Scenario(
        name="namesakes",
        about="two pods under one name, of which one is killed, and loses a request",
        identities=("a", "a"),
        faults={"crash": 1},
        coarse=True,
        steps=4,
    ),
    Scenario(
        name="three",
        about="three candidates, of which one is killed",
        identities=("a", "b", "c"),
        faults={},
        led=True,
        coarse=True,
        steps=3,
    ),
    Scenario(
        name="ttls",
        about="two with different ttls: each waits for the lease in the record, be it longer or shorter than its own",
        timings=(Timing(6, 4.0, 2.0), Timing(3, 2.0, 1.0)),
        faults={},
        led=True,
        coarse=True,
        steps=7,
    ),
    Scenario(
        name="endings",
        about="a leader is told to end, and its release goes astray",
        faults={"leaving": 1, "unanswered": 1},
        led=True,
        coarse=True,
        steps=3,
    ),
    Scenario(
        name="late-endings",
        about="a leader that is told to end keeps the lock for a time in which nobody leads, while an answer is lost",
        release_delay=2.0,
        faults={"leaving": 1, "unanswered": 1},
        led=True,
        coarse=True,
        steps=4,
    ),
    Scenario(
        name="silent-endings",
        about="a leader that is told to end releases nothing, and may start again in the same pod",
        releases_on_exit=False,
        faults={"leaving": 1, "crash": 1},
        led=True,
        coarse=True,
        steps=4,
    ),
    Scenario(
        name="orders",
        about="processes are told not to lead, and may lead again; answers are lost",
        orders=(Abstain("unhealthy"), Abstain("stepped down", until=6.0), Abstain("cordoned", patience=2.0)),
        faults={"ordered": 1, "unanswered": 1},
        led=True,
        coarse=True,
        steps=4,
    ),
    Scenario(
        name="orders-crash",
        about="processes are told not to lead, and one is killed",
        orders=(Abstain("unhealthy"), Abstain("cordoned", patience=2.0)),
        faults={"ordered": 1, "crash": 1},
        led=True,
        coarse=True,
        steps=3,
    ),
    Scenario(
        name="step-down",
        about="the leader is asked on the lock object to step down, while a request is lost or a watch ends",
        faults={"edited": 1, "lost": 1, "gap": 1},
        edits=("step-down",),
        led=True,
        coarse=True,
        steps=3,
    ),
    Scenario(
        name="deletion",
        about="the lock object is deleted, while watches break off",
        faults={"deleted": 1, "gap": 1},
        led=True,
        coarse=True,
        steps=3,
    ),
    Scenario(
        name="editing",
        about="the record is edited by hand: another holder, no record, a damaged one",
        faults={"edited": 1, "gap": 1},
        edits=("holder", "stripped", "damaged"),
        led=True,
        coarse=True,
        steps=3,
    ),
    Scenario(
        name="mad-balance",
        about="a balance that says anything at any time: confirm, nominate, hand over to the living and the dead",
        balance=FULL,
        delays=(0.0, 2.0, None),
        faults={"advised": 2},
        led=True,
        coarse=True,
        steps=2,
    ),
    Scenario(
        name="checking",
        about="from the start, candidates check before they lead, and nobody tells them to confirm",
        balance=FULL,
        delays=(0.0, 2.0, None),
        coarse=True,
        steps=6,
    ),
    Scenario(
        name="hand-over",
        about="another election comes to the leader's node, and may leave it again: all steps of a hand-over",
        balance=FULL,
        settles=True,
        group=(SPREAD, CROWDED),
        faults={"shifted": 2},
        led=True,
        coarse=True,
        steps=1,
    ),
    Scenario(
        name="hand-over-losses",
        about="the same, while a request is lost, or its answer",
        balance=FULL,
        settles=True,
        group=(SPREAD, CROWDED),
        faults={"shifted": 1, "lost": 1},
        led=True,
        coarse=True,
        steps=2,
    ),
    Scenario(
        name="hand-over-blind",
        about="the same, while a census fails",
        balance=FULL,
        settles=True,
        group=(SPREAD, CROWDED),
        faults={"shifted": 1, "uncounted": 1},
        led=True,
        coarse=True,
        steps=2,
    ),
    Scenario(
        name="hand-over-crash",
        about="the same, while a process is killed",
        balance=FULL,
        settles=True,
        group=(SPREAD, CROWDED),
        faults={"shifted": 1, "crash": 1},
        led=True,
        coarse=True,
        steps=2,
    ),
    Scenario(
        name="hand-over-orders",
        about="the same, while one of the two is told not to lead",
        balance=FULL,
        settles=True,
        group=(SPREAD, CROWDED),
        orders=(Abstain("unhealthy"), Abstain("cordoned", patience=2.0)),
        faults={"shifted": 1, "ordered": 1},
        led=True,
        coarse=True,
        steps=2,
    ),
    Scenario(
        name="stock",
        about="one candidate of the stock image, one of ours",
        stock=frozenset({1}),
        faults={"unanswered": 1},
        coarse=True,
        steps=5,
    ),
    Scenario(
        name="stock-namesake",
        about="a stock candidate starts under the name of a pod that was killed, and the pod comes back",
        identities=("a", "a", "b"),
        stock=frozenset({1}),
        faults={"swapped": 1},
        led=True,
        coarse=True,
        steps=3,
    ),
)
"""The bounds are such that each can be explored completely in a few minutes.

At exactly the bound of the clocks leadership is still exclusive: it ends before the instant `valid_until`, and a
take-over begins at the instant `held_until` or later, so that the two may be one instant, and none is in both.
"""

BY_NAME = {scenario.name: scenario for scenario in SCENARIOS}
