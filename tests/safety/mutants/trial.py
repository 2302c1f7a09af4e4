"""One mutant before its harnesses; and the rehearsal, without which a verdict would mean nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.safety.mutants import harnesses, tree
from tests.safety.mutants.harnesses import BROKEN, CAUGHT, HARNESSES, SURVIVED, Result
from tests.safety.mutants.report import Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from tests.safety.mutants.harnesses import Harness
    from tests.safety.mutants.patches import Mutant

SABOTAGE = "raise RuntimeError('this tree is not to be imported')\n"


class Trial:
    """A mutant, and those of its harnesses that are wanted: all of them, or only these."""

    def __init__(self, mutant: Mutant, only: Sequence[str] | None = None) -> None:
        self.mutant = mutant
        self.harnesses = tuple(HARNESSES[name] for name in mutant.harnesses if only is None or name in only)

    def hints(self, harness: Harness) -> tuple[str, ...]:
        """Return what a harness is called with for this mutant."""
        return self.mutant.hints.get(harness.name, ())

    async def run(self, amounts: Mapping[str, str], *, tell: Callable[[str], None]) -> Verdict:
        """Plant the mistake in a copy of the tree, and run harnesses until one catches it. Raises PatchError."""
        results: list[Result] = []
        with tree.copy() as copy:
            tree.plant(self.mutant.file, copy)
            try:
                tree.require_imported(self.mutant.modules, copy)
            except tree.PatchError as error:
                return Verdict(mutant=self.mutant, results=(_broken(str(error)),))
            for harness in self.harnesses:
                tell(f"{self.mutant.name}: {harness.name} ...")
                amount = amounts.get(harness.name)
                result = await harnesses.run(harness, copy, amount=amount, hints=self.hints(harness))
                tell(f"{self.mutant.name}: {harness.name}: {result.ending} {result.sentence}")
                results.append(result)
                if result.ending != SURVIVED:
                    break
        return Verdict(mutant=self.mutant, results=tuple(results))


async def rehearse(trials: Sequence[Trial], amounts: Mapping[str, str], *, tell: Callable[[str], None]) -> str:
    """Run all that is wanted on the tree as it is, and every harness once on one without the code that it is to test.

    Return what is wrong with that: `""` when the first survives each of them, and the second none.
    """
    wanted = dict.fromkeys((harness, one.hints(harness)) for one in trials for harness in one.harnesses)
    for harness, hints in {harness: (harness, hints) for harness, hints in wanted}.values():
        tell(f"a tree without {harness.entrance}: {harness.name} ...")
        with tree.copy() as copy:
            (copy / harness.entrance).write_text(SABOTAGE, encoding="utf-8")
            result = await harnesses.run(harness, copy, amount=amounts.get(harness.name), hints=hints)
        if result.ending == SURVIVED:
            return f"{harness.name} finds nothing amiss without {harness.entrance}: it does not test this tree"
    for harness, hints in wanted:
        tell(f"the tree as it is: {' '.join([harness.name, *hints])} ...")
        with tree.copy() as copy:
            result = await harnesses.run(harness, copy, amount=amounts.get(harness.name), hints=hints)
        tell(f"the tree as it is: {result.ending} {result.effort} in {result.seconds:.0f} s {result.sentence}")
        if result.ending == CAUGHT:
            return f"the tree as it is does not survive {harness.name}: {result.sentence}"
        if result.ending == BROKEN:
            return f"{harness.name} does not run: {result.sentence}"
    return ""


def _broken(why: str) -> Result:
    return Result(harness="none", ending=BROKEN, effort="", seconds=0.0, sentence=why)
