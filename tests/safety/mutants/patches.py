"""The planted mistakes: one patch file each, which begins with what it breaks, and who is expected to notice.

A patch is plain prose, then lines `Rule: 6`, `Caught by: explore, simulate` (the harnesses that run the code in
question, in the order of their cost) and, for a harness that need not do all that it can, `Explore: deletion` (the
scenario) or `Chaos: --faults stopped`; then a unified diff.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.safety.mutants.harnesses import HARNESSES
from tests.safety.mutants.tree import PatchError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PATCHES = Path(__file__).with_name("patches")

_FIELD = re.compile(r"^([A-Z][a-z ]+): (.+)$", re.MULTILINE)
_CHANGED = re.compile(r"^\+\+\+ b/(.+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    """One planted mistake."""

    name: str
    file: Path
    prose: str
    """What it breaks, and what comes of that."""
    rule: str
    """The safety rule that it breaks."""
    harnesses: tuple[str, ...]
    """Those that should notice, the cheapest first."""
    hints: Mapping[str, tuple[str, ...]]
    """What these are called with beside their bound, by name."""
    modules: tuple[str, ...]
    """The modules that it changes."""


def find(names: Sequence[str] = (), folder: Path = PATCHES) -> list[Mutant]:
    """Return the mutants of these names, or all of them, in the order of the rules. Raises PatchError."""
    known = {file.stem: file for file in sorted(folder.glob("*.patch"))}
    if unknown := [name for name in names if name not in known]:
        raise PatchError(f"no such mutant: {', '.join(unknown)}; --list tells which there are")
    found = [read(known[name]) for name in dict.fromkeys(names or known)]
    return sorted(found, key=lambda mutant: (int(mutant.rule), mutant.name))


def read(file: Path) -> Mutant:
    """Return what a patch file tells. Raises PatchError."""
    header, begin, diff = file.read_text(encoding="utf-8").partition("--- a/")
    prose, _, rest = header.partition("\n\n")
    fields = dict(_FIELD.findall(rest))
    rule, told = fields.pop("Rule", ""), fields.pop("Caught by", "")
    harnesses = tuple(name for name in HARNESSES if name in told.split(", "))
    hints = {name.lower(): tuple(shlex.split(text)) for name, text in fields.items()}
    if not (begin and prose.strip() and rule.isdecimal()):
        raise PatchError(f"{file.name}: a patch is prose, `Rule: N`, `Caught by: HARNESS, ...`, and a diff")
    if not harnesses or ", ".join(harnesses) != told or not hints.keys() <= set(harnesses):
        raise PatchError(f"{file.name}: it names harnesses, cheapest first, of: {', '.join(HARNESSES)}")
    return Mutant(
        name=file.stem,
        file=file,
        prose=" ".join(prose.split()),
        rule=rule,
        harnesses=harnesses,
        hints=hints,
        modules=tuple(path.removesuffix(".py").replace("/", ".") for path in _CHANGED.findall(begin + diff)),
    )
