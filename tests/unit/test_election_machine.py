"""Two or three candidates, one lock object, and everything that can go wrong between them, in every order.

The world is as bad as the election is promised to bear: clocks run at different rates (within the bound), requests
take any time, answers are lost, writes that were given up for lost are applied later, watches lag, break off and miss
nothing or everything, processes stop for any time, crash, restart, move to another pod under the same name, leave.

And the balance is as bad as it can be: its census says anything and comes at any time or never, it confirms, nominates
and hands over when there is no reason to, to whoever there is or is not.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from sidecar.election import (
    CHECK_SECONDS,
    SUCCESSOR_SECONDS,
    Advice,
    Balance,
    Calm,
    Changed,
    Confirm,
    Conflicted,
    Count,
    Counted,
    Event,
    Failed,
    Fetched,
    HandOver,
    Leave,
    Leaving,
    Moment,
    Nominate,
    Read,
    State,
    Strike,
    WatchStarted,
    WatchStopped,
    Write,
    Written,
    apply,
    next_action,
)
from sidecar.record import CHECKING, CLAIM_ANNOTATION, LEADING
from sidecar.registration import Registration, registration_key
from tests.unit.player import EPOCH, LEASE, candidacy, held, lock, result

if TYPE_CHECKING:
    from sidecar.record import Snapshot

RATES = (1.3, 0.8, 1.0)
"""How fast each candidate's clock runs. 1.3 / 0.8 is just below lease / renew deadline, 10 / 6."""

NAMES = ("a", "b", "a")
"""Two of the candidates have one name, in different pods."""

BALANCES = (None, Balance(rebalance=False), Balance(), Balance())
"""What candidates do about nodes: half of them all that there is."""


@dataclass
class Store:
    """One lock object under compare-and-swap; `history` is what watches show, `late` the writes on their way."""

    stored: Snapshot | None = None
    version: int = 0
    history: list[Snapshot] = field(default_factory=list)
    late: list[Write] = field(default_factory=list)

    def write(self, write: Write) -> Snapshot | None:
        """Apply `write` if the object is what it was decided on; return the object, `None` on a conflict."""
        found = self.stored.version if self.stored else None
        if found != (write.base.version if write.base else None):
            return None
        self.version += 1
        self.stored = result(write, self.version)
        self.history.append(self.stored)
        return self.stored

    def annotate(self, key: str, text: str) -> Snapshot | None:
        """Set an annotation, whatever else happens to the object; return it, `None` when there is none."""
        found = self.stored
        if found is None:
            return None
        self.version += 1
        others = {**found.annotations, key: text}
        self.stored = lock(self.version, found.text, found.annotations.get(CLAIM_ANNOTATION), others)
        self.history.append(self.stored)
        return self.stored


@dataclass
class Process:
    """One candidate's process and the request that it waits for."""

    number: int
    state: State
    rate: float
    luck: float = 0.5
    request: Read | Write | Count | None = None
    asked_at: float = 0.0
    answer: Event | None = None
    cursor: int | None = None
    gone: bool = False
    heard: dict[int, Snapshot] = field(default_factory=dict)
    """The writes that were answered, by version."""

    def now(self, time: float) -> float:
        """Return what its clock shows."""
        return 1000.0 * self.number + time * self.rate

    def moment(self, time: float) -> Moment:
        """Return what it reads from the outside world."""
        return Moment(now=self.now(time), wall=EPOCH + int(time), luck=self.luck)

    def happens(self, event: Event, time: float) -> None:
        """Let it learn something."""
        self.state = apply(self.state, event, self.moment(time))


