"""Settling, as a pure function: when a candidate registers, looks, nominates, accepts, and nudges.

A candidate registers on the lock object, and accepts when it is nominated there. A holder looks: it takes a census,
makes the plan, and does its own part of it, and no other election's.

    look -> the plan does not move my election:  stay (and, when only checking until now, lead)
         -> it does:                             nominate a registered candidate on that node
              -> it accepted:                    look once more; if the plan still says so, hand over
              -> it did not, within a second:    strike it out, look again

It looks before it first leads, and again a little later; when the nodes change that its election can be led on; when
nothing changed for a while; when it is nudged; and now and then in any case. So that settled elections need not poll, a
look that finds that *another* election should move nudges that one's leader.

Nothing here decides who may lead. Whatever goes wrong with it, the election goes on without it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING

from sidecar.balance import MOVE_LIMIT, Census, plan
from sidecar.election import Calm, Confirm, HandOver, Nominate, Strike
from sidecar.record import LOOK_ANNOTATION
from sidecar.registration import REGISTRATION_LIMIT, Registration, registration_key, registrations

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sidecar.election import Advice, Candidacy, Moment, State, Term
    from sidecar.record import Snapshot

PAUSE = (0.05, 0.3)
"""Seconds between a change and the look that it causes, drawn from this range: changes come in crowds."""

SECOND_LOOK = 3.0
"""Seconds between the first look and the next one, give or take a quarter."""

CALM_SECONDS = 30.0
"""How long the membership has to stay the same until the election counts as settled, and its leader looks once more."""

SAFETY_SECONDS = 600.0
"""Between the looks of a settled leader: at least so long, at most a fifth longer."""

LARGE_GROUP = 50
"""Elections beyond which looks become rarer with the group, so that what all of it asks a second stays bounded."""

ACCEPTANCE_SECONDS = 1.0
"""How long a nominee has to accept."""

BLIND_SECONDS = 10.0
"""After so long without a watch that shows something, a candidate withdraws its registration.

At least two retry periods have to pass: a watch that has begun may show nothing before the next renewal."""

NUDGES = 3
"""Other elections whose leaders one look may nudge."""

NUDGE_SECONDS = 1.0
"""A nudge is honoured so long after the last one at the earliest."""

STAMP_SECONDS = 300.0
"""Between two stamps of a registration, at least."""

STAMPS_A_SECOND = 0.02
"""Stamps of one election, in the long run at most, however many candidates it has."""

MISSED_STAMPS = 3
"""After so many stamps that did not come, a registration is struck out."""

REGISTER_BACKOFF = (1.0, 300.0)
"""Seconds between attempts to register, after the first and at most: two may fight for one name."""


# -- What to do next ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Pause:
    """Do nothing before the instant `until`, unless something happens."""

    until: float


@dataclass(frozen=True, slots=True)
class Register:
    """Write this registration on the lock object; `None` withdraws it."""

    registration: Registration | None


@dataclass(frozen=True, slots=True)
class Look:
    """Take a consistent census of the group, and say what it was to `looked`."""


@dataclass(frozen=True, slots=True)
class Advise:
    """Tell the election."""

    advice: tuple[Advice, ...]


Step = Pause | Register | Look | Advise


# -- State -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Nominee:
    """Who is to lead next, once it has accepted."""

    key: str
    registration: Registration
    until: float
    """When it is too late to accept."""
    written: bool = False
    """Whether the nomination stands on the lock object."""
    accepted: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """What a holder of the lock keeps in mind beside its term."""

    look_at: float
    second_at: float = math.inf
    """When to look a second time after a quiet time: infinity before the first look, minus that after the second."""
    calm_at: float
    """When the election counts as settled, unless its membership changes."""
    nodes: frozenset[str]
    members: frozenset[tuple[str, str]]
    nudges: str
    """The counter of nudges, as it was last seen."""
    nudged_at: float = -math.inf
    nominee: Nominee | None = None
    moves: int = 0
    """How often the election was handed over since it was last settled."""
    refusals: int = 0
    """Nominations that were not accepted since the election was last settled."""
    stamps: Mapping[str, tuple[Registration, float]] = field(default_factory=lambda: MappingProxyType({}))
    """Each registration, and when it is to be struck out, unless it changes: judged, as by the candidate itself, by how
    many there were when it last did."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settling:
    """What one candidate knows about its place among the others. `why` says in a sentence what it did last."""

    candidacy: Candidacy
    lock: str
    """The name of the lock object, `namespace/election`."""
    registered: Registration | None = None
    """This candidate's registration as it was last seen on the lock object."""
    register_at: float = -math.inf
    attempts: int = 0
    """Attempts to register since the registration was last seen to stay."""
    nominated_in: int = 0
    """The version in which this candidate first saw the nomination that stands; 0 when there is none."""
    accept_at: float = -math.inf
    """When to accept it, or to try again."""
    holding: Holding | None = None
    there: bool = False
    """Whether there is a lock object to register on."""
    crowded: bool = False
    """So many are registered that nobody would read one more."""
    watching: bool = False
    blind_since: float = -math.inf
    """Since when changes of the lock object are not shown; meaningless while they are."""
    withdraw_at: float = -math.inf
    """When to withdraw the registration of somebody who is blind, or to try again."""
    abstains: bool = False
    """Whether this candidate does not stand for election, so that nobody may count on it."""
    why: str = ""


