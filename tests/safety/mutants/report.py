"""What became of every mutant: for people, for programs, and for the page in the documentation."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from tests.safety.mutants.harnesses import BROKEN, CAUGHT, SURVIVED
from tests.safety.mutants.tree import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from tests.safety.mutants.harnesses import Result
    from tests.safety.mutants.patches import Mutant

PAGE = ROOT / "docs/mutants.md"

_HEADING = ("mutant", "rule", "caught by", "after", "seconds", "what was found")
_ROW = re.compile(r"^\| `([a-z-]+)` \|.*\|$", re.MULTILINE)

_INTRODUCTION = """\
# Mutants: do the harnesses find anything?

A search that finds nothing proves something only if it would have found something. So for each rule that keeps an
election safe ([safety](safety.md)) a mistake is planted that breaks it, as a developer might make it, in a line or two:
a *mutant*, a patch file in [`tests/safety/mutants/patches`](../tests/safety/mutants/patches). Each is applied to a copy
of the tree, and `make explore`, `make simulate` and `make chaos` are let loose on the copy, the cheapest first, until
one of them finds a violation. Before that, each of these runs has to find nothing on the tree as it is, and has to fail
where the code that it is to test is missing: a harness that tests something else proves nothing.

A few mistakes endanger no promise of safety, only how soon there is a leader, or need a machine that sleeps. No harness
was seen to catch those: the table says `unit` for them, because only a unit test holds them, and the list says why.

`make mutants` does it anew, in about half an hour, `make mutants ARGS=own-ttl` with one of them; the exit code is 1
when one survives. `ARGS=--write` records the result here, and leaves the rows of the others as they were; so the rows
are of different runs, on a busy machine with two cores. The seconds count what a harness did before it came to the
states that are named.

## What caught them
"""

_RULES = """\
The rules, by number:

1. Remote clocks are never compared; a lease is counted from when its record was seen to change.
2. A term is counted from before its renewal was sent, up to the renew deadline, and judged when somebody asks.
3. Every write is a compare-and-swap on the version that the decision was made on.
4. A write of unknown outcome is settled by reading.
5. First leadership is revoked, then the lock is released, and only by whoever holds it.
6. A lock object that is gone is no vacancy; whoever learns of another holder revokes at once.
7. The same name in another pod is somebody else.
8. Everything has a bound: requests, queues, back-off.
9. Retry period, renew deadline and lease are in order, also after rounding.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What became of one mutant: what each harness said, up to the first that caught it."""

    mutant: Mutant
    results: tuple[Result, ...]

    @property
    def ending(self) -> str:
        """`CAUGHT` by one of them, `SURVIVED` all, or `BROKEN`: nobody knows."""
        endings = [result.ending for result in self.results]
        return next((ending for ending in (CAUGHT, BROKEN) if ending in endings), SURVIVED)

    def row(self) -> tuple[str, ...]:
        """Return it as cells, in the order of the heading."""
        last = self.results[-1]
        by = last.harness if self.ending == CAUGHT else self.ending
        efforts = "; ".join(f"{result.effort or result.ending} ({result.harness})" for result in self.results)
        found = last.sentence if last.ending != SURVIVED else ""
        seconds = sum(result.seconds for result in self.results)
        return (self.mutant.name, self.mutant.rule, by, efforts, f"{seconds:.0f}", found)

    def document(self) -> dict[str, Any]:
        """Return it for `json.dumps`."""
        return {
            "mutant": self.mutant.name,
            "rule": int(self.mutant.rule),
            "breaks": self.mutant.prose,
            "ending": self.ending,
            "results": [asdict(result) for result in self.results],
        }


def lines(verdicts: Sequence[Verdict]) -> list[str]:
    """Return a table for people; what was found stands below its row, because it is long."""
    rows = [_HEADING[:-1], *(verdict.row()[:-1] for verdict in verdicts)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    told = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    for number in reversed(range(len(verdicts))):
        if found := verdicts[number].row()[-1]:
            told.insert(number + 2, f"    {found}")
    return told


def page(verdicts: Sequence[Verdict], mutants: Sequence[Mutant], before: str = "") -> str:
    """Return the page. The row of a mutant that did not run is what it was on the page as it was `before`."""
    rows = {name: row for name, row in recorded(before).items() if name in {mutant.name for mutant in mutants}}
    for verdict in verdicts:
        name, *cells = (_cell(cell) for cell in verdict.row())
        rows[name] = f"| {' | '.join([f'`{name}`', *cells])} |"
    table = [
        f"| {' | '.join(_HEADING)} |",
        f"|{' --- |' * len(_HEADING)}",
        *(rows[mutant.name] for mutant in mutants if mutant.name in rows),
    ]
    mistakes = [f"- `{mutant.name}` (rule {mutant.rule}): {mutant.prose}" for mutant in mutants]
    parts = [_INTRODUCTION, "\n".join(table) + "\n", _RULES, "## The mistakes\n", "\n".join(mistakes) + "\n"]
    return "\n".join(parts)


def recorded(text: str) -> Mapping[str, str]:
    """Return the rows of a page, by the name of the mutant."""
    return {found[1]: found[0] for found in _ROW.finditer(text)}


def survivors(verdicts: Iterable[Verdict]) -> list[str]:
    """Return the names of those that nobody caught."""
    return [verdict.mutant.name for verdict in verdicts if verdict.ending == SURVIVED]


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
