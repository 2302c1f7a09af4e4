"""The judge of what clients of the store saw: what was acknowledged is kept, and nothing comes back.

A history holds what clients did and what they were told, with the instants at which they asked and were told, on one
clock. `check` finds what the store's promise rules out. Beyond the promise's two sentences it takes for granted what
follows from how the store works:

* Sequence numbers say in which order writes took effect. A write that was asked for after another one was acknowledged,
  or read by anybody, has a greater one.
* A write takes effect once. One whose outcome is unknown may do so at any later time, or never.
* Whatever anybody reads, at whichever replica, counts as stored for good: a consistent read that begins later does not
  show anything older.
* A plain read may be stale. But one process does not go back: what it shows of a key is never older than what it showed
  of it before. After a restart it may be.

Every value is written once, so that a value that is read says which write it is from.
"""

from __future__ import annotations

import itertools
import json
import math
import secrets
from bisect import bisect_left, bisect_right
from collections import defaultdict
from dataclasses import asdict, dataclass
from enum import StrEnum
from operator import attrgetter, itemgetter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path


class Kind(StrEnum):
    """What a client asked for."""

    PUT = "put"
    DELETE = "delete"
    GET = "get"
    CONSISTENT_GET = "consistent get"


WRITES = frozenset({Kind.PUT, Kind.DELETE})


class Outcome(StrEnum):
    """What a client knows afterwards."""

    DONE = "done"
    """The write was acknowledged, or the read was answered: with a value, or that there is none."""
    REFUSED = "refused"
    """The write was certainly not done, and never will be; nothing was read."""
    UNKNOWN = "unknown"
    """The write may or may not have been done, and may still be; nothing was read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One thing that a client asked for, and what came of it."""

    client: str
    kind: Kind
    key: str
    value: str | None = None
    """What is written; or what was read, None where there was no value."""
    invoked: float
    """Seconds on a clock that is common to the history, as is `returned`: before anything was sent."""
    returned: float
    """After everything was received, or when the client gave up."""
    outcome: Outcome
    sequence: int | None = None
    """Of the write that was acknowledged, or that stored the value that was read."""
    token: int | None = None
    replica: str | None = None
    """Which process a plain read was certainly answered by, unique to the process; None where that is not known."""
    told: str = ""
    """The status or the error, for messages."""

    def __str__(self) -> str:
        """Say what happened in one line."""
        what = f"{self.kind} {self.key}"
        if self.value is not None:
            what += f" = {self.value}"
        known = [f"{name} {value}" for name, value in (("sequence", self.sequence), ("token", self.token)) if value]
        where = [f"at {self.replica}"] if self.replica else []
        return (
            f"{self.client}: {what} ({', '.join([self.outcome, *known, *where])}, "
            f"{self.invoked:.3f} to {self.returned:.3f} s)"
        )


@dataclass(frozen=True, slots=True)
class Seen:
    """What one replica holds of one key; `value` and `sequence` are None where it holds nothing."""

    value: str | None = None
    sequence: int | None = None


class History:
    """What clients did, and in the end what every replica holds."""

    def __init__(self, operations: Iterable[Operation] = ()) -> None:
        self.operations: list[Operation] = list(operations)
        self.final: dict[str, dict[str, Seen]] = {}
        """What each replica holds once all of them are in step and nobody writes; empty where nobody looked."""
        self._run = secrets.token_hex(4)
        self._count = itertools.count(1)

    def record(self, operation: Operation) -> None:
        """Add an operation; the order does not matter."""
        self.operations.append(operation)

    def unique_value(self) -> str:
        """Return a value that nobody has written, in this history or any other."""
        return f"{self._run}-{next(self._count)}"

    def written_keys(self) -> list[str]:
        """Return all keys that somebody wrote."""
        return sorted({one.key for one in self.operations if one.kind in WRITES})

    def acknowledged(self, since: float = -math.inf) -> list[Operation]:
        """Return the acknowledged writes that were asked for after `since`."""
        return [
            one for one in self.operations if one.kind in WRITES and one.outcome is Outcome.DONE and one.invoked > since
        ]

    def summary(self) -> str:
        """Say in one line how much there is to judge."""
        counts: dict[str, int] = defaultdict(int)
        for one in self.operations:
            counts[f"{'writes' if one.kind in WRITES else 'reads'} {one.outcome}"] += 1
        return ", ".join(f"{count} {name}" for name, count in sorted(counts.items())) or "nothing"

    def save(self, path: Path) -> None:
        """Write it to a file, one JSON object a line. Raises OSError."""
        with path.open("w") as file:
            for one in self.operations:
                file.write(json.dumps(asdict(one)) + "\n")
            file.write(json.dumps({"final": {name: _asdicts(held) for name, held in self.final.items()}}) + "\n")

    @classmethod
    def load(cls, path: Path) -> History:
        """Read what `save` wrote. Raises OSError, ValueError, KeyError and TypeError."""
        history = cls()
        for line in path.read_text().splitlines():
            read: dict[str, Any] = json.loads(line)
            if "final" in read:
                for name, held in read["final"].items():
                    history.final[name] = {key: Seen(**seen) for key, seen in held.items()}
            else:
                kind, outcome = Kind(read.pop("kind")), Outcome(read.pop("outcome"))
                history.record(Operation(kind=kind, outcome=outcome, **read))
        return history