# -- What happened -----------------------------------------------------------------------------------------------------


def observe(settling: Settling, state: State, moment: Moment) -> Settling:
    """Take in what the election knows now."""
    settling = _see_watch(settling, state, moment)
    settling = _see_abstention(settling, state, moment)
    snapshot = state.observed.snapshot if state.observed else None
    if snapshot is None or state.leaving:
        return replace(settling, there=False, holding=None, registered=None, register_at=moment.now, nominated_in=0)
    known = registrations(snapshot.annotations)
    crowded = len(known) >= REGISTRATION_LIMIT and registration_key(settling.candidacy.identity) not in known
    settling = replace(settling, there=True, crowded=crowded)
    settling = _see_registration(settling, known, moment)
    settling = _see_nomination(settling, snapshot, moment)
    if state.term is None:
        return replace(settling, holding=None)
    holding = replace(settling.holding or _begin(state.term, snapshot, known, moment), moves=state.term.moves)
    holding = _see_members(holding, known, moment)
    holding = _see_nudge(holding, snapshot, moment)
    return replace(settling, holding=_see_nominee(holding, state.term, snapshot, known, moment))


def _see_watch(settling: Settling, state: State, moment: Moment) -> Settling:
    if settling.watching == state.watching and settling.blind_since > -math.inf:
        return settling
    back = state.watching and settling.register_at == math.inf
    register_at = moment.now if back else settling.register_at
    return replace(settling, watching=state.watching, blind_since=moment.now, register_at=register_at)


def _see_abstention(settling: Settling, state: State, moment: Moment) -> Settling:
    abstains = bool(state.abstains(moment.now))
    register_at = moment.now if settling.abstains and not abstains else settling.register_at
    return replace(settling, abstains=abstains, register_at=register_at)


def _see_registration(settling: Settling, known: Mapping[str, Registration], moment: Moment) -> Settling:
    me = settling.candidacy
    mine = known.get(registration_key(me.identity))
    if mine is not None and (mine.pod_uid, mine.node) != (me.pod_uid, me.node):
        mine = None
    if mine == settling.registered:
        return settling
    if mine is None:
        # Struck out, though alive; or the same name registered from elsewhere.
        return replace(settling, registered=None, register_at=max(moment.now, _next_attempt(settling, moment)))
    period = stamp_seconds(len(known))
    # It stayed once a further stamp is seen: two who fight for one name see their own now and then, too.
    attempts = 0 if settling.registered is not None else settling.attempts
    register_at = moment.now + period * (1 + moment.luck / 5)
    return replace(settling, registered=mine, register_at=register_at, attempts=attempts)


def _next_attempt(settling: Settling, moment: Moment) -> float:
    first, longest = REGISTER_BACKOFF
    if settling.attempts == 0:
        return moment.now
    return moment.now + min(longest, first * float(2 ** min(settling.attempts - 1, 10))) * (0.5 + moment.luck / 2)


def _see_nomination(settling: Settling, snapshot: Snapshot, moment: Moment) -> Settling:
    claim, me = snapshot.valid_claim, settling.candidacy
    nominated = claim is not None and claim.holder not in ("", me.identity) and claim.successor == me.identity
    if not nominated:
        return replace(settling, nominated_in=0)
    if settling.nominated_in:
        return settling
    return replace(settling, nominated_in=snapshot.version, accept_at=max(moment.now, settling.accept_at))


