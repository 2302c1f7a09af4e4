"""What a run found, for people and for programs."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from tests.bench import table

if TYPE_CHECKING:
    from tests.safety.chaos.account import Violation


@dataclass(frozen=True, kw_only=True)
class Report:
    """The figures of a run. Times are in seconds."""

    elections: int
    candidates: int
    ttl: float
    seconds: float
    bursts: int
    processes: int
    """That were started, the peers' included."""
    questions: int
    rate: float
    """Questions a second to each process that answered."""
    late: float
    """By which the monitor was late, in sum."""
    terms: int
    writes: int
    """Of strangers, on lock objects, those that were refused included."""
    longest_calm: float
    """That the group took to come to rest after a burst."""
    begun: dict[str, int]
    """How often each kind of fault came about."""
    missed: dict[str, int]
    """How often it could not."""
    without_leader: dict[str, float]
    """The longest time without a leader that touched a fault of each kind."""
    violations: tuple[Violation, ...]

    def document(self) -> dict[str, Any]:
        """Return it for `json.dumps`."""
        return asdict(self)

    def lines(self) -> list[str]:
        """Return it for people."""
        rows = [("fault", "begun", "longest without a leader")]
        for name in sorted({**self.begun, **self.missed}):
            longest = self.without_leader.get(name)
            rows.append((name, str(self.begun.get(name, 0)), "-" if longest is None else f"{longest:.1f} s"))
        rate = f"{self.rate:.1f} a second to each process"
        run = f"{self.seconds / 60:.1f} minutes, {self.bursts} bursts, {sum(self.begun.values())} faults"
        return [
            f"{self.elections} elections x {self.candidates} candidates, ttl {self.ttl:g} s",
            f"{run}, {self.processes} processes, {self.terms} terms",
            f"{self.questions} questions, {rate}; the monitor was late by {self.late:.1f} s in sum",
            f"{self.writes} writes of strangers on lock objects, refused ones included",
            f"at rest at most {self.longest_calm:.1f} s after a burst",
            *table.aligned(rows),
            f"violations: {len(self.violations)}",
        ]
