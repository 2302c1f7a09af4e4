"""Making a plan that fails smaller: faults are left out, one by one, as long as it still fails the same way."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from tests.safety.simulate.play import play

if TYPE_CHECKING:
    from tests.safety.simulate.play import Outcome


def shrink(failing: Outcome) -> tuple[Outcome, list[int]]:
    """Return what is left of a plan that fails, as played, and the numbers of the faults that were left out."""
    wanted, smallest = _kind(failing), failing
    numbers = list(range(1, len(failing.plan.faults) + 1))
    left_out: list[int] = []
    # Later ones first: what a fault leads to comes after it.
    for index in reversed(range(len(numbers))):
        outcome = play(smallest.plan.without(index))
        if _kind(outcome) == wanted:
            smallest = outcome
            left_out.append(numbers[index])
    return smallest, sorted(left_out)


def _kind(outcome: Outcome) -> str:
    """Return what is violated first, whoever does it and when; `""` when nothing is."""
    first = next(iter(outcome.violations), "")
    return re.sub(r"[a-z]+-\d+#\d+|\b(red|green|blue)\b|[\d.]+", "_", first)
