"""`make bench`: what an election costs and how fast it is, for any command, on a real API server."""

from __future__ import annotations

import argparse
import itertools
import math
import os
import platform
import shlex
import signal
import sys
import sysconfig
import tempfile
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from sidecar import duration
from tests.bench import report
from tests.bench.candidates import PLACEHOLDERS, CandidateError, TemplateError, command_from
from tests.bench.measure import Command, Workload, measure
from tests.testbed import golang, peers
from tests.testbed.apiserver import StartError
from tests.testbed.connection import APIError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import FrameType

    from tests.bench.figures import Row

OK, FAILED, MISUSED, INTERRUPTED = 0, 1, 2, 130

STOCK_FLAGS = "--election={election} --election-namespace={namespace} --id={id} --ttl={ttl} --http=localhost:{port}"
CLIENTGO = {"clientgo": "", "clientgo-release": " --release-on-cancel"}

# What the goal of an election with many replicas is measured with.
MANY_ELECTIONS, MANY_REPLICAS = 2, 50

LIMITS = {"elections": 100, "replicas": 200, "trials": 1000}
MOST_CANDIDATES = 500
LONGEST_WINDOW = 3600.0
LONGEST_TTL = 600.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what the arguments say; 0, 1 when something failed or a goal was missed, 2 when called wrongly."""
    chosen = _parse(arguments)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        return _run(chosen)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; every candidate was ended\n")
        return INTERRUPTED
    except TemplateError as error:
        sys.stderr.write(f"error: {error}\n")
        return MISUSED
    except (StartError, golang.BuildError, APIError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return FAILED


def _run(chosen: argparse.Namespace) -> int:
    machine = _machine()
    load = Workload(
        elections=chosen.elections,
        replicas=chosen.replicas,
        ttl=chosen.ttl,
        ttl_seconds=duration.parse(chosen.ttl),
        window=chosen.window,
        kill_trials=chosen.kill_trials,
        term_trials=chosen.term_trials,
    )
    first = _own(chosen)
    commands = [first, *map(_compared, chosen.compare)]
    # What is wrong with a template is said before the first minutes have passed.
    examples = dict.fromkeys(PLACEHOLDERS, "x")
    for command in commands:
        command_from(command.template, examples)
    workloads = [(load, commands)]
    if chosen.check:
        many = replace(load, elections=MANY_ELECTIONS, replicas=MANY_REPLICAS, kill_trials=0, term_trials=0)
        workloads.append((many, [first]))

    with tempfile.TemporaryDirectory(prefix="leader-elector-bench-") as folder:
        folders = (Path(folder, str(number)) for number in itertools.count())
        measured = [[_measure(one, workload, folder=next(folders)) for one in some] for workload, some in workloads]
    groups = [[row for row in rows if row is not None] for rows in measured]
    complete = groups == measured
    goals = report.compare_with_goals(groups[0][0], groups[1][0]) if chosen.check and complete else []
    _print(chosen, [rows for rows in groups if rows], goals, machine)
    return OK if complete and all(goal.met for goal in goals) else FAILED


def _measure(command: Command, load: Workload, *, folder: Path) -> Row | None:
    """Measure one command; None, and what happened on stderr, when a candidate failed."""
    progress = _Progress(f"{command.name}, {load.elections} x {load.replicas}")
    try:
        return measure(command, load, folder=folder, progress=progress)
    except CandidateError as error:
        # The other commands are measured all the same.
        progress.end()
        sys.stderr.write(f"error: {command.name}: {error}\n")
        return None
    finally:
        progress.end()


def _print(
    chosen: argparse.Namespace, groups: list[list[Row]], goals: list[report.Goal], machine: report.Machine
) -> None:
    if chosen.json:
        sys.stdout.write(report.document(groups, goals, machine) + "\n")
        return
    tell = report.markdown if chosen.markdown else report.table
    parts = [str(machine), *map(tell, groups)]
    if goals:
        parts.append(report.goal_lines(goals))
    sys.stdout.write("\n\n".join(parts) + "\n")


class _Progress:
    """One line on a terminal, written anew again and again; nothing elsewhere."""

    def __init__(self, subject: str) -> None:
        self._subject = subject
        self._shown = sys.stderr.isatty()

    def __call__(self, text: str) -> None:
        self._write(f"{self._subject}: {text}")

    def end(self) -> None:
        """Clear the line."""
        self._write("")

    def _write(self, text: str) -> None:
        if self._shown:
            sys.stderr.write(f"\r\x1b[K{text}")
            sys.stderr.flush()


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="make bench ARGS=...",
        description="Runs elections of any program against a real API server, and measures what they cost.",
        epilog="Placeholders of a TEMPLATE: " + " ".join(f"{{{name}}}" for name in PLACEHOLDERS) + ". "
        "No shell runs it. It also finds KUBECONFIG and POD_UID in its environment.",
    )
    add = parser.add_argument
    add("--elections", type=_count("elections"), default=5, metavar="N", help="elections (default 5)")
    add("--replicas", type=_count("replicas"), default=5, metavar="N", help="candidates of each (default 5)")
    add("--ttl", type=_ttl, default="10s", help="lease duration, as Go writes it (default 10s)")
    add("--window", type=_seconds, default=60.0, metavar="SECONDS", help="of the steady state (default 60)")
    add("--kill-trials", type=_count("trials", least=0), default=10, metavar="N", help="leaders killed (default 10)")
    add("--term-trials", type=_count("trials", least=0), default=10, metavar="N", help="leaders ended (default 10)")
    add("--command", metavar="TEMPLATE", help="the program (default: leader-elector with the stock image's flags)")
    add("--name", metavar="LABEL", help="what its column is called (default: the program's name)")
    add(
        "--compare",
        action="append",
        default=[],
        type=_comparison,
        metavar="LABEL=TEMPLATE",
        help=f"another program to measure the same way; may be repeated; {' or '.join(CLIENTGO)} alone is client-go's",
    )
    add("--check", action="store_true", help=f"measure {MANY_REPLICAS} replicas as well, and compare with the goals")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print JSON")
    form.add_argument("--markdown", action="store_true", help="print the tables in Markdown")
    chosen = parser.parse_args(arguments)
    if chosen.elections * chosen.replicas > MOST_CANDIDATES:
        parser.error(f"--elections times --replicas is more than {MOST_CANDIDATES} candidates")
    if chosen.replicas < 2 and chosen.kill_trials + chosen.term_trials > 0:
        parser.error("nobody takes over from a single replica: --kill-trials and --term-trials must be 0")
    if chosen.check and 0 in (chosen.kill_trials, chosen.term_trials):
        parser.error("--check needs --kill-trials and --term-trials")
    return chosen


def _count(what: str, *, least: int = 1) -> Callable[[str], int]:
    def count(text: str) -> int:
        if not text.isascii() or not text.isdigit() or not least <= int(text) <= LIMITS[what]:
            raise argparse.ArgumentTypeError(f"{text!r}: not a number from {least} to {LIMITS[what]}")
        return int(text)

    return count


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= LONGEST_WINDOW:
        raise argparse.ArgumentTypeError(f"{text!r}: not a number of seconds up to {LONGEST_WINDOW:g}")
    return seconds


def _ttl(text: str) -> str:
    try:
        seconds = duration.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    if not 0 < seconds <= LONGEST_TTL:
        raise argparse.ArgumentTypeError(f"{text!r}: not between 0s and {duration.render(LONGEST_TTL)}")
    return text


def _comparison(text: str) -> str:
    label, equals, template = text.partition("=")
    if text not in CLIENTGO and not (label and equals and template):
        known = " nor ".join(CLIENTGO)
        raise argparse.ArgumentTypeError(f"{text!r}: neither LABEL=TEMPLATE nor {known}")
    return text


def _compared(text: str) -> Command:
    if text in CLIENTGO:
        program = shlex.quote(str(peers.clientgo()))
        return Command(name=text, template=f"{program} {STOCK_FLAGS}{CLIENTGO[text]}")
    label, _, template = text.partition("=")
    return Command(name=label, template=template)


def _own(chosen: argparse.Namespace) -> Command:
    if chosen.command:
        return Command(name=chosen.name or Path(chosen.command.split()[0]).name, template=chosen.command)
    program = Path(sysconfig.get_path("scripts"), "leader-elector")
    if not program.exists():
        raise TemplateError(f"{program} does not exist: install this project into this environment, or give --command")
    return Command(name=chosen.name or program.name, template=f"{shlex.quote(str(program))} {STOCK_FLAGS}")


def _machine() -> report.Machine:
    return report.Machine(
        date=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        cores=len(os.sched_getaffinity(0)),
        memory_gib=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30,
        load=os.getloadavg()[0],
        python=platform.python_version(),
    )


def _interrupt(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
