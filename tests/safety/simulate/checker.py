"""What must hold, whatever goes wrong; looked at whenever a candidate's state changes, goes on, or is asked.

*Answers as served.* A candidate's answers are what `is_leading()` and `leader_name()` return when it is asked, on the
clock that all share; when they change, its status has to agree. Leadership can begin only with a change of a
candidate's state, or when a candidate goes on that was stopped, because one that is stopped answers nothing; everybody
is asked in each of these instants, and every quarter of a second. So no instant with two leaders is missed.

*Two of ours* never lead one election at once, and the fencing tokens grow from term to term (`tests.safety.history`).
A fencing token is the version of a write of the leader's own, which said that it leads.

*Ours and a stock peer.* A stock peer is judged by its writes, not by its answers: it may name itself after it stood
still, or while the API server hangs, because it trusts its own loop; that is its own affair. What its last applied
write entitles it to is the lease in that record, and one of ours counts that from when it saw it, which is later; so
ours must not lead before the lease has passed since the write was applied, on the clock of the one that leads. The
other way round, when a stock peer's take-over is applied nobody of ours may lead, then or later in a term that began
before. Not held against one of ours, until it has seen it: that a stock peer of the same name takes the lock from it
without waiting.

*Nobody is robbed.* When a write of one of ours is applied, nobody else of ours leads, unless a hand has deposed it.

*What a hand does.* Somebody who edits the lock object can depose a leader. A leader that has seen the edit must not
lead on in that term. Until it has, a second leader is excused only where hands have to stay off: after a record was
released by hand; and after it was taken off, or the object deleted, if the second leader had never seen it held. The
same goes for a record that was made unreadable, if the second leader's ttl is shorter: it can only wait its own.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from sidecar.record import LEADING, Record
from tests.safety.history import Served, judge
from tests.safety.simulate.faultyserver import HAND
from tests.safety.simulate.lockobjects import claim_in, record_in
from tests.safety.simulate.plan import ENDPOINTS, LEASES, PAIR, STOCK

if TYPE_CHECKING:
    from sidecar.lab.store import WatchEvent
    from sidecar.record import Claim
    from tests.safety.simulate.stage import Process, Stage

KINDS: Final = {
    ENDPOINTS: frozenset({"Endpoints"}),
    PAIR: frozenset({"Endpoints", "Lease"}),
    LEASES: frozenset({"Lease"}),
}
"""The objects that a candidate with a lock of this kind holds while it leads."""

EMPTYING: Final = frozenset({"delete", "strip", "release"})
"""The edits after which there is no record to wait for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """A change of a lock object's record or claim."""

    version: int
    kind: str
    """Of the lock object: `Endpoints` or `Lease`."""
    at: float
    sender: str
    """The process that wrote it, or `HAND`."""
    edit: str
    """What a hand did, `""` for anybody else."""
    text: str | None
    holder: str
    lease: int
    claim: Claim | None


@dataclass(slots=True)
class _Term:
    """A term of one process, as it was seen."""

    token: int
    begin: float
    end: float


@dataclass(slots=True)
class _Election:
    """What was written, and who leads, in one election."""

    written: list[Written] = field(default_factory=list)
    stock: Written | None = None
    """The last write by which a stock peer holds the lock, unless the record was emptied since."""
    leading: dict[Process, _Term] = field(default_factory=dict)