def _begin(term: Term, snapshot: Snapshot, known: Mapping[str, Registration], moment: Moment) -> Holding:
    return Holding(
        look_at=moment.now + (_between(*PAUSE, moment.luck) if term.confirmed else 0.0),
        calm_at=moment.now + CALM_SECONDS,
        # Whoever takes over from a leader that looked before it handed over need not look as often.
        second_at=-math.inf if term.confirmed else math.inf,
        nodes=_nodes(known),
        members=_members(known),
        nudges=snapshot.annotations.get(LOOK_ANNOTATION, ""),
    )


def _see_members(holding: Holding, known: Mapping[str, Registration], moment: Moment) -> Holding:
    """Look soon when the election can be led on other nodes than before; one more on the same node changes nothing."""
    limit = moment.now + MISSED_STAMPS * stamp_seconds(len(known))
    stamps = {
        key: stamp if (stamp := holding.stamps.get(key)) and stamp[0] == registration else (registration, limit)
        for key, registration in known.items()
    }
    members, nodes = _members(known), _nodes(known)
    if members != holding.members:
        calm = moment.now >= holding.calm_at
        holding = replace(
            holding,
            second_at=math.inf if calm else holding.second_at,
            calm_at=moment.now + CALM_SECONDS,
            look_at=holding.look_at if nodes == holding.nodes else _soon(holding, moment),
        )
    return replace(holding, members=members, nodes=nodes, stamps=MappingProxyType(stamps))


def _see_nudge(holding: Holding, snapshot: Snapshot, moment: Moment) -> Holding:
    nudges = snapshot.annotations.get(LOOK_ANNOTATION, "")
    if nudges == holding.nudges:
        return holding
    pending = holding.nudged_at > moment.now
    at = holding.nudged_at if pending else max(moment.now, holding.nudged_at + NUDGE_SECONDS)
    return replace(holding, nudges=nudges, nudged_at=at, look_at=min(holding.look_at, at))


def _see_nominee(
    holding: Holding, term: Term, snapshot: Snapshot, known: Mapping[str, Registration], moment: Moment
) -> Holding:
    nominee = holding.nominee
    if nominee is None:
        return holding
    if term.written.successor != nominee.registration.identity:
        # Not written yet; or it was, in a term that has ended since.
        return replace(holding, nominee=None) if nominee.written else holding
    registration = known.get(nominee.key)
    if registration is not None and registration.pod_uid != nominee.registration.pod_uid:
        registration = None
    if nominee.accepted:
        # It may have left since.
        return holding if registration is not None else replace(holding, nominee=None)
    if not nominee.written:
        nominee = replace(nominee, written=True, until=moment.now + ACCEPTANCE_SECONDS)
    if (
        registration is not None
        # What was accepted is this nomination, and none that nobody can have seen yet.
        and term.nominated_in <= registration.accepted < snapshot.version
    ):
        nominee = replace(nominee, accepted=True)
        holding = replace(holding, look_at=moment.now)
    return replace(holding, nominee=nominee)


# -- What to do next ---------------------------------------------------------------------------------------------------


def next_step(settling: Settling, moment: Moment) -> tuple[Settling, Step]:
    """Return what to do now; to be asked again whenever something happened or the pause is over."""
    now = moment.now
    if not settling.there:
        return settling, Pause(math.inf)
    accepted = _acceptance(settling)
    if accepted is not None and now >= settling.accept_at:
        return replace(settling, accept_at=now + ACCEPTANCE_SECONDS / 3), Register(accepted)
    holding = settling.holding
    if holding is None and settling.abstains:
        return _withdraw(settling, now)
    if holding is None and not settling.watching and now >= _blind_at(settling):
        # It could not see in time that it was nominated.
        return _withdraw(replace(settling, register_at=math.inf), now)
    if now >= settling.register_at and not settling.crowded:
        return _register(settling, moment)
    if holding is None:
        return settling, Pause(min(_own_instants(settling)))
    nominee = holding.nominee
    if nominee is not None and not nominee.accepted and now >= nominee.until:
        return _refused(settling, holding, nominee, moment)
    if now >= holding.look_at and (nominee is None or nominee.accepted):
        # Whatever asks for a look from here on asks for another one: the census may have been taken already.
        return replace(settling, holding=replace(holding, look_at=math.inf)), Look()
    return _keep_house(settling, holding, now)


