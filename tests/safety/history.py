"""The judge of a history: who led when, as it was answered, and whether that may be.

Whoever gathers the history (a simulation, a monitor of real processes) puts into it only what is proven. What one
answer proves is the gatherer's affair: somebody who asks over a network knows that the answer was true at some instant
between the question and the answer, and so from the first answer's arrival to the last question's departure.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A span of time in which one process answered that it leads, as proven: from `begin` to `end` it did, at least.

    Both instants belong to the span, and may be the same. Raises ValueError where `end` is before `begin`: nothing is
    proven then.
    """

    process: str
    """Unique to the process: a restarted one, or another one under the same identity, is another process."""
    election: str
    begin: float
    """Seconds on a clock that is common to all spans, as is `end`."""
    end: float
    token: int | None
    """The fencing token of that term, where known."""

    def __post_init__(self) -> None:
        if not self.begin <= self.end:
            raise ValueError(f"{self.process} cannot have led {self.election} from {self.begin} to {self.end}")

    def __str__(self) -> str:
        token = "" if self.token is None else f" with token {self.token}"
        return f"{self.process} led {self.election}{token} from {self.begin:.3f} to {self.end:.3f} s"


def overlapping(served: Iterable[Served]) -> list[str]:
    """Return a sentence for each two spans of one election in which two processes led at once."""
    found = []
    for spans in _by_election(served):
        lasting: list[Served] = []
        for span in spans:
            lasting = [earlier for earlier in lasting if earlier.end >= span.begin]
            for earlier in lasting:
                if earlier.process != span.process:
                    both_until = min(earlier.end, span.end)
                    found.append(f"{earlier}, and {span}: both from {span.begin:.3f} to {both_until:.3f} s")
            lasting.append(span)
    return found


def unordered(served: Iterable[Served]) -> list[str]:
    """Return a sentence for each span whose fencing token is not greater than those of all earlier terms.

    Spans of one process with one token are one term, as long as no other term began in between.
    """
    found = []
    for spans in _by_election(served):
        last: Served | None = None
        for span in spans:
            if span.token is None:
                continue
            if last is None or last.token is None or span.token > last.token:
                last = span
            elif (span.process, span.token) != (last.process, last.token):
                found.append(f"{span}, after {last}: the token did not grow")
    return found


def judge(served: Iterable[Served]) -> list[str]:
    """Return, in sentences, everything that must not be in a history; nothing for one that is sound."""
    spans = list(served)
    return overlapping(spans) + unordered(spans)


def _by_election(served: Iterable[Served]) -> list[list[Served]]:
    """Return the spans of each election, in the order in which they began."""
    elections = defaultdict(list)
    for span in served:
        elections[span.election].append(span)
    return [sorted(spans, key=attrgetter("begin", "end")) for _, spans in sorted(elections.items())]
