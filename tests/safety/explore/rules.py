"""What may happen next in a world.

Nothing happens by itself: that a process goes on, that a request arrives, an answer, a watch event, or that time
passes, each is a move, and `Rules.successors` has all of them. So a process that is stopped is one that makes no move
while time passes, and a slow network is one whose moves come late.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from sidecar.election import (
    Calm,
    Candidacy,
    Changed,
    Confirm,
    Conflicted,
    Count,
    Counted,
    Deleted,
    Failed,
    Fetched,
    HandOver,
    Leave,
    Leaving,
    Nominate,
    Read,
    Stand,
    State,
    Strike,
    Wait,
    WatchStarted,
    WatchStopped,
    Write,
    Written,
)
from sidecar.record import LOOK_ANNOTATION
from sidecar.registration import Registration, registration_key, registrations
from sidecar.settling import Look, Register, Settling
from tests.safety.explore import stock
from tests.safety.explore.calm import calm
from tests.safety.explore.core import EPOCH, BreachError, Core, counted
from tests.safety.explore.scenarios import LOCK
from tests.safety.explore.server import Server, is_blind
from tests.safety.explore.stock import Attempt, Stock
from tests.safety.explore.world import Move, Process, Request, Surveyed, World

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sidecar.election import Advice, Event, Order
    from tests.safety.explore.scenarios import Scenario

FIRST_VERSION = 100
"""Versions before it are those of other lock objects of the group."""

LATE = 2
"""Writes that were given up and may still arrive, at one time."""

_CONFLICTED = Conflicted()
_FAILED_READ = Failed()
_FAILED_WRITE = Failed(write=True)
_REFUSED_READ = Failed(refused=True)
_REFUSED_WRITE = Failed(write=True, refused=True)
_WATCHING = WatchStarted()
_BROKEN = WatchStopped()
_GAP = WatchStopped(gap=True)
_LEAVING = Leaving()


class Rules:
    """The moves of one scenario's worlds. Everything raises `BreachError` where a step breaks what must hold."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.core = Core(scenario)
        self.server = Server(scenario, self.core)
        self.last_tick = math.inf if scenario.steps is None else scenario.steps
        """After which no time passes any more."""
        self._advice: dict[tuple[str, ...], tuple[Advice, ...]] = {}
        self._stands: dict[str, Order] = {}
        self._started: dict[tuple[int, str], tuple[State, Settling | None]] = {}

    # -- The beginning --

    def first(self) -> World:
        """Return the world in which nothing has happened yet, or in which the first candidate leads."""
        scenario = self.scenario
        processes = tuple(
            Process(Stock(name), gone=bool(scenario.faults.get("swapped")))
            if number in scenario.stock
            else self.fresh(number, f"pod-{number}")
            for number, name in enumerate(scenario.identities)
        )
        world = World(0, FIRST_VERSION, None, processes, scenario.budget, pods=len(processes))
        if not scenario.led:
            return world
        for _ in range(30):
            world = calm(self, world)
            if self.leaders(world) == [0] and all(self._follows(world, number) for number in range(1, len(processes))):
                break
        else:
            raise BreachError(f"{scenario.name} has no beginning in which the first candidate leads")
        if scenario.steps is not None:
            self.last_tick = world.tick + scenario.steps
        return world

    def _follows(self, world: World, number: int) -> bool:
        process = world.processes[number]
        if process.gone or isinstance(process.state, Stock):
            return True
        observed = process.state.observed
        return observed is not None and observed.snapshot is world.stored

    def fresh(self, number: int, pod: str) -> Process:
        """Return the process of a candidate that has just started in this pod."""
        known = self._started.get((number, pod))
        if known is None:
            scenario = self.scenario
            name = scenario.identities[number]
            candidacy = Candidacy(
                identity=name,
                pod_uid=pod,
                node=f"node-{name}",
                lease_seconds=scenario.timings[number].lease,
                renew_deadline=scenario.timings[number].deadline,
                retry_period=scenario.timings[number].retry,
                balance=scenario.balance,
                releases_on_exit=scenario.releases_on_exit,
                release_delay=scenario.release_delay,
            )
            settling = Settling(candidacy=candidacy, lock=LOCK) if scenario.settles else None
            known = State(candidacy=candidacy), settling
            self._started[number, pod] = known
        return Process(*known)

    # -- What may be asked of a world --

    def leaders(self, world: World) -> list[int]:
        """Return who leads now, each on its own clock."""
        return [number for number in range(len(world.processes)) if self.leads(world, number)]

    def leads(self, world: World, number: int) -> bool:
        """Tell whether this one leads."""
        process = world.processes[number]
        if process.gone:
            return False
        if isinstance(process.state, Stock):
            return process.state.is_leading(self.now(world, number))
        return self.core.believes(number, process.state, world.tick).leads

    def now(self, world: World, number: int) -> float:
        """Return what the candidate's clock shows."""
        return self.core.moment(number, world.tick, 0.0).now

    def breach(self, world: World) -> str:
        """Return what is wrong in this world, `""` when nothing is."""
        leaders = []
        for number, process in enumerate(world.processes):
            if process.gone:
                continue
            if isinstance(process.state, Stock):
                if process.state.is_leading(self.now(world, number)):
                    leaders.append(number)
                continue
            belief = self.core.believes(number, process.state, world.tick)
            if belief.breach:
                return belief.breach
            if belief.leads:
                leaders.append(number)
        if len(leaders) > 1:
            return "two lead at once: " + " and ".join(self.called(world, number) for number in leaders)
        return ""

    def called(self, world: World, number: int) -> str:
        """Return a candidate's name, and which of those who may have it."""
        state = world.processes[number].state
        if isinstance(state, Stock):
            return f"{state.identity} (stock)"
        return f"{state.candidacy.identity} ({state.candidacy.pod_uid})"

    # -- What may happen --

    def successors(self, world: World) -> Iterator[tuple[Move, World]]:
        """Yield everything that may happen next, always in the same order, and the world after it."""
        if world.tick < self.last_tick:
            yield Move("time"), world._replace(tick=world.tick + 1)
        for number, process in enumerate(world.processes):
            if process.gone:
                if self.is_swapped_out(world, number):
                    yield Move("start", number), self.restarted(world, number)
            elif isinstance(process.state, Stock):
                yield from self._stock_moves(world, number, process, process.state)
            else:
                yield from self._candidate_moves(world, number, process, process.state)
        for index in range(len(world.late)):
            yield Move("arrive", -1, index), self.arrive(world, index)
        yield from self._hand_moves(world)

    def arrive(self, world: World, index: int) -> World:
        """Let a write that its sender has given up reach the API server."""
        write = world.late[index]
        world = world._replace(late=world.late[:index] + world.late[index + 1 :])
        return self.server.swap(world, write.base, self.server.changes_of(write))[0]

    def _candidate_moves(
        self, world: World, number: int, process: Process, state: State
    ) -> Iterator[tuple[Move, World]]:
        request = process.request
        if request is None:
            yield from self._acting(world, number, process, state)
        elif request.asked_at is None:
            yield Move("send", number), self.send(world, number)
        elif request.answer is None:
            served = self.serve(world, number)
            if self.scenario.coarse:
                yield from self._answering(served, number)
            else:
                yield Move("serve", number), served
            yield from self._failing(world, number, request)
        else:
            yield from self._answering(world, number)
        if process.side is not None:
            yield from self._settler_answers(world, number, process, process.side)
        elif process.settling is not None:
            for luck in self.scenario.lucks:
                if (settled := self.settle(world, number, luck)) is not world:
                    yield Move("settle", number, luck), settled
        yield from self._watch_moves(world, number, process, state)
        yield from self._process_faults(world, number, process, state)

    def _acting(self, world: World, number: int, process: Process, state: State) -> Iterator[tuple[Move, World]]:
        after, action = self.core.acts(number, state, world.tick)
        if isinstance(action, Wait):
            return
        yield Move("act", number, action.why), self.act(world, number)
        if world.left("stalled") and isinstance(action, Read | Write):
            process = process._replace(state=after, request=Request(action, None))
            yield Move("stall", number, action.why), world.after("stalled").having(number, process)

    def send(self, world: World, number: int) -> World:
        """Let a process send what it had decided on before it stood still."""
        process = world.processes[number]
        if process.request is None:
            raise TypeError("nothing was decided")
        sent = process.request._replace(asked_at=self.now(world, number))
        return world.having(number, process._replace(request=sent))

    def act(self, world: World, number: int) -> World:
        """Let a candidate that does not wait go on, up to the request that it sends."""
        process = world.processes[number]
        if not isinstance(process.state, State):
            raise TypeError("a stock candidate acts otherwise")
        after, action = self.core.acts(number, process.state, world.tick)
        if isinstance(action, Leave):
            return self._withdrawn(world.having(number, process._replace(state=after, gone=True)), number)
        if isinstance(action, Wait):
            raise TypeError("nothing is to be done")
        request = Request(action, self.now(world, number))
        return world.having(number, process._replace(state=after, request=request))

    def _withdrawn(self, world: World, number: int) -> World:
        """Whoever ends takes its registration off, if it sees one; nothing depends on that."""
        state = world.processes[number].state
        world = world.having(number, world.processes[number]._replace(request=None, side=None, behind=(), gap=0))
        if not isinstance(state, State) or state.observed is None or state.observed.snapshot is None:
            return world
        key = registration_key(state.candidacy.identity)
        registered = registrations(state.observed.snapshot.annotations).get(key)
        if registered is None or registered.pod_uid != state.candidacy.pod_uid or world.stored is None:
            return world
        return self.server.annotated(world, {key: None})[0]

    def serve(self, world: World, number: int) -> World:
        """Let the API server do what a request asks; the answer is on its way."""
        process = world.processes[number]
        request = process.request
        if request is None or request.asked_at is None:
            raise TypeError("nothing was asked")
        action = request.action
        answer: Event
        if isinstance(action, Read) or (isinstance(action, Attempt) and action.changes is None):
            if isinstance(process.state, State) and not process.state.watching and is_blind(process.state):
                # What came before this is what the answer shows; the watch will begin there.
                process = process._replace(behind=(), gap=0)
            answer = self.server.fetched(world.stored, request.asked_at)
        elif isinstance(action, Count):
            answer = self._counted(world, process)
        elif isinstance(action, Write | Attempt):
            changes = self.server.changes_of(action) if isinstance(action, Write) else dict(action.changes or ())
            world, applied = self.server.swap(world, action.base, changes)
            process = world.processes[number]
            answer = _CONFLICTED if applied is None else self.server.written(applied, request.asked_at)
        else:
            raise TypeError(f"{action} is the settler's")
        return world.having(number, process._replace(request=request._replace(answer=answer)))

    def _counted(self, world: World, process: Process) -> Counted:
        if not self.scenario.group or not isinstance(process.state, State):
            return counted(self.scenario.delays[0])
        return self.core.counts(process.state, self.server.census(world), LOCK)

    def _failing(self, world: World, number: int, request: Request) -> Iterator[tuple[Move, World]]:
        writes = isinstance(request.action, Write) or (
            isinstance(request.action, Attempt) and request.action.changes is not None
        )
        if isinstance(request.action, Count):
            if world.left("uncounted"):
                yield (
                    Move("uncounted", number),
                    self._learn(world.after("uncounted"), number, counted(None), 0.0),
                )
            return
        if world.left("lost"):
            spent = world.after("lost")
            for luck in self.scenario.lucks:
                failed = self._learn(spent, number, _FAILED_WRITE if writes else _FAILED_READ, luck)
                if isinstance(request.action, Write) and len(failed.late) < LATE:
                    failed = self.server.pruned(failed._replace(late=(*failed.late, request.action)))
                yield Move("lose", number, luck), failed
        if world.left("refused"):
            spent = world.after("refused")
            for luck in self.scenario.lucks:
                refused = _REFUSED_WRITE if writes else _REFUSED_READ
                yield Move("refuse", number, luck), self._learn(spent, number, refused, luck)

    def _answering(self, world: World, number: int) -> Iterator[tuple[Move, World]]:
        request = world.processes[number].request
        if request is None:
            raise TypeError("there is no answer")
        if isinstance(request.action, Count) and not self.scenario.group:
            for delay in self.scenario.delays:
                yield Move("count", number, delay), self._learn(world, number, counted(delay), 0.0)
            return
        seen = set()
        for luck in self.scenario.lucks:
            answered = self.answer(world, number, luck)
            if id(answered.processes[number].state) not in seen:
                seen.add(id(answered.processes[number].state))
                yield Move("answer", number, luck), answered
        if world.left("unanswered") and not isinstance(request.action, Count):
            failed = _FAILED_WRITE if isinstance(request.action, Write) else _FAILED_READ
            spent = world.after("unanswered")
            for luck in self.scenario.lucks:
                yield Move("drop", number, luck), self._learn(spent, number, failed, luck)

    def answer(self, world: World, number: int, luck: float) -> World:
        """Let the answer that is on its way arrive."""
        request = world.processes[number].request
        if request is None or request.answer is None or isinstance(request.answer, Surveyed):
            raise TypeError("there is no answer")
        return self._learn(world, number, request.answer, luck)

    def _learn(self, world: World, number: int, event: Event, luck: float) -> World:
        """End the request under way with this event."""
        process = world.processes[number]._replace(request=None)
        if isinstance(process.state, Stock):
            return world.having(number, process._replace(state=self._stock_learns(world, number, event)))
        return self._told(world, number, process, event, luck)

    def _told(self, world: World, number: int, process: Process, event: Event, luck: float) -> World:
        """Let a candidate learn something, and its settler take it in."""
        before = process.state
        if not isinstance(before, State):
            raise TypeError("a stock candidate learns otherwise")
        state = self.core.happens(number, before, event, world.tick, luck)
        return self._settled(world, number, process._replace(state=state), before, luck)

    def _settled(self, world: World, number: int, process: Process, before: State, luck: float) -> World:
        state, settling, side = process.state, process.settling, process.side
        if settling is not None and side is None and isinstance(state, State):
            state, settling, step = self.core.settles(number, state, settling, world.tick, luck)
            if step is not None:
                side = Request(step, self.now(world, number))
            process = process._replace(state=state, settling=settling, side=side)
        if not isinstance(state, State):
            return world
        world = self._led(world, number, before, state)
        if state.observed is not None and not (state.watching and self.scenario.repeats):
            version = state.observed.version
            behind = process.behind
            blind = not state.watching and state.must_read
            if behind and (blind or _version(behind[0]) <= version):
                kept = () if blind else tuple(each for each in behind if _version(each) > version)
                process = process._replace(behind=kept)
            if process.gap and not state.watching and (blind or process.gap <= version):
                process = process._replace(gap=0)
        world = world.having(number, process)
        return self._at_once(world, number, process, state) if self.scenario.coarse else world

    def _at_once(self, world: World, number: int, process: Process, state: State) -> World:
        if not process.gap and self.may_watch(process):
            return self.watch(world, number)
        if process.request is None and not isinstance(self.core.acts(number, state, world.tick)[1], Wait):
            return self.act(world, number)
        return world

    def _led(self, world: World, number: int, before: State, state: State) -> World:
        term = state.term
        if term is None or not term.confirmed or (before.term is not None and before.term.token == term.token):
            return world
        if not self.core.believes(number, state, world.tick).leads:
            return world
        if term.token <= world.token:
            me = state.candidacy
            raise BreachError(
                f"{me.identity} ({me.pod_uid}) leads with fencing token {term.token},"
                f" after somebody led with {world.token}"
            )
        return world._replace(token=term.token)

    # -- The watch --

    def _watch_moves(self, world: World, number: int, process: Process, state: State) -> Iterator[tuple[Move, World]]:
        if state.watching:
            if process.behind:
                seen = set()
                for luck in self.scenario.lucks:
                    shown = self.show(world, number, luck)
                    if id(shown.processes[number].state) not in seen:
                        seen.add(id(shown.processes[number].state))
                        yield Move("show", number, luck), shown
            if process.gap or world.left("gap"):
                spent = world if process.gap else world.after("gap")
                yield Move("gap", number), self.forget(spent, number)
            if world.left("broken"):
                yield Move("break", number), self._told(world.after("broken"), number, process, _BROKEN, 0.0)
        elif self.may_watch(process):
            yield Move("watch", number), self.watch(world, number)

    def may_watch(self, process: Process) -> bool:
        """Tell whether a candidate that does not watch may begin to."""
        state = process.state
        return (
            self.scenario.watches
            and isinstance(state, State)
            and not state.watching
            and state.observed is not None
            and state.observed.version > 0
            and not state.must_read
        )

    def watch(self, world: World, number: int) -> World:
        """Begin a watch where the candidate left off; when that is forgotten, it ends at once, with a gap."""
        process = world.processes[number]
        if process.gap:
            return self.forget(world, number)
        return self._told(world, number, process, _WATCHING, 0.0)

    def show(self, world: World, number: int, luck: float) -> World:
        """Let the watch show the next thing that happened."""
        process = world.processes[number]
        return self._told(world, number, process._replace(behind=process.behind[1:]), process.behind[0], luck)

    def forget(self, world: World, number: int) -> World:
        """Let a watch end whose version is forgotten: what it had yet to show it never will."""
        return self._told(world, number, world.processes[number]._replace(behind=(), gap=0), _GAP, 0.0)

    # -- The settler --

    def settle(self, world: World, number: int, luck: float) -> World:
        """Let a settler do what is due; the world stays as it is when nothing is."""
        process = world.processes[number]
        state, settling = process.state, process.settling
        if settling is None or process.side is not None or not isinstance(state, State):
            return world
        after, _, step = self.core.settles(number, state, settling, world.tick, luck)
        return world if after is state and step is None else self._settled(world, number, process, state, luck)

    def _settler_answers(
        self, world: World, number: int, process: Process, side: Request
    ) -> Iterator[tuple[Move, World]]:
        if side.answer is None:
            served = self.serve_settler(world, number)
            if self.scenario.coarse:
                for luck in self.scenario.lucks:
                    yield Move("settler answered", number, luck), self.answer_settler(served, number, luck)
            else:
                yield Move("settler served", number), served
            if isinstance(side.action, Look) and world.left("uncounted"):
                spent = world.after("uncounted")
                failed = process._replace(side=side._replace(answer=Surveyed(None)))
                yield Move("uncounted", number), spent.having(number, failed)
            if isinstance(side.action, Register) and world.left("lost"):
                spent = world.after("lost")
                yield Move("settler unserved", number), spent.having(number, process._replace(side=None))
        else:
            for luck in self.scenario.lucks:
                yield Move("settler answered", number, luck), self.answer_settler(world, number, luck)

    def serve_settler(self, world: World, number: int) -> World:
        """Let the API server do what a settler asks: annotate the lock object, or list the group's."""
        process = world.processes[number]
        side, state = process.side, process.state
        if side is None or not isinstance(state, State):
            raise TypeError("no settler asked")
        answer: Event | Surveyed
        if isinstance(side.action, Register):
            registration = side.action.registration
            key = registration_key(state.candidacy.identity)
            world, annotated = self.server.annotated(world, {key: registration.encode() if registration else None})
            process = world.processes[number]
            answer = _CONFLICTED if annotated is None else self.server.shown(annotated)
        else:
            answer = Surveyed(self.server.census(world))
        return world.having(number, process._replace(side=side._replace(answer=answer)))

    def answer_settler(self, world: World, number: int, luck: float) -> World:
        """Let what a settler asked for arrive."""
        process = world.processes[number]
        state, settling, side = process.state, process.settling, process.side
        if side is None or not isinstance(state, State) or settling is None:
            raise TypeError("no settler asked")
        process = process._replace(side=None)
        if isinstance(side.answer, Changed):
            return self._told(world, number, process, side.answer, luck)
        if isinstance(side.answer, Surveyed):
            told, settling = self.core.looks(
                number, state, settling, census=side.answer.census, tick=world.tick, luck=luck
            )
            process = process._replace(state=told, settling=settling)
        return self._settled(world, number, process, state, luck)

    # -- What befalls a process --

    def _process_faults(
        self, world: World, number: int, process: Process, state: State
    ) -> Iterator[tuple[Move, World]]:
        if world.left("crash"):
            yield Move("crash", number), self._killed(world.after("crash"), number, state.candidacy.pod_uid)
        if world.left("replaced"):
            pods = world.pods + 1
            spent = world.after("replaced")._replace(pods=pods)
            yield Move("replace", number), self._killed(spent, number, f"pod-{pods - 1}")
        if world.left("leaving") and not state.leaving:
            # Whoever leaves does not wait for a read or a census.
            process = process._replace(request=None) if _is_given_up(process.request) else process
            yield Move("leave", number), self._told(world.after("leaving"), number, process, _LEAVING, 0.0)
        yield from self._orders(world, number, process, state)
        if world.left("swapped"):
            swapped = self._killed(world.after("swapped"), number, state.candidacy.pod_uid)
            swapped = swapped.having(number, swapped.processes[number]._replace(gone=True))
            for other in self.scenario.stock:
                if self.scenario.identities[other] == state.candidacy.identity:
                    # A pod is not up within the second in which another one ended.
                    up = self.now(world, other) + self.scenario.timings[other].retry
                    started = swapped.having(other, Process(Stock(state.candidacy.identity, next_at=up)))
                    yield Move("swap", number), started
        if world.left("advised"):
            spent = world.after("advised")
            for advice in self._mad_advice(world):
                advised = self._told(spent, number, process, advice, 0.0)
                if advised.processes[number].state is not state:
                    yield Move("advise", number, advice), advised

    def _orders(self, world: World, number: int, process: Process, state: State) -> Iterator[tuple[Move, World]]:
        if world.left("ordered"):
            spent = world.after("ordered")
            for order in self.scenario.orders:
                yield Move("order", number, order), self._told(spent, number, process, order, 0.0)
        now = self.now(world, number)
        for abstention in state.abstentions:
            if now < abstention.until:
                order = self._stands.setdefault(abstention.why, Stand(abstention.why))
                yield Move("order", number, order), self._told(world, number, process, order, 0.0)

    def _killed(self, world: World, number: int, pod: str) -> World:
        request = world.processes[number].request
        if (
            request is not None
            and isinstance(request.action, Write)
            and request.answer is None
            and request.asked_at is not None
            and len(world.late) < LATE
        ):
            world = self.server.pruned(world._replace(late=(*world.late, request.action)))
        return world.having(number, self.fresh(number, pod))

    def is_swapped_out(self, world: World, number: int) -> bool:
        """Tell whether this process was killed so that a stock candidate could start under its name."""
        process = world.processes[number]
        swapped = self.scenario.faults.get("swapped", 0) > world.left("swapped")
        return swapped and process.gone and isinstance(process.state, State) and not process.state.leaving

    def restarted(self, world: World, number: int) -> World:
        """Let a process that was swapped out start again in its pod."""
        state = world.processes[number].state
        if not isinstance(state, State):
            raise TypeError("a stock candidate starts when it is swapped in")
        return world.having(number, self.fresh(number, state.candidacy.pod_uid))

    def _mad_advice(self, world: World) -> tuple[Advice, ...]:
        pods = tuple(process.state.candidacy.pod_uid for process in world.processes if isinstance(process.state, State))
        known = self._advice.get(pods)
        if known is None:
            names = dict.fromkeys(self.scenario.identities)
            living = [
                Registration(identity=name, node=f"node-{name}", pod_uid=pod)
                for name, pod in zip(self.scenario.identities, pods, strict=False)
            ]
            dead = [replace(registration, pod_uid="pod-of-old") for registration in living[-1:]]
            known = (
                Confirm(),
                Calm(),
                Nominate(""),
                *(Nominate(name) for name in names),
                *(HandOver(registration) for registration in [*living, *dead]),
                *(Strike(frozenset({registration_key(name)})) for name in names),
            )
            self._advice[pods] = known
        return known

    # -- What befalls the lock object --

    def _hand_moves(self, world: World) -> Iterator[tuple[Move, World]]:
        if world.stored is not None:
            if world.left("deleted"):
                spent = world.after("deleted")
                yield Move("delete"), self.server.changed(spent, None)
            if world.left("edited"):
                spent = world.after("edited")
                for edit in self.scenario.edits:
                    yield Move("edit", -1, edit), self.server.edited(spent, edit)
        if world.left("shifted"):
            group = (world.group + 1) % len(self.scenario.group)
            nudge = {LOOK_ANNOTATION: str(world.left("shifted"))}
            shifted = self.server.annotated(world.after("shifted"), nudge)[0]
            yield Move("shift"), shifted._replace(group=group)

    # -- Stock candidates --

    def _stock_moves(self, world: World, number: int, process: Process, state: Stock) -> Iterator[tuple[Move, World]]:
        request = process.request
        if request is None:
            if state.writes or self.now(world, number) >= state.next_at:
                yield Move("act", number), self.stock_acts(world, number)
        elif request.answer is None:
            served = self.serve(world, number)
            if self.scenario.coarse:
                yield from self._answering(served, number)
            else:
                yield Move("serve", number), served
            yield from self._failing(world, number, request)
        else:
            yield from self._answering(world, number)
        if world.left("crash"):
            crashed = world.after("crash").having(number, Process(Stock(state.identity)))
            yield Move("crash", number), crashed

    def stock_acts(self, world: World, number: int) -> World:
        """Let a stock candidate send what is due."""
        process = world.processes[number]
        if not isinstance(process.state, Stock):
            raise TypeError("no stock candidate")
        wall = EPOCH + int(world.tick * self.scenario.step)
        action = stock.attempt(process.state, wall, self.scenario.timings[number].lease)
        request = Request(action, self.now(world, number))
        return world.having(number, process._replace(request=request))

    def stock_is_due(self, world: World, number: int) -> bool:
        """Tell whether a stock candidate has something to send."""
        process = world.processes[number]
        state = process.state
        return (
            isinstance(state, Stock)
            and process.request is None
            and (state.writes or self.now(world, number) >= state.next_at)
        )

    def _stock_learns(self, world: World, number: int, event: Event) -> Stock:
        process = world.processes[number]
        now, (lease, deadline, retry) = self.now(world, number), self.scenario.timings[number]
        if not isinstance(process.state, Stock) or process.request is None or process.request.asked_at is None:
            raise TypeError("no stock candidate asked")
        match event:
            case Fetched(snapshot):
                return stock.read(process.state, snapshot, now, lease, retry)
            case Written(snapshot):
                asked_at = process.request.asked_at
                return stock.written(process.state, snapshot, now, until=asked_at + deadline, retry=retry)
        return stock.failed(process.state, now, retry)


def _is_given_up(request: Request | None) -> bool:
    return request is not None and isinstance(request.action, Read | Count)


def _version(entry: Changed | Deleted) -> int:
    return entry.version if isinstance(entry, Deleted) else entry.snapshot.version
