"""A plan: who takes part in which election, and what goes wrong when. Drawn up front from a seed, as plain data.

Being data, a plan can be printed, and played again with some of its faults left out.

Clocks stay within the bound under which leader election is promised: no clock runs `DRIFT` times as fast as another,
which is a little less than the lease divided by the renew deadline (1.5 with the default timing, which all have here).
What is drawn at the bound pairs the slowest with the fastest.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from random import Random
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

DRIFT: Final = 1.499
SLOWEST: Final = 0.85
"""Seconds that the slowest clock counts in one second; the fastest counts `DRIFT` times as many."""

OURS, STOCK = "ours", "stock"
FULL, BACKOFF, OFF = "full", "backoff", "off"
"""How a candidate minds nodes: hand-overs and back-off, back-off alone, or not at all."""

ENDPOINTS, PAIR, LEASES = "endpoints", "endpointsleases", "leases"
"""What a candidate's lock is, as `ELECTION_LOCK` says it."""

MIXES: Final = ((ENDPOINTS,), (ENDPOINTS, PAIR), (PAIR,), (PAIR, LEASES), (LEASES,))
"""Which locks there may be in one election: what a fleet goes through on its way from Endpoints to Leases."""

ELECTIONS: Final = ("red", "green", "blue")
NODES: Final = ("n1", "n2", "n3", "n4")
TTLS: Final = (4, 6, 10, 15)
"""Seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Participant:
    """A pod that takes part in an election, and what its machine's clocks are like."""

    identity: str
    election: str
    node: str
    ttl: int
    kind: str = OURS
    balance: str = OFF
    starts_at: float = 0.0
    rate: float = 1.0
    """Seconds that its clock counts in one second."""
    wall: float = 0.0
    """Seconds by which its time of day is off."""
    releases_on_exit: bool = True
    release_delay: float = 0.0
    """Seconds for which it keeps the lock after it was told to leave."""
    locks: tuple[str, ...] = (ENDPOINTS,)
    """The lock of its first pod, of the second one, and so on, and again from the beginning."""

    def __str__(self) -> str:
        what = "stock peer" if self.kind == STOCK else f"balance {self.balance}"
        told = f"{self.identity} in {self.election} on {self.node}: {what}, ttl {self.ttl} s, clock x{self.rate:g}"
        if self.locks != (ENDPOINTS,):
            told += f", locks {' then '.join(self.locks)}"
        if not self.releases_on_exit:
            told += ", releases nothing"
        elif self.release_delay:
            told += f", releases after {self.release_delay:.3f} s"
        return f"{told}, from {self.starts_at:.3f} s"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One thing that goes wrong.

    A target is an identity, a node, or `@election` for whoever leads that election when the fault begins; no targets
    are everybody.
    """

    at: float
    kind: str
    targets: tuple[str, ...] = ()
    lasts: float = 0.0
    """Seconds until it is put right."""
    how: Mapping[str, Any] = field(default_factory=dict)
    """The particulars, by name."""

    def __str__(self) -> str:
        whom = ", ".join(self.targets) or "everybody"
        lasting = f" for {self.lasts:.3f} s" if self.lasts else ""
        particulars = " ".join(f"{name}={_shown(value)}" for name, value in self.how.items())
        return f"{self.at:.3f} s: {self.kind} ({whom}){lasting} {particulars}".rstrip()


def _shown(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Everything that a seed stands for."""

    seed: int
    participants: tuple[Participant, ...]
    faults: tuple[Fault, ...]
    ends_at: float
    """When every fault that is left is put right, in seconds."""
    stock_permissions: bool = False
    """Whether candidates may do no more than the stock image: get, create and update."""

    @property
    def longest_ttl(self) -> int:
        """The longest of the participants'."""
        return max(participant.ttl for participant in self.participants)

    def without(self, index: int) -> Plan:
        """Return the plan with one fault left out."""
        return replace(self, faults=self.faults[:index] + self.faults[index + 1 :])

    def lines(self) -> list[str]:
        """Return the plan in words."""
        permissions = "those of the stock image" if self.stock_permissions else "all"
        return [
            f"seed {self.seed}, faults until {self.ends_at:.3f} s, permissions: {permissions}",
            *(f"  {participant}" for participant in self.participants),
            *(f"  fault {number}: {fault}" for number, fault in enumerate(self.faults, 1)),
        ]


