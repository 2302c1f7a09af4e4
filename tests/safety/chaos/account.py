"""The history of a run: what every process said, and which faults there were; and the verdict on it.

It is kept as JSON lines, so that it can be judged again.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from dataclasses import asdict, dataclass, field
from itertools import combinations, pairwise
from typing import TYPE_CHECKING, Any, Self

from tests.safety import history
from tests.safety.chaos.polling import Run
from tests.safety.history import Served

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path


@dataclass(slots=True, kw_only=True)
class Happened:
    """A fault as it came about; instants are of `time.monotonic`, with infinity for an end that is still to come."""

    name: str
    election: str
    """The election that felt it; `""` for all of them."""
    target: str
    begin: float
    end: float = float("inf")
    missed: str = ""
    """Why it did not come about."""
    writes: int = 0
    """Of strangers on a lock object, those that were refused included."""

    def __str__(self) -> str:
        return f"{self.name} ({self.target})"

    def touches(self, election: str) -> bool:
        """Tell whether an election felt it."""
        return not self.missed and self.election in ("", election)


@dataclass(frozen=True, slots=True, kw_only=True)
class Violation:
    """Something that must not be, with what belongs to it."""

    sentence: str
    faults: tuple[str, ...] = ()
    """The faults that were going on then."""
    processes: tuple[str, ...] = ()
    """Who was part of it."""


@dataclass(kw_only=True)
class Account:
    """Everything that is known of a run so far. With a `file`, it is written there as it comes."""

    file: Path | None = None
    runs: list[Run] = field(default_factory=list)
    """Answers in which a process named itself, in the order in which they ended."""
    faults: list[Happened] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, file: Path) -> Self:
        """Return what a history file tells. Raises OSError, or ValueError for what is no history file."""
        account = cls()
        for number, line in enumerate(file.read_text().splitlines(), start=1):
            try:
                account._take(json.loads(line))
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                raise ValueError(f"line {number} is none of a history: {error!r}") from error
        return account

    def _take(self, told: dict[str, Any]) -> None:
        match told.pop("what"):
            case "answers":
                self.said(Run(**told))
            case "fault":
                self.faults.append(Happened(**told))
            case "problem":
                self.problems.append(told["sentence"])
            case other:
                raise ValueError(f"there are no lines about {other!r}")

    # -- What happens --

    def said(self, run: Run) -> None:
        """Add answers."""
        if run.is_own:
            self.runs.append(run)
        self._write("answers", run.line())

    def ended(self, fault: Happened) -> None:
        """Write down a fault that is over, or did not come about; it is among `faults` since it began."""
        self._write("fault", asdict(fault))

    def problem(self, sentence: str) -> None:
        """Add something that must not be."""
        self.problems.append(sentence)
        self._write("problem", {"sentence": sentence})

    def _write(self, what: str, told: dict[str, Any]) -> None:
        if self.file is not None:
            with self.file.open("a") as file:
                file.write(json.dumps({"what": what, **told}) + "\n")

    # -- What is to be said about it --

    def violations(self, still: Iterable[Run] = ()) -> list[Violation]:
        """Return everything that must not be; `still` are runs of answers that are not over."""
        own = [*self.runs, *(run for run in still if run.is_own)]
        origin = min((run.sent for run in own), default=0.0)
        served = proven(own, origin=origin)
        sentences = dict.fromkeys(history.judge(served))
        found = [Violation(sentence=sentence) for sentence in self.problems]
        for sentence in sentences:
            pair = next(((one, other) for one, other in _pairs(served) if sentence in history.judge([one, other])), ())
            faults = [
                str(fault)
                for fault in self.faults
                if pair and fault.touches(pair[0].election) and fault.begin <= pair[1].begin + origin <= fault.end
            ]
            found.append(
                Violation(sentence=sentence, faults=tuple(faults), processes=tuple(span.process for span in pair))
            )
        return found

    def terms(self) -> int:
        """Return how many terms there were, as far as they told a fencing token."""
        return len({(run.election, run.token) for run in self.runs if run.token is not None})

    def begun(self) -> dict[str, int]:
        """Return how often each kind of fault came about."""
        return dict(Counter(fault.name for fault in self.faults if not fault.missed))

    def leaderless(self, election: str, begin: float, end: float, *, still: Iterable[Run] = ()) -> float:
        """Return for how many seconds in a row, between two instants, nobody named itself; `still` as above."""
        return max((later - earlier for earlier, later in self._gaps(election, begin, end, still)), default=0.0)

    def longest_without(self, elections: Sequence[str]) -> dict[str, float]:
        """Return the longest time without a leader in which, or before which, there was a fault of each kind."""
        longest: dict[str, float] = defaultdict(float)
        for election in elections:
            runs = [run for run in self.runs if run.election == election]
            if not runs:
                continue
            for earlier, later in self._gaps(election, runs[0].sent, max(run.received for run in runs)):
                for fault in self.faults:
                    if fault.touches(election) and fault.begin < later and earlier < fault.end:
                        longest[fault.name] = max(longest[fault.name], later - earlier)
        return dict(longest)

    def _gaps(self, election: str, begin: float, end: float, still: Iterable[Run] = ()) -> list[tuple[float, float]]:
        own = [*self.runs, *(run for run in still if run.is_own)]
        covered = sorted((run.sent, run.received) for run in own if run.election == election)
        marks = [(begin, begin)]
        for sent, received in covered:
            if received >= begin and sent <= end:
                marks.append((sent, max(received, marks[-1][1])))
        marks.append((end, end))
        return [(before[1], after[0]) for before, after in pairwise(marks) if after[0] > before[1]]


def proven(runs: Iterable[Run], *, origin: float = 0.0) -> list[Served]:
    """Return what answers prove: from the first's arrival to the last's question a process led. Counted from `origin`.

    A single answer was true at some instant between its question and its arrival, which proves something where
    another process led for all of that time; only there it counts.
    """
    own = list(runs)
    lasting = [run for run in own if run.begin <= run.end]
    instants = [
        run
        for run in own
        if run.end < run.begin
        and any(
            other.election == run.election
            and other.process != run.process
            and other.begin <= run.sent
            and run.received <= other.end
            for other in lasting
        )
    ]
    return [
        *(_served(run, run.begin - origin, run.end - origin) for run in lasting),
        *(_served(run, run.sent - origin, run.received - origin) for run in instants),
    ]


def _served(run: Run, begin: float, end: float) -> Served:
    return Served(process=run.process, election=run.election, begin=begin, end=end, token=run.token)


def _pairs(served: Iterable[Served]) -> Iterable[tuple[Served, Served]]:
    """Yield every two spans of one election, in the order in which they began."""
    for one, other in combinations(sorted(served, key=lambda span: span.begin), 2):
        if one.election == other.election and one.process != other.process:
            yield one, other