def _asdicts(held: dict[str, Seen]) -> dict[str, dict[str, Any]]:
    return {key: asdict(seen) for key, seen in held.items()}


class Wrong(StrEnum):
    """Kinds of findings."""

    LOST = "lost"
    """An acknowledged write, or one that was read, is gone, and nothing newer explains that."""
    RESURRECTED = "resurrected"
    """A value that was deleted or overwritten, and seen to be, is back."""
    STALE = "stale"
    """A consistent read shows less than was acknowledged before it began."""
    REFUSED = "refused"
    """A value is read that its writer was told is not stored."""
    PHANTOM = "phantom"
    """A value is read that nobody has written by then, or not to that key."""
    SEQUENCE = "sequence"
    """Two writes have one sequence number, one write has two, or none."""
    ORDER = "order"
    """A write has a smaller sequence number than one that was known before it was asked for."""
    TOKEN = "token"
    """A write has a smaller fencing token than one with a smaller sequence number."""
    DIVERGED = "diverged"
    """In the end, replicas hold different things."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that the promise rules out."""

    wrong: Wrong
    text: str

    def __str__(self) -> str:
        """Say it in one line."""
        return f"{self.wrong}: {self.text}"


def check(history: History) -> list[Finding]:
    """Return everything that is wrong with a history; nothing for one that is sound.

    Raises ValueError where two writes have the same value: such a history says too little.
    """
    final = list(_final_reads(history))
    judged = [*history.operations, *final]
    answered = sorted((one for one in judged if one.outcome is Outcome.DONE), key=attrgetter("returned"))
    written = _Written.of(history.operations)
    return [
        *_sequences(answered),
        *_order(answered, written),
        *_tokens(answered),
        *_sources(answered, written),
        *_consistent(answered, written),
        *_replicas(answered, written),
        *_diverged(history),
    ]


FINAL = "in the end"
"""The client of the reads that stand for what replicas hold in the end."""


def _final_reads(history: History) -> Iterator[Operation]:
    """Yield what replicas hold in the end as consistent reads after everything else."""
    for replica, held in history.final.items():
        for key in sorted({*held, *history.written_keys()}):
            seen = held.get(key, Seen())
            yield Operation(
                client=FINAL,
                kind=Kind.CONSISTENT_GET,
                key=key,
                value=seen.value,
                sequence=seen.sequence,
                invoked=math.inf,
                returned=math.inf,
                outcome=Outcome.DONE,
                replica=replica,
            )


def _shows(one: Operation) -> bool:
    """Tell whether an answered operation is a read that shows a value."""
    return one.kind not in WRITES and one.value is not None


