"""How findings are shown to people: what is worst stands out, and what is to be done stands beside it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from rich.text import Text

from sidecar.lab.commandline import printable
from sidecar.lab.findings import FINE, LEVELS, PROBLEM, WARNING
from sidecar.lab.output import output_console

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sidecar.lab.findings import Finding

_STYLES = {FINE: "green", WARNING: "yellow", PROBLEM: "bold red"}


def show(findings: Sequence[Finding]) -> None:
    """Print one line for each, and how many there are of what is not as it should be."""
    console = output_console()
    width = max(map(len, LEVELS))
    for one in findings:
        console.print(
            Text.assemble((f"{one.level:<{width}}", _STYLES[one.level]), "  ", printable(str(one))), soft_wrap=True
        )
    counts = [(sum(one.level == level for one in findings), level) for level in (PROBLEM, WARNING)]
    console.print(Text(", ".join(f"{count or 'no'} {level}{'' if count == 1 else 's'}" for count, level in counts)))
    sys.stdout.flush()