def _acceptance(settling: Settling) -> Registration | None:
    """Return the registration that accepts the nomination, when there is one to accept."""
    mine = settling.registered
    if settling.abstains or not settling.watching or mine is None or mine.accepted >= settling.nominated_in:
        return None
    return replace(mine, accepted=settling.nominated_in)


def _register(settling: Settling, moment: Moment) -> tuple[Settling, Step]:
    me, mine = settling.candidacy, settling.registered
    registration = Registration(identity=me.identity, node=me.node, pod_uid=me.pod_uid)
    if mine is not None:
        registration = replace(mine, seen=mine.seen + 1)
    settling = replace(settling, attempts=settling.attempts + 1)
    return replace(settling, register_at=_next_attempt(settling, moment)), Register(registration)


def _withdraw(settling: Settling, now: float) -> tuple[Settling, Step]:
    if settling.registered is None:
        return settling, Pause(math.inf)
    if now < settling.withdraw_at:
        return settling, Pause(settling.withdraw_at)
    return replace(settling, withdraw_at=now + BLIND_SECONDS), Register(None)


def _refused(settling: Settling, holding: Holding, nominee: Nominee, moment: Moment) -> tuple[Settling, Step]:
    """Give a nominee up. Whoever does not answer is dead, or stopped, unless it is me who is not told."""
    name = nominee.registration.identity
    # Whoever was only checking leads now: it has been without a leader for long enough.
    advice: tuple[Advice, ...] = (Confirm(),)
    if settling.watching and nominee.written:
        advice += (Strike(frozenset({nominee.key})),)
    # A nomination that could not be written has held up a renewal, which comes first now.
    look_at = _soon(holding, moment) if nominee.written else moment.now + SECOND_LOOK
    holding = replace(holding, nominee=None, refusals=holding.refusals + 1, look_at=look_at)
    why = f"stayed: {name} on {nominee.registration.node} did not accept within {ACCEPTANCE_SECONDS:g} s"
    return replace(settling, holding=holding, why=why), Advise(advice)


def _keep_house(settling: Settling, holding: Holding, now: float) -> tuple[Settling, Step]:
    """Strike out whoever has not stamped for long, and count hand-overs anew once the election is settled."""
    mine = registration_key(settling.candidacy.identity)
    ends = {key: end for key, (_, end) in holding.stamps.items() if key != mine}
    if gone := frozenset(key for key, end in ends.items() if now >= end):
        stamps = {key: stamp for key, stamp in holding.stamps.items() if key not in gone}
        return replace(settling, holding=replace(holding, stamps=MappingProxyType(stamps))), Advise((Strike(gone),))
    next_look = holding.look_at if holding.nominee is None else holding.nominee.until
    return settling, Pause(min([next_look, *_own_instants(settling), *ends.values()]))


def _own_instants(settling: Settling) -> list[float]:
    """Return when there may be something to do about this candidate's own registration."""
    accept_at = settling.accept_at if _acceptance(settling) is not None else math.inf
    blind_at = math.inf if settling.watching or settling.holding else _blind_at(settling)
    return [math.inf if settling.crowded else settling.register_at, accept_at, blind_at]


# -- Looking -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a look led to: what the election is told, and which other elections' leaders are nudged, by lock name."""

    advice: tuple[Advice, ...] = ()
    nudges: tuple[str, ...] = ()