@dataclass(frozen=True, slots=True)
class _Written:
    """What is known of the writes of a history."""

    puts: dict[str, Operation]
    """By value."""
    acknowledged_deletes: dict[str, list[Operation]]
    """By key, in the order of their sequence numbers."""
    unknown_deletes: dict[str, list[float]]
    """By key, when they were asked for, in order."""
    acknowledged: list[tuple[float, float]]
    """When each acknowledged write was asked for, in order, and the smallest sequence number from there on."""

    @classmethod
    def of(cls, operations: Sequence[Operation]) -> _Written:
        puts: dict[str, Operation] = {}
        acknowledged = defaultdict(list)
        unknown = defaultdict(list)
        for one in operations:
            if one.kind is Kind.PUT:
                if one.value is None or one.value in puts:
                    raise ValueError(f"a value that is not unique: {one}")
                puts[one.value] = one
            elif one.kind is Kind.DELETE and one.outcome is Outcome.DONE:
                acknowledged[one.key].append(one)
            elif one.kind is Kind.DELETE and one.outcome is Outcome.UNKNOWN:
                unknown[one.key].append(one.invoked)
        return cls(
            puts,
            {key: sorted(deletes, key=_sequence) for key, deletes in acknowledged.items()},
            {key: sorted(times) for key, times in unknown.items()},
            list(_smallest_from(operations)),
        )

    def smallest_after(self, time: float) -> float:
        """Return the smallest sequence number of the writes that were asked for after an instant; infinity for none."""
        index = bisect_right(self.acknowledged, time, key=itemgetter(0))
        return self.acknowledged[index][1] if index < len(self.acknowledged) else math.inf


def _smallest_from(operations: Sequence[Operation]) -> Iterator[tuple[float, float]]:
    writes = sorted((one for one in operations if one.kind in WRITES and one.sequence), key=attrgetter("invoked"))
    smallest = [*itertools.accumulate((float(_sequence(one)) for one in reversed(writes)), min)]
    return zip((one.invoked for one in writes), reversed(smallest), strict=True)


def _sequence(one: Operation) -> int:
    return one.sequence or 0


def _sequences(answered: Sequence[Operation]) -> Iterator[Finding]:
    """Find sequence numbers that do not belong to exactly one write each."""
    by_sequence: dict[int, Operation] = {}
    by_value: dict[str, Operation] = {}
    for one in answered:
        if one.kind not in WRITES and one.value is None:
            continue
        if one.sequence is None:
            yield Finding(Wrong.SEQUENCE, f"no sequence number: {one}")
            continue
        other = by_sequence.setdefault(one.sequence, one)
        if (other.key, other.value) != (one.key, one.value) or (one is not other and one.kind is Kind.DELETE):
            yield Finding(Wrong.SEQUENCE, f"two writes have the sequence number {one.sequence}: {other}, and {one}")
        if one.value is not None:
            same = by_value.setdefault(one.value, one)
            if same.sequence != one.sequence:
                yield Finding(Wrong.SEQUENCE, f"one write has two sequence numbers: {same}, and {one}")


def _order(answered: Sequence[Operation], written: _Written) -> Iterator[Finding]:
    """Find writes that were asked for after a later one was known."""
    known = _Floor()
    for one in answered:
        if one.sequence is not None:
            known.add(one.returned, one.sequence, one)
    judged: set[str] = set()
    for one in answered:
        if one.sequence is None:
            continue
        write = one
        if one.kind not in WRITES:
            # Of a write whose outcome is unknown, whoever reads its value tells the sequence number.
            value = one.value or ""
            if value in judged or value not in written.puts or written.puts[value].outcome is Outcome.DONE:
                continue
            write = written.puts[value]
            judged.add(value)
        sequence, evidence = known.before(write.invoked)
        if evidence is not None and one.sequence < sequence:
            yield Finding(Wrong.ORDER, f"sequence number {one.sequence} of {write}, asked for after {evidence}")


def _tokens(answered: Sequence[Operation]) -> Iterator[Finding]:
    """Find fencing tokens that fall while sequence numbers rise."""
    last: Operation | None = None
    for one in sorted((one for one in answered if one.kind in WRITES and one.sequence), key=_sequence):
        if one.token is None:
            yield Finding(Wrong.TOKEN, f"no token: {one}")
        elif last is not None and last.token is not None and one.token < last.token:
            yield Finding(Wrong.TOKEN, f"{one}, whose token is smaller than that of {last}")
        else:
            last = one


def _sources(answered: Sequence[Operation], written: _Written) -> Iterator[Finding]:
    """Find values that nobody can have written."""
    for one in answered:
        if not _shows(one):
            continue
        write = written.puts.get(one.value or "")
        if write is None:
            yield Finding(Wrong.PHANTOM, f"nobody wrote what was read: {one}")
        elif write.key != one.key:
            yield Finding(Wrong.PHANTOM, f"written to another key: {one}, but {write}")
        elif write.invoked > one.returned:
            yield Finding(Wrong.PHANTOM, f"read before it was written: {one}, but {write}")
        elif write.outcome is Outcome.REFUSED:
            yield Finding(Wrong.REFUSED, f"{one}, but {write}")