def draw(seed: int) -> Plan:
    """Return the plan of a seed."""
    random = Random(f"plan/{seed}")  # noqa: S311 - plays, protects nothing
    ttl = random.choice(TTLS)
    participants = _draw_locks(seed, _draw_participants(random, ttl))
    ttl = max(participant.ttl for participant in participants)
    ends_at = ttl * random.uniform(3.0, 5.0)
    faults: list[Fault] = []
    for _ in range(random.randint(1, 6)):
        at = random.uniform(0.0, ends_at - ttl)
        faults += _draw_fault(random, participants, at, ttl)
    # What a hand may do to one lock object is told by that; what it would have to do to two is another matter.
    migrating = {each.election for each in participants if each.locks != (ENDPOINTS,)}
    faults = [fault for fault in faults if fault.kind != "hand edit" or migrating.isdisjoint(fault.targets)]
    return Plan(
        seed=seed,
        participants=participants,
        faults=tuple(sorted(faults, key=lambda fault: fault.at)),
        ends_at=ends_at,
        stock_permissions=random.random() < 0.06,
    )


# -- Who takes part ----------------------------------------------------------------------------------------------------


def _draw_participants(random: Random, ttl: int) -> tuple[Participant, ...]:
    nodes = NODES[: random.randint(2, len(NODES))]
    fleet = random.choices(["plain", "balanced", "mixed balance", "stock"], [6, 7, 2, 5])[0]
    drift = random.choices(["none", "mild", "bound", "first slowest"], [2, 1, 3, 5])[0]
    start = random.choice(["at once", "spread", "ordered"])
    mixed_ttls = fleet != "stock" and random.random() < 0.35
    participants = []
    for election in ELECTIONS[: random.choices([1, 2, 3], [6, 4, 2])[0]]:
        stock_peers = 0
        for index in range(random.choices([2, 3, 4, 5], [5, 6, 2, 1])[0]):
            kind = STOCK if fleet == "stock" and index and stock_peers < 2 and random.random() < 0.6 else OURS
            stock_peers += kind == STOCK
            participants.append(
                Participant(
                    identity=f"{election}-{index}",
                    election=election,
                    node=random.choice(nodes),
                    kind=kind,
                    balance=_draw_balance(random, fleet),
                    ttl=random.choice(TTLS) if mixed_ttls else ttl,
                    starts_at=_draw_start(random, start, index, ttl),
                    rate=_draw_rate(random, drift, index),
                    wall=random.choice([0.0, 0.0, random.uniform(-5, 5), random.uniform(-1e6, 1e6)]),
                    releases_on_exit=random.random() > 0.05,
                    release_delay=random.choices([0.0, ttl * random.uniform(0.1, 1.5)], [5, 1])[0],
                )
            )
    return tuple(participants)


def _draw_locks(seed: int, participants: tuple[Participant, ...]) -> tuple[Participant, ...]:
    """Have some elections in the middle of a migration, or behind it; a stock peer knows nothing but Endpoints."""
    random = Random(f"locks/{seed}")  # noqa: S311 - plays, protects nothing
    mixes = {}
    for election in dict.fromkeys(each.election for each in participants):
        stock = any(each.kind == STOCK for each in participants if each.election == election)
        mixes[election] = random.choices(MIXES, [8, 3, 2, 0, 0] if stock else [8, 3, 2, 3, 2])[0]
    drawn = []
    for each in participants:
        mix = mixes[each.election]
        first = random.randrange(len(mix))
        drawn.append(each if each.kind == STOCK else replace(each, locks=mix[first:] + mix[:first]))
    return tuple(drawn)


def _draw_balance(random: Random, fleet: str) -> str:
    match fleet:
        case "plain":
            return OFF
        case "balanced":
            return FULL
    return random.choice([OFF, BACKOFF, FULL, FULL])


