"""`make simulate`: real candidates in virtual time, faults by seed, and nobody ever sees two leaders."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from typing import TYPE_CHECKING, Final

from tests.bench.table import aligned
from tests.safety.simulate.plan import draw
from tests.safety.simulate.play import play
from tests.safety.simulate.seeds import Tally, play_seeds
from tests.safety.simulate.shrink import shrink
from tests.testbed.progress import progress

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.safety.simulate.play import Outcome
    from tests.safety.simulate.seeds import Played

FOUND_NOTHING, FOUND, FAILED, INTERRUPTED = 0, 1, 3, 130
"""Exit codes; argparse ends with 2 when it is called wrongly."""

SHOWN_EVERY: Final = 0.5
"""Seconds between two changes of the line that shows progress."""

EPILOG: Final = """examples:
  python -m tests.safety.simulate --seeds 10000
  python -m tests.safety.simulate --seed 4711 --seeds 1 --story
  python -m tests.safety.simulate --seed 4711 --seeds 1 --shrink

The same seed takes the same course each time, on every machine, with the same versions of Python and of what the
sidecar uses. Exit codes: 0 nothing was found, 1 a violation was, 2 called wrongly, 3 it could not run."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Play seeds; return the exit code."""
    parser = _parser()
    chosen = parser.parse_args(arguments)
    alone = chosen.story or chosen.shrink or chosen.without
    if alone and chosen.seeds != 1:
        parser.error("--story, --shrink and --without are for one seed: --seeds 1")
    # In the background of a shell script SIGINT is ignored.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    try:
        return _one(parser, chosen) if alone else _many(chosen)
    except KeyboardInterrupt:
        progress("interrupted")
        return INTERRUPTED
    except BrokenProcessPool:
        progress("error: a process of the simulation was killed")
        return FAILED


# -- Many seeds --------------------------------------------------------------------------------------------------------


def _many(chosen: argparse.Namespace) -> int:
    tally = Tally()
    began = time.monotonic()
    with (
        _Progress(chosen.seeds, tally) as advance,
        closing(play_seeds(chosen.seed, chosen.seeds, workers=chosen.workers, advance=advance)) as seeds,
    ):
        for played in seeds:
            tally.add(played)
            if played.violations:
                _tell_failed(played)
                if not chosen.keep_going:
                    break
    took = time.monotonic() - began
    if chosen.json:
        _print(json.dumps(_document(chosen, tally, took), indent=2))
    else:
        _print("\n".join(_lines(tally, took)))
    return FOUND if tally.failed else FOUND_NOTHING


def _tell_failed(played: Played) -> None:
    progress(f"seed {played.seed}: {played.violations[0]}; again: {_again(played.seed)} --story")


def _again(seed: int, without: Sequence[int] = ()) -> str:
    left_out = f" --without {','.join(map(str, without))}" if without else ""
    return f"python -m tests.safety.simulate --seed {seed} --seeds 1{left_out}"


def _lines(tally: Tally, took: float) -> list[str]:
    """Return the result for people."""
    if not tally.seeds:
        return ["no seeds"]
    cells = [["fault", "times", "seeds", "with a term that began under it"]]
    for kind, number in sorted(tally.faults.items()):
        seeds, elected = tally.seeds_with[kind], tally.elected_under[kind]
        cells.append([kind, str(number), str(seeds), f"{elected} ({elected / seeds:.0%})"])
    each, after = tally.cpu_seconds / tally.seeds, tally.recovered_after
    return [
        f"{tally.seeds} seeds in {took:.0f} s ({each:.3f} s CPU each): {len(tally.failed)} with a violation",
        f"{tally.terms} terms, {tally.requests} requests",
        f"recovered after the last fault: {_median(after):.1f} s (median), {max(after, default=0.0):.1f} s (longest)",
        f"{tally.balances} seeds with leaders to be spread; {tally.excused} in which a hand made a second leader",
        *aligned(cells),
    ]


