"""`make mutants`: plant a mistake in a copy of the tree, and see whether a harness finds it; one after the other."""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tests.safety.mutants import report, tree, trial
from tests.safety.mutants.harnesses import BROKEN, HARNESSES
from tests.safety.mutants.patches import PATCHES, find
from tests.safety.mutants.tree import PatchError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.safety.mutants.patches import Mutant

ALL_CAUGHT, SOME_SURVIVED, MISUSED, FAILED, INTERRUPTED = 0, 1, 2, 3, 130

EPILOG = """example:
  python -m tests.safety.mutants validity-by-timer own-ttl
  python -m tests.safety.mutants own-ttl --harness simulate --amount simulate=2000

The unmutated tree runs first, in the same way and for as long: it has to survive. So does each harness without the code
that it is to test: it has to fail. Exit codes: 0 every mutant was caught, 1 one survived, 2 called wrongly, 3 a
harness broke, or a patch does not fit."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Try mutants, or list them; return the exit code."""
    parser = _parser()
    chosen = parser.parse_args(arguments)
    try:
        known = find(folder=chosen.patches)
        mutants = find(chosen.names, chosen.patches)
    except PatchError as error:
        parser.error(str(error))
    if chosen.list:
        _print(*(f"{mutant.name} (rule {mutant.rule}; {', '.join(mutant.harnesses)})" for mutant in mutants))
        return ALL_CAUGHT
    trials = [one for one in (trial.Trial(mutant, chosen.harness) for mutant in mutants) if one.harnesses]
    try:
        return asyncio.run(_run(chosen, trials, known))
    except KeyboardInterrupt:
        _say("interrupted; everything was ended and removed")
        return INTERRUPTED
    except (PatchError, OSError) as error:
        _say(f"error: {error}")
        return FAILED


async def _run(chosen: argparse.Namespace, trials: Sequence[trial.Trial], known: Sequence[Mutant]) -> int:
    amounts = dict(chosen.amount)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, signal.raise_signal, signal.SIGINT)
    for one in trials:
        tree.plant(one.mutant.file, tree.ROOT, only_check=True)
    if problem := await trial.rehearse(trials, amounts, tell=_tell):
        _say(f"error: {problem}")
        return FAILED
    free = asyncio.Semaphore(chosen.workers)

    async def run(one: trial.Trial) -> report.Verdict:
        async with free:
            return await one.run(amounts, tell=_tell)

    verdicts = await asyncio.gather(*map(run, trials))
    if chosen.json:
        _print(json.dumps({"mutants": [verdict.document() for verdict in verdicts]}, indent=2))
    else:
        _print(*report.lines(verdicts))
    if chosen.write:
        before = report.PAGE.read_text(encoding="utf-8") if report.PAGE.exists() else ""
        report.PAGE.write_text(report.page(verdicts, known, before), encoding="utf-8")
    if survivors := report.survivors(verdicts):
        _say(f"survived: {', '.join(survivors)}")
    if any(verdict.ending == BROKEN for verdict in verdicts):
        return FAILED
    return SOME_SURVIVED if survivors else ALL_CAUGHT


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.safety.mutants",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="which mutants (default: all of them)")
    parser.add_argument("--list", action="store_true", help="say which there are, and do nothing else")
    parser.add_argument(
        "--harness",
        action="append",
        choices=tuple(HARNESSES),
        help="only this one, of those that should catch it; may be repeated",
    )
    parser.add_argument(
        "--amount",
        action="append",
        default=[],
        type=_amount,
        metavar="HARNESS=N",
        help="how much a harness does: "
        + ", ".join(f"{one.name} {one.bound.strip('-')} (default {one.amount})" for one in HARNESSES.values()),
    )
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="mutants at once (default 1)")
    parser.add_argument("--write", action="store_true", help="record the result in docs/mutants.md")
    parser.add_argument("--patches", type=Path, default=PATCHES, metavar="FOLDER", help="where the patches are")
    parser.add_argument("--json", action="store_true", help="the result as JSON")
    return parser


def _amount(text: str) -> tuple[str, str]:
    name, equals, amount = text.partition("=")
    if name not in HARNESSES or not equals:
        raise argparse.ArgumentTypeError(f"HARNESS=N, of: {', '.join(HARNESSES)}")
    return name, amount


def _tell(what: str) -> None:
    """Say on a terminal what is going on."""
    if sys.stderr.isatty():
        _say(what)


def _say(what: str) -> None:
    sys.stderr.write(f"{what}\n")
    sys.stderr.flush()


def _print(*lines: str) -> None:
    sys.stdout.write("\n".join(lines) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