def _draw_start(random: Random, start: str, index: int, ttl: int) -> float:
    if random.random() < 0.15:
        return ttl * random.uniform(0.5, 3.0)  # joins late
    match start:
        case "at once":
            return random.uniform(0.0, 0.01)
        case "spread":
            return random.uniform(0.0, 1.0)
    return index * random.uniform(0.5, 3.0)


def _draw_rate(random: Random, drift: str, index: int) -> float:
    match drift:
        case "none":
            return 1.0
        case "mild":
            return random.uniform(0.99, 1.01)
        case "first slowest":
            return SLOWEST * DRIFT if index else SLOWEST
    return random.choice([SLOWEST, SLOWEST * DRIFT])


# -- What goes wrong ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Scene:
    """What a fault is drawn for: `random` decides, and times are in units of `ttl`."""

    random: Random
    participants: tuple[Participant, ...]
    at: float
    ttl: int

    def leases(self, least: float, most: float) -> float:
        """Draw a time, in leases."""
        return self.ttl * self.random.uniform(least, most)

    def election(self) -> str:
        """Draw an election."""
        return self.random.choice(self.participants).election

    def one(self) -> tuple[str, ...]:
        """Draw one target: mostly a leader, because that is where it hurts."""
        if self.random.random() < 0.6:
            return (f"@{self.election()}",)
        return (self.random.choice(self.participants).identity,)

    def some(self) -> tuple[str, ...]:
        """Draw one, a node, an election, or everybody."""
        match self.random.choices(["one", "node", "election", "everybody"], [6, 2, 1, 2])[0]:
            case "one":
                return self.one()
            case "node":
                return (self.random.choice(self.participants).node,)
            case "election":
                chosen = self.election()
                return tuple(each.identity for each in self.participants if each.election == chosen)
        return ()

    def fault(
        self,
        kind: str,
        targets: tuple[str, ...],
        lasts: float = 0.0,
        *,
        later: float = 0.0,
        **how: Any,  # noqa: ANN401 - particulars are of any kind
    ) -> Fault:
        """Make a fault that begins `later` seconds after the scene."""
        return Fault(at=self.at + later, kind=kind, targets=targets, lasts=lasts, how=how)


def _draw_fault(random: Random, participants: tuple[Participant, ...], at: float, ttl: int) -> list[Fault]:
    drawn = random.choices(list(_FAULTS), [weight for weight, _ in _FAULTS.values()])[0]
    return _FAULTS[drawn][1](_Scene(random, participants, at, ttl))


def _crash(scene: _Scene) -> list[Fault]:
    again = scene.random.choices(["same pod", "other pod", "stock", "never"], [4, 3, 1, 1])[0]
    how: dict[str, Any] = {"again": again, "after": scene.leases(0.0, 1.2), "power_cut": scene.random.random() < 0.3}
    return [scene.fault("crash", scene.one(), **how)]


def _pause(scene: _Scene) -> list[Fault]:
    targets = scene.one() if scene.random.random() < 0.8 else scene.some()
    return [scene.fault("pause", targets, scene.leases(0.05, 2.5))]


def _leave(scene: _Scene) -> list[Fault]:
    again = scene.random.choices(["other pod", "never"], [4, 1])[0]
    return [scene.fault("leave", scene.one(), again=again, after=scene.leases(0.0, 0.5))]


def _abstain(scene: _Scene) -> list[Fault]:
    """Somebody must not lead for a while: its main container is unhealthy, or its node is cordoned."""
    patience = scene.random.choice([math.inf, math.inf, scene.leases(0.2, 1.0)])
    return [scene.fault("abstain", scene.some(), scene.leases(0.05, 2.0), patience=patience)]


def _step_down(scene: _Scene) -> list[Fault]:
    """A leader is told to step down, or asked to on the lock object, maybe while it does not hear of what happens."""
    targets, asked = (f"@{scene.election()}",), scene.random.random() < 0.5
    if scene.random.random() < 0.7:
        return [scene.fault("step down", targets, asked=asked)]
    lasts = scene.leases(0.3, 2.0)
    later = lasts * scene.random.uniform(0.1, 0.9)
    return [_cut_of(scene, targets, lasts), scene.fault("step down", targets, later=later, asked=asked)]