def _median(values: Sequence[float]) -> float:
    return sorted(values)[len(values) // 2] if values else 0.0


def _document(chosen: argparse.Namespace, tally: Tally, took: float) -> dict[str, object]:
    """Return the result for programs."""
    return {
        "first_seed": chosen.seed,
        "seeds": tally.seeds,
        "seconds": round(took, 1),
        "cpu_seconds_per_seed": round(tally.cpu_seconds / max(1, tally.seeds), 4),
        "terms": tally.terms,
        "requests": tally.requests,
        "recovered_after": {
            "median": round(_median(tally.recovered_after), 3),
            "longest": round(max(tally.recovered_after, default=0.0), 3),
        },
        "seeds_that_balance": tally.balances,
        "seeds_with_excused": tally.excused,
        "faults": {
            kind: {
                "times": number,
                "seeds": tally.seeds_with[kind],
                "seeds_with_a_term_that_began_under_it": tally.elected_under[kind],
            }
            for kind, number in sorted(tally.faults.items())
        },
        "failed": [
            {"seed": played.seed, "violations": played.violations, "again": _again(played.seed)}
            for played in sorted(tally.failed, key=lambda played: played.seed)
        ],
    }


# -- One seed ----------------------------------------------------------------------------------------------------------


def _one(parser: argparse.ArgumentParser, chosen: argparse.Namespace) -> int:
    plan = draw(chosen.seed)
    left_out = sorted(set(chosen.without))
    if left_out and not 1 <= left_out[0] <= left_out[-1] <= len(plan.faults):
        parser.error(f"--without: seed {plan.seed} has faults 1 to {len(plan.faults)}")
    for number in reversed(left_out):
        plan = plan.without(number - 1)
    outcome = play(plan)
    if chosen.shrink and outcome.violations:
        outcome, left_out = _shrunk(chosen.seed, outcome, left_out)
    if chosen.json:
        told = {"seed": plan.seed, "without": left_out, "violations": outcome.violations}
        _print(json.dumps(told | ({"story": outcome.story} if chosen.story else {}), indent=2))
    else:
        _print("\n".join(outcome.story if chosen.story else outcome.plan.lines()))
    for violation in outcome.violations:
        progress(f"seed {plan.seed}: {violation}; again: {_again(plan.seed, left_out)} --story")
    return FOUND if outcome.violations else FOUND_NOTHING


def _shrunk(seed: int, outcome: Outcome, left_out: Sequence[int]) -> tuple[Outcome, list[int]]:
    """Leave out what need not be there; return what is left, and which faults of the seed's are not."""
    kept = [number for number in range(1, len(draw(seed).faults) + 1) if number not in left_out]
    smallest, positions = shrink(outcome)
    return smallest, sorted([*left_out, *(kept[position - 1] for position in positions)])


# -- Small matters -----------------------------------------------------------------------------------------------------


class _Progress:
    """A line on a terminal that says how far it is; nothing where nobody watches."""

    def __init__(self, seeds: int, tally: Tally) -> None:
        self._seeds = seeds
        self._tally = tally
        self._done = 0
        self._shows = sys.stderr.isatty()
        self._began = self._shown_at = time.monotonic()

    def __enter__(self) -> Callable[[int], None]:
        return self._advance

    def __exit__(self, *_: object) -> None:
        if self._shows:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()

    def _advance(self, seeds: int) -> None:
        self._done += seeds
        now = time.monotonic()
        if not self._shows or now - self._shown_at < SHOWN_EVERY:
            return
        self._shown_at = now
        left = (now - self._began) / self._done * (self._seeds - self._done)
        failed = f", {len(self._tally.failed)} with a violation" if self._tally.failed else ""
        sys.stderr.write(f"\r\x1b[K{self._done} of {self._seeds} seeds{failed}, {left:.0f} s left")
        sys.stderr.flush()


def _print(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.safety.simulate",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seeds", type=_positive, default=1000, metavar="N", help="how many to play (1000)")
    parser.add_argument("--seed", type=_natural, default=0, metavar="FIRST", help="the first of them (0)")
    parser.add_argument(
        "--workers", type=_positive, default=os.cpu_count() or 1, metavar="N", help="processes (one a processor)"
    )
    parser.add_argument("--keep-going", action="store_true", help="do not stop at the first violation")
    parser.add_argument("--story", action="store_true", help="of one seed: print the plan, and what happened")
    parser.add_argument("--shrink", action="store_true", help="of one seed that fails: leave faults out while it does")
    parser.add_argument(
        "--without", type=_numbers, default=(), metavar="N,N", help="of one seed: leave out these faults of its plan"
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    return parser


def _positive(text: str) -> int:
    if (number := _natural(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return number


def _natural(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number")
    return int(text)


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(_positive(number) for number in text.split(","))


if __name__ == "__main__":
    sys.exit(main())