def looked(settling: Settling, census: Census | None, moment: Moment) -> tuple[Settling, Verdict]:
    """Decide on a census; `None` says that there is none, and then everything stays where it is."""
    holding = settling.holding
    if holding is None:
        return settling, Verdict()
    calm = moment.now >= holding.calm_at
    nominee = holding.nominee
    holding = replace(_next_look(holding, census, moment), nominee=None)
    moves = plan(census) if census is not None else {}
    target = moves.get(settling.lock, "")
    here = settling.candidacy.node
    compared = _compared(census, here, target)
    advice: list[Advice] = [Calm()] if calm else []
    if nominee is not None and target == nominee.registration.node:
        why = f"handed over to {nominee.registration.identity}: {compared}"
        advice.append(HandOver(nominee.registration))
    elif target and (chosen := _candidate_on(target, holding, settling)):
        why = f"nominated {chosen.registration.identity}: {compared}"
        advice.append(Nominate(chosen.registration.identity))
        # A plan that changed after somebody had accepted counts as a nomination in vain, or this could go on for ever.
        refusals = holding.refusals + (nominee is not None)
        chosen = replace(chosen, until=moment.now + 2 * ACCEPTANCE_SECONDS)
        holding = replace(holding, nominee=chosen, refusals=refusals)
    else:
        why = f"stayed: nobody is there to hand over to, though {compared}" if target else f"stayed: {compared}"
        advice.append(Confirm())
    nudges = _nudges(census, moves, settling.lock, moment) if census is not None else ()
    return replace(settling, holding=holding, why=why), Verdict(tuple(advice), nudges)


def _compared(census: Census | None, here: str, target: str) -> str:
    if census is None:
        return "there was no census"
    loads = census.loads()
    if target:
        return f"{here} carries {loads.get(here, 0)}, {target} carries {loads.get(target, 0)}"
    return f"{here} carries {loads.get(here, 0)} of {sum(loads.values())}, and a move would better nothing"


def _candidate_on(node: str, holding: Holding, settling: Settling) -> Nominee | None:
    """Return whom to nominate: the first by name of those who are registered on `node`."""
    if holding.refusals >= MOVE_LIMIT or not settling.watching:
        return None
    for key, (registration, _) in sorted(holding.stamps.items()):
        if registration.node == node and registration.identity != settling.candidacy.identity:
            return Nominee(key=key, registration=registration, until=math.inf)
    return None


def _next_look(holding: Holding, census: Census | None, moment: Moment) -> Holding:
    elections = len(census.elections) if census is not None else 0
    stretch = max(1.0, elections / LARGE_GROUP)
    if moment.now >= holding.calm_at:
        seconds = SAFETY_SECONDS * stretch * (1 + moment.luck / 5)
        if max(holding.moves, holding.refusals) >= MOVE_LIMIT:
            # It could not move although it should have, and from now on it may.
            seconds = SECOND_LOOK
        at = moment.now + seconds
        return replace(holding, look_at=min(holding.look_at, at), refusals=0, second_at=-math.inf)
    if census is None:
        # That was no look. The API server, out of breath after an outage, has one for those who ask again.
        at = moment.now + SECOND_LOOK * _between(0.75, 1.25, moment.luck)
        return replace(holding, look_at=min(holding.look_at, at, holding.calm_at))
    if moment.now >= holding.second_at:
        return replace(holding, look_at=min(holding.look_at, holding.calm_at), second_at=-math.inf)
    # A look soon after the first one puts the second one off, which is for what all of these missed.
    second_at = moment.now + SECOND_LOOK * stretch * _between(0.75, 1.25, moment.luck)
    return replace(holding, look_at=min(holding.look_at, second_at, holding.calm_at), second_at=second_at)


def _nudges(census: Census, moves: Mapping[str, str], lock: str, moment: Moment) -> tuple[str, ...]:
    """Return which others to nudge: those that should move now and are not about to. Not everybody nudges the same."""
    idle = {election.name for election in census.elections if not election.moves}
    others = sorted(name for name in moves if name != lock and name in idle)
    first = int(moment.luck * len(others))
    return tuple((others[first:] + others[:first])[:NUDGES])


# -- Small questions ---------------------------------------------------------------------------------------------------


def stamp_seconds(candidates: int) -> float:
    """Return the seconds between two stamps of a registration, in an election of so many candidates."""
    return max(STAMP_SECONDS, candidates / STAMPS_A_SECOND)


def _blind_at(settling: Settling) -> float:
    return settling.blind_since + max(BLIND_SECONDS, 2 * settling.candidacy.retry_period)


def _members(known: Mapping[str, Registration]) -> frozenset[tuple[str, str]]:
    return frozenset((key, registration.pod_uid) for key, registration in known.items())


def _nodes(known: Mapping[str, Registration]) -> frozenset[str]:
    return frozenset(registration.node for registration in known.values())


def _soon(holding: Holding, moment: Moment) -> float:
    return min(holding.look_at, moment.now + _between(*PAUSE, moment.luck))


def _between(least: float, most: float, luck: float) -> float:
    return least + (most - least) * luck