class Election(RuleBasedStateMachine):
    """Rules that happen in any order; the invariants hold after each."""

    def __init__(self) -> None:
        super().__init__()
        self.time = 0.0
        self.pods = 0
        self.store = Store()
        self.tokens: list[int] = []
        self.balances: tuple[Balance | None, ...] = (None, None, None)
        self.processes = [self._started(number) for number in range(len(NAMES))]

    @initialize(balances=st.tuples(*[st.sampled_from(BALANCES)] * len(NAMES)))
    def has_balances(self, balances: tuple[Balance | None, ...]) -> None:
        """Each candidate takes part in the balance in its own way, or not at all."""
        self.balances = balances
        self.processes = [self._started(number) for number in range(len(NAMES))]

    def _started(self, number: int, pod_uid: str = "") -> Process:
        if not pod_uid:
            self.pods += 1
            pod_uid = f"pod-{self.pods}"
        me = candidacy(NAMES[number], pod_uid=pod_uid, balance=self.balances[number])
        return Process(number, State(candidacy=me), RATES[number])

    # -- What the processes do --

    @rule(number=st.integers(0, 2), luck=st.sampled_from([0.0, 0.5, 0.99]))
    def goes_round(self, number: int, luck: float) -> None:
        """One round of the loop, up to the request that it sends."""
        self._round(self.processes[number], luck)

    def _round(self, process: Process, luck: float) -> None:
        if process.request is not None or process.gone:
            return
        process.luck = luck
        process.state, action = next_action(process.state, process.moment(self.time))
        if isinstance(action, Leave):
            process.gone = True
        elif isinstance(action, Read | Write | Count):
            process.request, process.asked_at, process.answer = action, process.now(self.time), None
        if isinstance(action, Write) and not action.record.holder:
            assert not process.state.is_leading(process.now(self.time)), "who releases has stopped leading before"
            assert action.base is not None
            released = action.base.valid_claim
            assert released is not None, "what is released is the releasing pod's"
            assert released.pod_uid == process.state.candidacy.pod_uid, "what is released is the releasing pod's"

    @rule(number=st.integers(0, 2))
    def is_served(self, number: int) -> None:
        """The API server does what a request asks; the answer is on its way."""
        self._serve(self.processes[number])

    def _serve(self, process: Process) -> None:
        request = process.request
        if request is None or process.answer is not None:
            return
        if isinstance(request, Read):
            process.answer = Fetched(self.store.stored, process.asked_at)
        elif isinstance(request, Count):
            process.answer = Counted(0.0)
        else:
            applied = self.store.write(request)
            process.answer = Conflicted() if applied is None else Written(applied, process.asked_at)

    @rule(number=st.integers(0, 2))
    def is_answered(self, number: int) -> None:
        """The answer arrives."""
        self._answer(self.processes[number])

    def _answer(self, process: Process) -> None:
        if process.answer is not None:
            self._learn(process, process.answer)

    def _learn(self, process: Process, event: Event) -> None:
        process.request = process.answer = None
        if isinstance(event, Written):
            process.heard[event.snapshot.version] = event.snapshot
        had = process.state.term
        process.happens(event, self.time)
        term = process.state.term
        if term is not None and (had is None or had.token != term.token):
            assert not self.tokens or term.token > max(self.tokens), "a fencing token has to grow with every term"
            self.tokens.append(term.token)

    @rule(number=st.integers(0, 2), rounds=st.integers(1, 5), luck=st.sampled_from([0.0, 0.5]))
    def asks_and_is_answered(self, number: int, rounds: int, luck: float) -> None:
        """A few rounds in which nothing goes wrong."""
        process = self.processes[number]
        for _ in range(rounds):
            self._round(process, luck)
            self._serve(process)
            self._answer(process)

    @rule(number=st.integers(0, 2), rounds=st.integers(4, 12), advised=st.booleans())
    def has_a_good_time(self, number: int, rounds: int, *, advised: bool) -> None:
        """For a few seconds nothing goes wrong for this one, and the balance says that it may lead."""
        process = self.processes[number]
        for _ in range(rounds):
            self._watch(process)
            self._round(process, 0.0)
            self._serve(process)
            self._answer(process)
            self._show(process, 1000)
            if advised:
                self._advise(process, Confirm())
            self.time += 0.1

    # -- What goes wrong --

    @rule(number=st.integers(0, 2), late=st.booleans())
    def gets_no_answer(self, number: int, *, late: bool) -> None:
        """The answer is lost, or the request is: then it may still arrive, any time."""
        process = self.processes[number]
        if process.request is None:
            return
        if late and isinstance(process.request, Write) and process.answer is None:
            self.store.late.append(process.request)
        self._fail(process)

    def _fail(self, process: Process) -> None:
        self._learn(process, Counted(None) if isinstance(process.request, Count) else Failed())

    @rule(number=st.integers(0, 2), retry_after=st.sampled_from([0.0, 1.0, 60.0]))
    def is_refused(self, number: int, retry_after: float) -> None:
        """The API server says no, and has done nothing."""
        process = self.processes[number]
        if isinstance(process.request, Read | Write) and process.answer is None:
            self._learn(process, Failed(refused=True, retry_after=retry_after))

    @precondition(lambda self: self.store.late)
    @rule()
    def arrives_late(self) -> None:
        """A write whose sender has given it up is applied, if it still fits."""
        self.store.write(self.store.late.pop(0))

    @rule(seconds=st.sampled_from([0.05, 0.5, 1.5, 2.5, 5.0, 8.0, 13.0, 60.0]))
    def time_passes(self, seconds: float) -> None:
        """Nobody does anything for a while: slow requests, and processes that are stopped."""
        self.time += seconds

    @rule(number=st.integers(0, 2), same_pod=st.booleans())
    def crashes(self, number: int, *, same_pod: bool) -> None:
        """It is killed; its container starts again, or its pod is made again elsewhere, under its name."""
        process = self.processes[number]
        if isinstance(process.request, Write) and process.answer is None:
            self.store.late.append(process.request)
        self.processes[number] = self._started(number, process.state.candidacy.pod_uid if same_pod else "")

    @rule(number=st.integers(0, 2))
    def is_told_to_leave(self, number: int) -> None:
        """SIGTERM, at any instant."""
        if not self.processes[number].state.leaving:
            self.processes[number].happens(Leaving(), self.time)

    # -- What the balance says --

    @rule(number=st.integers(0, 2), delay=st.sampled_from([None, 0.0, 0.3, 2.0]))
    def is_counted(self, number: int, delay: float | None) -> None:
        """A census says by how much to hold the bid back, or that there is none; it may have taken any time."""
        process = self.processes[number]
        if isinstance(process.request, Count):
            self._learn(process, Counted(delay))

    @rule(number=st.integers(0, 2), advice=st.sampled_from([Confirm(), Calm(), Nominate("a"), Nominate("b")]))
    def is_advised(self, number: int, advice: Advice) -> None:
        """It is told to confirm, to nominate anybody, or that all is calm; who holds nothing is told so as well."""
        self._advise(self.processes[number], advice)

    @rule(number=st.integers(0, 2), other=st.integers(0, 2), same_pod=st.booleans())
    def hands_over(self, number: int, other: int, *, same_pod: bool) -> None:
        """It is told to hand over, to somebody who is there, or to a pod that is long gone."""
        pod_uid = self.processes[other].state.candidacy.pod_uid if same_pod else "pod-0"
        self._advise(self.processes[number], HandOver(Registration(identity=NAMES[other], node="n", pod_uid=pod_uid)))

    @rule(number=st.integers(0, 2), other=st.integers(0, 2))
    def strikes_out(self, number: int, other: int) -> None:
        """It is told that somebody is gone."""
        self._advise(self.processes[number], Strike(frozenset({registration_key(NAMES[other])})))

    def _advise(self, process: Process, advice: Advice) -> None:
        process.happens(advice, self.time)

    @rule(number=st.integers(0, 2))
    def registers(self, number: int) -> None:
        """It registers, or accepts: the object changes, the record and its claim do not."""
        process = self.processes[number]
        me = process.state.candidacy
        registration = Registration(identity=me.identity, node=me.node, pod_uid=me.pod_uid, seen=self.store.version)
        annotated = self.store.annotate(registration_key(me.identity), registration.encode())
        if annotated is not None:
            process.happens(Changed(annotated), self.time)

    # -- The watch --

    @rule(number=st.integers(0, 2))
    def watches(self, number: int) -> None:
        """A watch begins, at the version that is known."""
        self._watch(self.processes[number])

    def _watch(self, process: Process) -> None:
        observed = process.state.observed
        if process.cursor is None and observed is not None and observed.version and not process.state.must_read:
            process.cursor = observed.version
            process.happens(WatchStarted(), self.time)

    @rule(number=st.integers(0, 2), events=st.integers(1, 5))
    def is_shown(self, number: int, events: int) -> None:
        """The watch shows what happened, as far as it has come."""
        self._show(self.processes[number], events)

    def _show(self, process: Process, events: int) -> None:
        if process.cursor is None:
            return
        for snapshot in [shown for shown in self.store.history if shown.version > process.cursor][:events]:
            process.cursor = snapshot.version
            process.happens(Changed(snapshot), self.time)

    @rule(number=st.integers(0, 2), gap=st.booleans())
    def watch_ends(self, number: int, *, gap: bool) -> None:
        """The watch ends; with a gap, its version is forgotten."""
        process = self.processes[number]
        if process.cursor is not None:
            process.cursor = None
            process.happens(WatchStopped(gap), self.time)

    # -- What must hold --

    def _leaders(self) -> list[Process]:
        return [process for process in self.processes if process.state.is_leading(process.now(self.time))]

    @invariant()
    def never_two_lead(self) -> None:
        """At no instant do two name themselves."""
        assert len(self._leaders()) <= 1

    @invariant()
    def names_itself_only_when_it_leads(self) -> None:
        """Nobody's own name is answered by anybody but the leader, also where two have one name."""
        for process in self.processes:
            now = process.now(self.time)
            if process.state.leader_name(now) == process.state.candidacy.identity:
                assert process.state.is_leading(now)

    @invariant()
    def nobody_leads_before_it_heard_so(self) -> None:
        """Every leadership began with a write of that very pod that says that it leads, and whose success it heard."""
        for process in self._leaders():
            assert process.state.term is not None
            begun = process.heard[process.state.term.token].valid_claim
            assert begun is not None
            assert (begun.state, begun.pod_uid) == (LEADING, process.state.candidacy.pod_uid)

    @invariant()
    def nobody_names_who_checks(self) -> None:
        """A follower names a holder only from a lock object that says that this one leads."""
        for process in self.processes:
            now = process.now(self.time)
            if process.state.is_leading(now) or not process.state.leader_name(now):
                continue
            assert process.state.observed is not None
            shown = next(each for each in self.store.history if each.version == process.state.observed.version)
            assert process.state.leader_name(now) == shown.holder
            assert shown.valid_claim is None or shown.valid_claim.state != CHECKING

    @invariant()
    def nobody_leads_who_is_leaving(self) -> None:
        """The order to leave ends leadership at once and for good."""
        assert not any(process.state.leaving for process in self._leaders())

    def teardown(self) -> None:
        """When faults end, exactly one leads within a lease, a check and little more, and stays."""
        self.store.late.clear()
        for process in self.processes:
            if process.request is not None and process.answer is None:
                self._fail(process)
            elif process.answer is not None:
                self._answer(process)
        self.never_two_lead()
        alive = [process for process in self.processes if not process.state.leaving]
        healed = self.time
        settled = None
        while self.time < healed + 3 * LEASE:
            self.time += 0.25
            for process in self.processes:
                self._watch(process)
                self._round(process, 0.5)
                self._serve(process)
                self._answer(process)
                self._show(process, 1000)
            self.never_two_lead()
            if settled is None and self._leaders():
                settled = self._leaders()[0]
                checked = (CHECK_SECONDS + SUCCESSOR_SECONDS) if any(self.balances) else 0.0
                assert self.time < healed + (LEASE + checked) / min(RATES) + 3.0
        assert self._leaders() == ([settled] if alive else [])
        assert settled is not None or not alive
        assert all(process.gone for process in self.processes if process.state.leaving)


TestElection = Election.TestCase
TestElection.__doc__ = "Never two leaders, whatever happens; exactly one once all is well."
TestElection.settings = settings(
    max_examples=200,
    stateful_step_count=50,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)


def test_a_record_that_is_not_released_is_waited_out() -> None:
    """The world itself, in short: a lock that a dead candidate holds is taken over after its lease, not before."""
    election = Election()
    election.store.stored = held(1, "x")
    election.store.version = 1
    election.store.history.append(election.store.stored)
    started = election.time
    election.teardown()
    assert election.tokens
    assert election.time - started >= LEASE / max(RATES)
