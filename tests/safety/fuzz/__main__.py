"""`make fuzz`: hostile input, guided by what it reaches, on every parser and on everything that others can write to."""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import signal
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from tests.safety.fuzz import fuzzing, targets

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.safety.fuzz.fuzzing import Outcome

OK, FOUND, UNAVAILABLE, INTERRUPTED = 0, 1, 3, 130
LONGEST_MINUTES = 7 * 24 * 60.0


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Fuzz, or play an input again; exit 0 when nothing was found, 1 when something was, 3 when nothing could run."""
    # Told to end, it ends the fuzzers that it started.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    chosen = _parse(arguments)
    names = list(dict.fromkeys(chosen.targets or targets.NAMES))
    if chosen.replay is not None:
        sys.exit(_replay(names, chosen.replay))
    if importlib.util.find_spec("atheris") is None:
        _fail("no atheris, the fuzzer: it is there for Python 3.11 to 3.13 on Linux; pip install atheris")
    try:
        outcomes = fuzzing.run(
            names,
            minutes=chosen.minutes,
            seed=chosen.seed,
            workers=min(chosen.workers, len(names)),
            tell=_tell,
        )
    except fuzzing.HarnessError as error:
        _fail(str(error))
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    sys.stdout.write(f"{_as_json(outcomes) if chosen.json else _as_table(outcomes)}\n")
    sys.exit(FOUND if any(outcome.findings for outcome in outcomes) else OK)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.safety.fuzz",
        description=__doc__,
        epilog="example: python -m tests.safety.fuzz record watch --minutes 10",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "targets",
        nargs="*",
        metavar="TARGET",
        help=f"what to fuzz: {', '.join(targets.NAMES)}; all of them by default",
    )
    parser.add_argument(
        "--minutes", type=_minutes, default=5.0, metavar="M", help="for all of them together (default: 5)"
    )
    parser.add_argument("--seed", type=_count, default=1, metavar="N", help="where chance begins (default: 1)")
    parser.add_argument(
        "--workers",
        type=_count,
        default=min(2, os.cpu_count() or 1),
        metavar="N",
        help="targets at once (default: 2, or 1 on one core)",
    )
    parser.add_argument("--json", action="store_true", help="tell the figures to a program")
    parser.add_argument("--replay", type=Path, metavar="FILE", help="give one input to one target, and nothing else")
    chosen = parser.parse_args(arguments)
    for name in chosen.targets:
        if name not in targets.NAMES:
            parser.error(f"no target {name!r}; there are: {', '.join(targets.NAMES)}")
    if chosen.replay is not None and (len(chosen.targets) != 1 or not chosen.replay.is_file()):
        parser.error("--replay takes a file, and one target that it is for")
    return chosen


def _minutes(text: str) -> float:
    minutes = float(text)
    if not (math.isfinite(minutes) and 0 < minutes <= LONGEST_MINUTES):
        raise argparse.ArgumentTypeError(f"not a number from 0 to {LONGEST_MINUTES:g}")
    return minutes


def _count(text: str) -> int:
    count = int(text)
    if not 1 <= count < 2**31:
        raise argparse.ArgumentTypeError("not a whole number from 1 on")
    return count


def _replay(names: list[str], file: Path) -> int:
    """Give an input to its target; the traceback of what it breaks is the story."""
    try:
        targets.load(names[0]).check(file.read_bytes())
    except Exception:  # noqa: BLE001 - whatever it is, it is what was found
        sys.excepthook(*sys.exc_info())
        return FOUND
    sys.stdout.write(f"{names[0]}: nothing is wrong with {file}\n")
    return OK


def _as_table(outcomes: list[Outcome]) -> str:
    rows = [("target", "seconds", "of CPU", "executions", "coverage", "features", "corpus", "findings")]
    rows += [
        (
            outcome.target,
            f"{outcome.seconds:.0f}",
            f"{outcome.cpu_seconds:.0f}",
            f"{outcome.executions:,}",
            str(outcome.coverage),
            str(outcome.features),
            str(outcome.corpus),
            str(len(outcome.findings)),
        )
        for outcome in outcomes
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for name, *figures in rows:
        cells = [figure.rjust(width) for figure, width in zip(figures, widths[1:], strict=True)]
        lines.append("  ".join([name.ljust(widths[0]), *cells]))
    for outcome in outcomes:
        again = f"python -m tests.safety.fuzz {outcome.target} --replay"
        lines += [f"{outcome.target}: a promise is broken; again: {again} {file}" for file in outcome.findings]
    return "\n".join(lines)


def _as_json(outcomes: list[Outcome]) -> str:
    return json.dumps([asdict(outcome) for outcome in outcomes], indent=2, default=str)


def _tell(line: str) -> None:
    if sys.stderr.isatty():
        sys.stderr.write(f"{line}\n")


def _fail(message: str) -> NoReturn:
    sys.stderr.write(f"error: {message}\n")
    sys.exit(UNAVAILABLE)


if __name__ == "__main__":
    main()