class Checker:
    """Looks at everybody, and keeps in `violations`, in words, what must not be."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._elections: dict[str, _Election] = defaultdict(_Election)
        self._served: list[Served] = []
        self._seen: dict[Process, list[int]] = defaultdict(list)
        """The versions of the lock object that a process has observed."""
        self.edit = ""
        """What a hand is about to do."""
        self.violations: list[str] = []
        self.excused: list[str] = []
        """Second leaders that a hand has made."""
        self.began: list[tuple[float, str]] = []
        """When a term began, and in which election."""
        self.is_over = False
        self.broken = asyncio.Event()
        """Set with the first violation."""

    def violated(self, what: str) -> None:
        """Take note of what must not be."""
        if not self.is_over and not any(told.endswith(what) for told in self.violations):
            self._stage.tell(f"VIOLATION: {what}")
            self.violations.append(f"{self._stage.loop.time():.3f} s: {what}")
            self.broken.set()

    def judge(self) -> None:
        """Judge the history as a whole, at its end."""
        for name, election in self._elections.items():
            for process in list(election.leading):
                self._end_term(name, election, process)
        for sentence in judge(self._served):
            self.violated(sentence)

    # -- What is written --

    def committed(self, sender: str, event: WatchEvent) -> None:
        """Take note of a change of a lock object, in the instant in which it is made."""
        name = event.object["metadata"]["name"]
        election = self._elections[name]
        written = _written(sender, self.edit if sender == HAND else "", self._stage.loop.time(), event)
        last = next((each for each in reversed(election.written) if each.kind == written.kind), None)
        if last is not None and (last.text, last.claim) == (written.text, written.claim):
            return
        election.written.append(written)
        if sender == HAND:
            emptied = written.edit in EMPTYING
        else:
            process = self._stage.processes[sender]
            emptied = not written.holder
            if process.participant.kind != STOCK:
                self._look_at_deposed(election, process, written.kind)
            elif written.holder:
                election.stock = written
        if emptied and written.kind == "Endpoints":
            election.stock = None
        self._look_at(name, election)

    # -- What is answered --

    def look(self, changed: Process | None) -> None:
        """Ask everybody: after a change at one process, or in all elections."""
        if self.is_over:
            return
        if changed is None:
            for name, election in self._elections.items():
                self._look_at(name, election)
            return
        if changed.candidate is not None and (observed := changed.candidate._state.observed) is not None:
            seen = self._seen[changed]
            if not seen or seen[-1] != observed.version:
                seen.append(observed.version)
        self._look_at(changed.election, self._elections[changed.election])

    def _look_at(self, name: str, election: _Election) -> None:
        if self.is_over:
            return
        there = [process for process in self._stage.processes.values() if process.election == name]
        leaders = [process for process in there if self._ask(name, election, process)]
        for process in leaders:
            self._look_at_edits(election, process)
            if election.stock is not None:
                self._look_at_stock(election, election.stock, process)
        if len(leaders) > 1:
            self._look_at_rivals(name, election, leaders)

    def _ask(self, name: str, election: _Election, process: Process) -> bool:
        """Ask one process, take note of what it answers, and return whether it leads."""
        candidate = process.candidate
        if candidate is None:
            return False
        if not self._answers(process):
            if process in election.leading and not process.is_alive:
                self._end_term(name, election, process)
            return False
        leads = candidate.is_leading()
        if leads != (candidate.leader_name() == process.identity):
            self.violated(f"{process.name} says that it {'leads' if leads else 'does not lead'}, and names another")
        if leads:
            self._go_on(name, election, process)
        elif process in election.leading:
            self._end_term(name, election, process)
            self._look_at_status(process, None)
        return leads

    def _go_on(self, name: str, election: _Election, process: Process) -> None:
        """Take note that a process leads, now."""
        now = self._stage.loop.time()
        token = _token(process)
        term = election.leading.get(process)
        if term is not None and term.token == token:
            term.end = now
            return
        if term is not None:
            self._end_term(name, election, process)
        election.leading[process] = _Term(token, now, now)
        self.began.append((now, name))
        self._stage.tell(f"{process.name} leads {name} with token {token}")
        self._look_at_status(process, (token, "leading"))
        own = next((written for written in reversed(election.written) if written.version == token), None)
        claim = own.claim if own is not None and own.sender == process.name else None
        if claim is None or (claim.pod_uid, claim.state) != (process.pod_uid, LEADING):
            self.violated(f"{process.name} leads {name} by version {token}, with which it did not write that it leads")

    def _end_term(self, name: str, election: _Election, process: Process) -> None:
        term = election.leading.pop(process)
        self._stage.tell(f"{process.name} leads {name} no more")
        deposed_at = next((each.at for each in election.written if each.version > term.token and each.edit), term.end)
        # From there on it is judged below, with what a hand may do in mind.
        end = max(term.begin, min(term.end, deposed_at))
        self._served.append(Served(process=process.name, election=name, begin=term.begin, end=end, token=term.token))

    # -- What must hold --

    def _look_at_status(self, process: Process, leading: tuple[int, str] | None) -> None:
        """See that a candidate's status says the same as its other answers, when that has changed."""
        if process.candidate is None:
            return
        status = process.candidate.status()
        told = (status.fencing_token, status.role)
        if told != leading if leading else (status.role == "leading" or status.fencing_token is not None):
            self.violated(f"{process.name} {'leads' if leading else 'does not lead'}, and its status says {told}")

    def _look_at_deposed(self, election: _Election, writer: Process, kind: str) -> None:
        """See that nobody takes the lock from somebody else of ours who leads, by a write that is applied now."""
        for process in election.leading:
            if kind not in KINDS[process.lock]:
                continue
            if process is not writer and self._answers(process) and process.candidate is not None:
                is_deposed = self._unheard_edit(election, process, since=_token(process)) is not None
                if process.candidate.is_leading() and not is_deposed:
                    self.violated(f"{writer.name} writes over the record of {process.name}, which leads")

    def _answers(self, process: Process) -> bool:
        return process.is_alive and not self._stage.is_stopped(process)

    def _look_at_edits(self, election: _Election, process: Process) -> None:
        token = _token(process)
        edit = self._unheard_edit(election, process, since=token)
        for written in election.written:
            if written.edit and token < written.version and (edit is None or written.version < edit.version):
                self.violated(f"{process.name} leads on in term {token}, and has seen the {written.edit} by hand")

    def _unheard_edit(self, election: _Election, process: Process, *, since: int) -> Written | None:
        """Return the first change by hand after a version that a process has not seen."""
        seen = max(self._seen[process], default=0)
        return next((each for each in election.written if each.edit and each.version > max(since, seen)), None)

    def _look_at_stock(self, election: _Election, stock: Written, process: Process) -> None:
        token = _token(process)
        holder = self._stage.processes[stock.sender]
        if stock.version < token:
            due = stock.at + stock.lease / process.participant.rate
            if self._stage.loop.time() < due:
                self.violated(f"{process.name} leads before the lease of {holder.name} ends, at {due:.3f} s")
            return
        cannot_know = stock.version > max(self._seen[process], default=0)
        if holder.identity == process.identity and cannot_know:
            return
        if self._unheard_edit(election, process, since=token) is None:
            self.violated(f"{process.name} leads on in term {token}, and {holder.name} has taken over")

    def _look_at_rivals(self, name: str, election: _Election, leaders: list[Process]) -> None:
        first, *others = sorted(leaders, key=_token)
        for other in others:
            tokens = f"{_token(first)} and {_token(other)}"
            what = f"{first.name} and {other.name} both lead {name}, with tokens {tokens}"
            if self._is_excused(election, first, other):
                if what not in self.excused:
                    self._stage.tell(f"excused, because a hand made it so: {what}")
                    self.excused.append(what)
            else:
                self.violated(what)

    def _is_excused(self, election: _Election, first: Process, other: Process) -> bool:
        """Tell whether a hand made the second leader, and the first one cannot know."""
        edit = self._unheard_edit(election, first, since=_token(first))
        if edit is None:
            return False
        return any(
            self._may_ignore(election, other, emptied)
            for emptied in election.written
            if edit.version <= emptied.version < _token(other)
            and (emptied.edit in EMPTYING or (emptied.edit == "garble" and _lease(other) < _lease(first)))
        )

    def _may_ignore(self, election: _Election, other: Process, emptied: Written) -> bool:
        """Tell whether somebody need not wait for the holder of a record that a hand has emptied."""
        if emptied.edit == "release":
            return True
        saw_it_held = any(version < emptied.version and _holder_at(election, version) for version in self._seen[other])
        # Else it may be that somebody who never saw it held took it, and gave it up since.
        return not saw_it_held or any(
            each.sender not in {other.name, HAND} and emptied.version < each.version < _token(other)
            for each in election.written
        )


def _holder_at(election: _Election, version: int) -> str:
    """Return who held the lock at a version, by its record."""
    return next((each.holder for each in reversed(election.written) if each.version <= version), "")


def _lease(process: Process) -> int:
    return process.participant.ttl


def _token(process: Process) -> int:
    term = process.candidate._state.term if process.candidate is not None else None
    return term.token if term is not None else 0


def _written(sender: str, edit: str, at: float, event: WatchEvent) -> Written:
    body = event.object
    text, record = (None, None) if event.type == "DELETED" else record_in(body)
    return Written(
        version=int(body["metadata"]["resourceVersion"]),
        kind=body["kind"],
        at=at,
        sender=sender,
        edit=edit,
        text=text,
        holder=record.holder if isinstance(record, Record) else "",
        lease=record.lease_seconds if isinstance(record, Record) else 0,
        claim=None if event.type == "DELETED" else claim_in(body),
    )