def _consistent(answered: Sequence[Operation], written: _Written) -> Iterator[Finding]:
    """Find consistent reads, those in the end among them, that show less than was known before they began."""
    registers: dict[str, _Register] = defaultdict(_Register)
    for one in answered:
        register = registers[one.key]
        if one.kind is Kind.CONSISTENT_GET:
            yield from register.judge(one, written)
        elif one.sequence is not None:
            register.known.add(one.returned, one.sequence, one)


def _replicas(answered: Sequence[Operation], written: _Written) -> Iterator[Finding]:
    """Find plain reads in which one process goes back."""
    registers: dict[tuple[str, str], _Register] = defaultdict(_Register)
    for one in answered:
        if one.kind is Kind.GET and one.replica is not None:
            yield from registers[one.replica, one.key].judge(one, written)


def _diverged(history: History) -> Iterator[Finding]:
    """Find what replicas hold in the end that others do not."""
    keys = sorted({key for held in history.final.values() for key in held})
    for key in keys:
        seen = {replica: held.get(key, Seen()) for replica, held in history.final.items()}
        if len(set(seen.values())) > 1:
            told = ", ".join(f"{replica} {one.value} (sequence {one.sequence})" for replica, one in seen.items())
            yield Finding(Wrong.DIVERGED, f"{key}: {told}")


class _Floor:
    """The greatest sequence number that was known at an instant, and by what. What is added comes in order of time."""

    def __init__(self) -> None:
        self._times: list[float] = []
        self._greatest: list[tuple[int, Operation]] = []

    def add(self, time: float, sequence: int, evidence: Operation) -> None:
        last = self._greatest[-1] if self._greatest else None
        if last is None or sequence > last[0]:
            self._times.append(time)
            self._greatest.append((sequence, evidence))

    def before(self, time: float) -> tuple[int, Operation | None]:
        """Return what was known strictly before; 0 and None for nothing."""
        index = bisect_left(self._times, time)
        return self._greatest[index - 1] if index else (0, None)


class _Register:
    """One key, as those saw it who may not see it go back. Reads are judged in the order in which they returned."""

    def __init__(self) -> None:
        self.known = _Floor()
        self._excused = 0
        """Deletes of unknown outcome that what was read needs, at least."""
        self._excused_until = -math.inf
        """The last of them may have a sequence number up to here."""

    def judge(self, read: Operation, written: _Written) -> Iterator[Finding]:
        """Find what is wrong with a read, and take it for known from then on."""
        floor, evidence = self.known.before(read.invoked)
        if read.value is not None:
            if read.sequence is None:
                return
            if evidence is not None and read.sequence < floor:
                yield Finding(_going_back(read, evidence), f"{read}, after {evidence}")
            write = written.puts.get(read.value)
            if write is not None and write.key == read.key:
                self.known.add(read.returned, read.sequence, read)
        elif evidence is not None:
            deleted = self._deleted(read, floor, evidence, written)
            if deleted is None:
                yield Finding(Wrong.LOST, f"{read}, after {evidence}, and nobody deleted it")
            else:
                self.known.add(read.returned, deleted, read)

    def _deleted(self, read: Operation, floor: int, evidence: Operation, written: _Written) -> int | None:
        """Return the smallest sequence number that the delete may have that a read shows; None where there is none."""
        if evidence.value is None:
            # That was the delete, or another read that shows it.
            return floor
        # One of unknown outcome may have come before one that was acknowledged.
        possible = bisect_left(written.unknown_deletes.get(read.key, []), read.returned)
        deletes = written.acknowledged_deletes.get(read.key, [])
        for delete in deletes[bisect_left(deletes, floor, key=_sequence) :]:
            if delete.invoked < read.returned:
                return floor + 1 if possible else _sequence(delete)
        # It happened once: after what was known before the read, and before what was asked for after the read. Reads
        # are judged in the order in which those ends come, so that the fewest deletes are found by taking each as late
        # as it may be.
        if floor + 1 > self._excused_until:
            if self._excused >= possible:
                return None
            self._excused += 1
            self._excused_until = written.smallest_after(read.returned) - 1
        return floor + 1


def _going_back(read: Operation, evidence: Operation) -> Wrong:
    """Return what it is called that a read shows something older than the evidence."""
    if evidence.kind is Kind.PUT:
        return Wrong.LOST if read.client == FINAL else Wrong.STALE
    return Wrong.RESURRECTED
