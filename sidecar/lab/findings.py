"""What a check found: one finding a line, with what to do about it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

FINE, WARNING, PROBLEM = "ok", "warning", "problem"
"""As it should be; works, but not as well as it could or not as it may be meant; does not work, or will not."""

LEVELS = (FINE, WARNING, PROBLEM)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was looked at."""

    level: str
    area: str
    """What it is about: `lock`, `permissions`, `variables`, `clock`."""
    where: str
    """Which election, account, pod or machine."""
    what: str
    remedy: str = ""
    """What to do; `""` where nothing is to be done."""

    def __str__(self) -> str:
        told = f"{self.area}: {self.where}: {self.what}" if self.where else f"{self.area}: {self.what}"
        return f"{told}; {self.remedy}" if self.remedy else told


def document(findings: Sequence[Finding]) -> dict[str, Any]:
    """Return all of them as one JSON object."""
    counts = {level: sum(one.level == level for one in findings) for level in LEVELS}
    return {
        "ok": not counts[PROBLEM],
        "problems": counts[PROBLEM],
        "warnings": counts[WARNING],
        "findings": [asdict(one) for one in findings],
    }


def failed(findings: Iterable[Finding]) -> bool:
    """Tell whether something does not work."""
    return any(one.level == PROBLEM for one in findings)
