"""`make explore`: every order in which small worlds can go on, on the real decision core, in search of two leaders."""

from __future__ import annotations

import argparse
import json
import sys
import time
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from typing import TYPE_CHECKING

from tests.bench.table import aligned
from tests.safety.explore import search
from tests.safety.explore.core import BreachError
from tests.safety.explore.scenarios import BY_NAME, FAULTS, SCENARIOS, Scenario
from tests.safety.explore.story import described, story
from tests.safety.explore.workers import explored

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.safety.explore.search import Found

OK, FOUND, MISUSED, FAILED = 0, 1, 2, 3


def main(arguments: Sequence[str] | None = None) -> int:
    """Explore what the arguments say; 0 when nothing is wrong, 1 when something is, 2 when called wrongly, 3 else."""
    chosen = _parse(arguments)
    scenarios = [BY_NAME[name] for name in dict.fromkeys(chosen.scenarios)] or list(SCENARIOS)
    if chosen.list:
        _print("\n\n".join(map(_described, scenarios)))
        return OK
    if chosen.path is not None:
        return _replay(scenarios[0], chosen.path)
    began = time.monotonic()
    try:
        names = [scenario.name for scenario in scenarios]
        found = explored(names, states=chosen.states, workers=chosen.workers, shown=_shown(quiet=chosen.json))
    except KeyboardInterrupt:
        return FAILED
    except (BreachError, BrokenProcessPool, OSError) as error:
        sys.stderr.write(f"error: cannot explore: {error}\n")
        return FAILED
    seconds = time.monotonic() - began
    if chosen.json:
        _print(json.dumps([_entry(each) for each in found], indent=1))
    else:
        _print(*_told(found, seconds))
    return FOUND if any(each.breach for each in found) else OK


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.safety.explore",
        description=__doc__,
        epilog="example: python -m tests.safety.explore answers restarts --states 200000",
    )
    parser.add_argument(
        "scenarios", nargs="*", metavar="SCENARIO", help="which to explore; all of them if none is named"
    )
    parser.add_argument(
        "--states", type=_count, metavar="N", help="distinct states in sum, at most; default: all there are"
    )
    parser.add_argument("--workers", type=_count, default=2, metavar="N", help="processes; default: %(default)s")
    parser.add_argument("--json", action="store_true", help="print what was found for programs")
    parser.add_argument("--list", action="store_true", help="say what the scenarios are, and explore nothing")
    parser.add_argument("--path", type=_path, metavar="0.3.1", help="tell this one path of one scenario again")
    chosen = parser.parse_args(arguments)
    for name in chosen.scenarios:
        if name not in BY_NAME:
            parser.error(f"there is no scenario {name}; choose from: {', '.join(BY_NAME)}")
    if chosen.path is not None and len(chosen.scenarios) != 1:
        parser.error("--path is one scenario's: name that one")
    return chosen


def _count(text: str) -> int:
    count = int(text)
    if count < 1:
        raise ValueError(text)
    return count


def _path(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".") if part)


def _described(scenario: Scenario) -> str:
    people = ", ".join(
        f"{name}{' (stock)' if number in scenario.stock else ''} at {scenario.rates[number]:g}"
        for number, name in enumerate(scenario.identities)
    )
    timings = "; ".join(dict.fromkeys(map(described, scenario.timings)))
    horizon = "without end" if scenario.steps is None else f"{scenario.steps} steps of {scenario.step:g} s"
    faults = ", ".join(f"{count} {kind} ({FAULTS[kind]})" for kind, count in scenario.faults.items()) or "none"
    return (
        f"{scenario.name}: {scenario.about}\n"
        f"  who, and how fast their clocks run: {people}\n"
        f"  time: {horizon}; {timings}; watches lag by at most {scenario.lag} events\n"
        f"  faults, at most: {faults}"
    )


def _print(*lines: str) -> None:
    sys.stdout.write("\n".join(lines) + "\n")


def _shown(*, quiet: bool) -> Callable[[int, int], None]:
    """Return what shows progress on a terminal, and nothing elsewhere."""
    if quiet or not sys.stderr.isatty():
        return lambda _scenarios, _states: None

    def show(scenarios: int, states: int) -> None:
        sys.stderr.write(f"\r{scenarios} scenarios, {states:,} states ")

    return show


# -- Telling -----------------------------------------------------------------------------------------------------------


def _told(found: Sequence[Found], seconds: float) -> list[str]:
    rows = [["scenario", "states", "moves", "deepest", "complete", "leader after", "seconds"]]
    rows += [
        [
            each.scenario,
            f"{each.states:,}",
            f"{each.edges:,}",
            str(each.depth),
            "yes" if each.complete else "no",
            f"{each.recovery} steps",
            f"{each.seconds:.1f}",
        ]
        for each in found
    ]
    total = sum(each.states for each in found)
    lines = aligned(rows)
    for each in found:
        if each.breach:
            path = ".".join(map(str, each.path))
            lines += [
                "",
                *story(BY_NAME[each.scenario], each),
                f"again: python -m tests.safety.explore {each.scenario} --path {path}",
            ]
    verdict = "nothing is wrong" if not any(each.breach for each in found) else "SOMETHING IS WRONG, see above"
    asked = sum(each.asked for each in found)
    return [
        *lines,
        "",
        f"{total:,} distinct states in {seconds:.0f} s, {asked:,} of them asked for a leader: {verdict}",
    ]


def _entry(found: Found) -> dict[str, object]:
    return {**asdict(found), "path": ".".join(map(str, found.path))}


def _replay(scenario: Scenario, path: tuple[int, ...]) -> int:
    try:
        found = search.replayed(scenario, path)
    except ValueError as error:
        sys.stderr.write(f"error: {error}\n")
        return MISUSED
    _print(*story(scenario, found))
    return FOUND if found.breach else OK


if __name__ == "__main__":
    sys.exit(main())
