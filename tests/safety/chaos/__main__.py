"""`make chaos`: real candidates on a real API server, real faults, and nobody ever sees two leaders."""

from __future__ import annotations

import argparse
import asyncio
import json
import secrets
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from textwrap import indent
from typing import TYPE_CHECKING, Self

from tests.safety.chaos.account import Account
from tests.safety.chaos.attack import HISTORY, AttackError, attack
from tests.safety.chaos.fleet import NAMES, Shape
from tests.safety.chaos.kinds import FAULTS, kinds
from tests.safety.chaos.peer_faults import Peer
from tests.safety.chaos.schedule import bursts
from tests.testbed import golang, peers
from tests.testbed.apiserver import StartError, open_api_server
from tests.testbed.processes import tail
from tests.testbed.progress import progress

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.safety.chaos.account import Violation

FOUND_NOTHING, FOUND, MISUSED, FAILED, INTERRUPTED = 0, 1, 2, 3, 130

LONGEST_MINUTES = 24 * 60.0
LONGEST_TTL = 60.0
MOST_EXPLAINED = 5

EPILOG = """example:
  python -m tests.safety.chaos --minutes 10
  python -m tests.safety.chaos --minutes 1 --seed 7 --faults stopped,cut-off

The same seed gives the same plan of faults, not the same course: who leads when a fault begins, and what becomes of
it, is up to the machine. Exit codes: 0 nothing was found, 1 a violation was, 2 called wrongly, 3 it could not run."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, or judge a history; return the exit code."""
    chosen = _parser().parse_args(arguments)
    if chosen.seed is None:
        chosen.seed = secrets.randbelow(2**31)
    # In the background of a shell script SIGINT is ignored.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    try:
        if chosen.judge:
            return _judge(chosen.judge)
        return _run(chosen)
    except KeyboardInterrupt:
        progress("interrupted; every process was ended")
        return INTERRUPTED


def _run(chosen: argparse.Namespace) -> int:
    folder = chosen.keep or Path(tempfile.mkdtemp(prefix="leader-elector-chaos-"))
    keep = chosen.keep is not None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        clientgo = peers.clientgo() if Peer.name in chosen.faults else None
        with open_api_server(folder) as server, _Progress(chosen.minutes) as tell:
            running = attack(
                server,
                folder,
                plan=bursts(chosen.seed, kinds(chosen.faults), elections=chosen.elections),
                seconds=chosen.minutes * 60,
                shape=Shape(elections=chosen.elections, candidates=chosen.candidates, ttl=chosen.ttl),
                clientgo=clientgo,
                tell=tell,
            )
            report = asyncio.run(running)
        keep = keep or bool(report.violations)
    except (AttackError, StartError, golang.BuildError, OSError) as error:
        progress(f"error: {error}")
        return FAILED
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)
    if chosen.json:
        told = {"seed": chosen.seed, **report.document(), "folder": str(folder) if keep else None}
        _print(json.dumps(told, indent=2))
    else:
        _print("\n".join([f"seed {chosen.seed}", *report.lines()]))
    sys.stdout.flush()
    if report.violations:
        _explain(report.violations, folder)
        again = f"python -m tests.safety.chaos {_flags(chosen)}"
        progress(f"the same plan again: {again}\nthe same history again: {JUDGE} {folder / HISTORY}")
        return FOUND
    return FOUND_NOTHING


def _flags(chosen: argparse.Namespace) -> str:
    names = ("seed", "minutes", "elections", "candidates", "ttl")
    flags = [f"--{name} {getattr(chosen, name)}" for name in names]
    return " ".join([*flags, *([f"--faults {','.join(chosen.faults)}"] if set(chosen.faults) != set(FAULTS) else [])])


JUDGE = "python -m tests.safety.chaos --judge"


def _judge(file: Path) -> int:
    try:
        account = Account.read(file)
    except (OSError, ValueError) as error:
        progress(f"error: {file}: {error}")
        return FAILED
    violations = account.violations()
    _explain(violations, file.parent)
    _print(f"{len(account.runs)} spans, {account.terms()} terms, {len(violations)} violations")
    return FOUND if violations else FOUND_NOTHING


def _explain(violations: Sequence[Violation], folder: Path) -> None:
    """Tell people what was found; logs that are there are quoted."""
    for violation in violations[:MOST_EXPLAINED]:
        progress(f"\nVIOLATION: {violation.sentence}")
        progress(f"  faults then: {', '.join(violation.faults) or 'none'}")
        for process in violation.processes:
            for log in folder.glob(f"*-{process.replace('/', '-')}.log"):
                progress(f"  -- {process}: {log}\n{indent(tail(log, lines=12), '  ')}")
    if len(violations) > MOST_EXPLAINED:
        progress(f"and {len(violations) - MOST_EXPLAINED} more")
    if violations:
        progress(f"\nall logs, and what was served: {folder}")


class _Progress:
    """A line on a terminal that says what is going on; nothing where nobody watches."""

    def __init__(self, minutes: float) -> None:
        self._minutes = minutes
        self._began = time.monotonic()
        self._shown = sys.stderr.isatty()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._shown:
            sys.stderr.write("\r\x1b[K")

    def __call__(self, what: str) -> None:
        if self._shown:
            gone = (time.monotonic() - self._began) / 60
            sys.stderr.write(f"\r\x1b[K{gone:.1f} of {self._minutes:g} min: {what}"[:120])
            sys.stderr.flush()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.safety.chaos",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--minutes", type=_minutes, default=10.0, metavar="M", help="how long (default 10)")
    parser.add_argument("--seed", type=int, default=None, metavar="S", help="the plan's seed (default: any)")
    parser.add_argument(
        "--faults", type=_faults, default=tuple(FAULTS), metavar="A,B", help=f"only these, of: {', '.join(FAULTS)}"
    )
    parser.add_argument("--elections", type=_whole(len(NAMES)), default=3, metavar="N", help="of the group (default 3)")
    parser.add_argument("--candidates", type=_whole(20), default=4, metavar="N", help="of each election (default 4)")
    parser.add_argument("--ttl", type=_ttl, default=3.0, metavar="SECONDS", help="of all candidates (default 3)")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep logs and history there, whatever is found")
    parser.add_argument("--judge", type=Path, metavar="FILE", help="judge this history, and do nothing else")
    parser.add_argument("--json", action="store_true", help="the result as JSON")
    return parser


def _minutes(text: str) -> float:
    value = float(text)
    if not 0 < value <= LONGEST_MINUTES:
        raise argparse.ArgumentTypeError(f"more than 0, and at most {LONGEST_MINUTES:g}")
    return value


def _ttl(text: str) -> float:
    value = float(text)
    if not 1 <= value <= LONGEST_TTL:
        raise argparse.ArgumentTypeError(f"from 1 to {LONGEST_TTL:g} seconds")
    return value


def _whole(most: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        value = int(text)
        if not 1 <= value <= most:
            raise argparse.ArgumentTypeError(f"a whole number from 1 to {most}")
        return value

    return parse


def _faults(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    if unknown := [name for name in names if name not in FAULTS]:
        raise argparse.ArgumentTypeError(f"no such fault: {', '.join(unknown)}; there are {', '.join(FAULTS)}")
    return names


def _print(text: str) -> None:
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    sys.exit(main())