def _leave_in_trouble(scene: _Scene) -> list[Fault]:
    """Somebody is told to leave while it does not hear of what happens."""
    targets, lasts = scene.one(), scene.leases(0.3, 2.0)
    silent = _cut_of(scene, targets, lasts) if scene.random.random() < 0.7 else scene.fault("pause", targets, lasts)
    later = lasts * scene.random.uniform(0.1, 1.1)
    return [silent, scene.fault("leave", targets, later=later, again="other pod", after=scene.leases(0.0, 0.5))]


def _cut_of(scene: _Scene, targets: tuple[str, ...], lasts: float, *, later: float = 0.0) -> Fault:
    ways = scene.random.choices(["both", "up", "down"], [2, 1, 1])[0]
    return scene.fault("cut", targets, lasts, later=later, ways=ways, deliver=scene.random.random() < 0.6)


def _cut(scene: _Scene) -> list[Fault]:
    return [_cut_of(scene, scene.some(), scene.leases(0.1, 2.5))]


def _twin(scene: _Scene) -> list[Fault]:
    """A node is cut off, and one of its pods is made again elsewhere, while the old one runs on, or is restarted."""
    how: dict[str, Any] = {
        "after": scene.leases(0.0, 1.0),
        "as_stock": scene.random.random() < 0.25,
        "restarts": scene.random.random() < 0.3,
        "lingers": scene.leases(0.0, 0.6),
    }
    return [scene.fault("twin", scene.one(), scene.leases(0.5, 2.5), ways="both", deliver=True, **how)]


def _impostor(scene: _Scene) -> list[Fault]:
    """A machine goes down; a stock peer takes the place of its pod, which then comes back for a while."""
    back_after = scene.leases(0.3, 2.0)
    how = {"after": scene.leases(0.0, 0.5), "back_after": back_after, "lingers": scene.leases(0.2, 1.5)}
    return [scene.fault("impostor", scene.one(), **how)]


def _slow(scene: _Scene) -> list[Fault]:
    slowest = scene.leases(0.02, 0.5)
    ways = scene.random.choice(["both", "up", "down"])
    return [scene.fault("slow", scene.some(), scene.leases(0.2, 2.0), ways=ways, slowest=slowest)]


def _fading(scene: _Scene) -> list[Fault]:
    """A leader's answers come ever later, then its renewals do not arrive any more."""
    targets, lasts = (f"@{scene.election()}",), scene.leases(0.4, 1.0)
    slow = scene.fault("slow", targets, lasts, ways="down", slowest=scene.leases(0.08, 0.2))
    ways = scene.random.choice(["up", "both"])
    cut = scene.fault(
        "cut", targets, scene.leases(1.2, 2.5), later=lasts, ways=ways, deliver=scene.random.random() < 0.5
    )
    return [slow, cut]


def _watch_lag(scene: _Scene) -> list[Fault]:
    return [scene.fault("watch lag", scene.some(), scene.leases(0.3, 2.0), seconds=scene.leases(0.05, 1.5))]


def _half_open(scene: _Scene) -> list[Fault]:
    return [scene.fault("half-open", scene.some(), watches_only=scene.random.random() < 0.5)]


def _reset(scene: _Scene) -> list[Fault]:
    return [scene.fault("reset", scene.some())]


def _storm(scene: _Scene) -> list[Fault]:
    statuses = scene.random.choice([(409,), (429,), (500,), (503, 504), (429, 500, 503)])
    how: dict[str, Any] = {"statuses": statuses, "share": scene.random.choice([0.3, 0.7, 1.0])}
    if 429 in statuses or 503 in statuses:
        how["retry_after"] = scene.random.choice([0, 1, 2, 30])
    return [scene.fault("storm", scene.some(), scene.leases(0.1, 2.0), **how)]


def _lost_answers(scene: _Scene) -> list[Fault]:
    """Writes are applied, and the answer is a reset, an error, or nothing."""
    how: dict[str, Any] = {
        "answer": scene.random.choice(["reset", "500", "504", "none"]),
        "share": scene.random.choice([0.3, 0.7, 1.0]),
    }
    return [scene.fault("lost answers", scene.some(), scene.leases(0.1, 2.0), **how)]


def _stall(scene: _Scene) -> list[Fault]:
    """The API server takes requests and gets to them late, also to those whose clients have given up."""
    how: dict[str, Any] = {"latest": scene.leases(0.1, 1.5), "share": scene.random.choice([0.3, 1.0])}
    return [scene.fault("stall", scene.some(), scene.leases(0.1, 1.5), **how)]


def _restart(scene: _Scene) -> list[Fault]:
    down = scene.random.choice([scene.leases(0.0, 0.2), scene.leases(0.2, 2.0)])
    return [scene.fault("API server down", (), down, forgets=scene.random.random() < 0.7)]


def _compaction(scene: _Scene) -> list[Fault]:
    return [scene.fault("compaction", (), cuts=scene.random.random() < 0.7)]


def _expiry(scene: _Scene) -> list[Fault]:
    return [scene.fault("token expires", scene.some(), load_takes=scene.random.choice([0.0, scene.leases(0.0, 0.6)]))]


def _stale_lists(scene: _Scene) -> list[Fault]:
    return [scene.fault("stale lists", (), scene.leases(0.3, 2.0), seconds=scene.leases(0.1, 2.0))]


def _forbid(scene: _Scene) -> list[Fault]:
    verbs = scene.random.choice([("patch",), ("list",), ("watch",), ("patch", "list", "watch")])
    return [scene.fault("forbidden", scene.some(), scene.leases(0.3, 2.0), verbs=verbs)]


def _wall_jump(scene: _Scene) -> list[Fault]:
    return [scene.fault("wall clock set", scene.some(), by=scene.random.choice([-3600.0, -30.0, -1.0, 1.0, 86400.0]))]


def _edit(scene: _Scene) -> list[Fault]:
    how = scene.random.choices(
        ["delete", "strip", "garble", "rename", "impersonate", "release", "strip claim", "strip registrations"],
        [4, 2, 2, 2, 2, 1, 2, 2],
    )[0]
    edit = scene.fault("hand edit", (scene.election(),), edit=how)
    if scene.random.random() < 0.4:
        # The leader does not hear of it at once.
        deaf = scene.fault("cut", (f"@{edit.targets[0]}",), scene.leases(0.3, 1.5), ways="both", deliver=True)
        return [deaf, replace(edit, at=edit.at + scene.leases(0.0, 0.2))]
    return [edit]


def _writers(scene: _Scene) -> list[Fault]:
    how = {"every": scene.random.choice([0.02, 0.1, 0.5])}
    return [scene.fault("other writers", (scene.election(),), scene.leases(0.1, 0.8), **how)]


_FAULTS: Final[Mapping[str, tuple[int, Callable[[_Scene], list[Fault]]]]] = {
    "crash": (6, _crash),
    "pause": (6, _pause),
    "leave": (3, _leave),
    "leave in trouble": (2, _leave_in_trouble),
    "abstain": (4, _abstain),
    "step down": (3, _step_down),
    "cut": (7, _cut),
    "twin": (4, _twin),
    "impostor": (3, _impostor),
    "slow": (4, _slow),
    "fading": (8, _fading),
    "watch lag": (3, _watch_lag),
    "half-open": (3, _half_open),
    "reset": (2, _reset),
    "storm": (5, _storm),
    "lost answers": (5, _lost_answers),
    "stall": (3, _stall),
    "restart": (3, _restart),
    "compaction": (2, _compaction),
    "expiry": (2, _expiry),
    "stale lists": (2, _stale_lists),
    "forbid": (2, _forbid),
    "wall jump": (1, _wall_jump),
    "edit": (4, _edit),
    "writers": (2, _writers),
}
"""How often each of them is drawn, in parts, and how."""
