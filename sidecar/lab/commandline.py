"""How the commands of electionctl are declared: options are read strictly, and what is wrong is said in one line."""

from __future__ import annotations

import argparse
import signal
import sys
import textwrap
from typing import TYPE_CHECKING, Any, NoReturn

from sidecar import duration

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from sidecar.settings import Option

OK, FAILED, MISUSED, INTERRUPTED = 0, 1, 2, 130

WIDTH = 80
"""Characters of a line of help."""

COMMON_STATUSES: Mapping[int, str] = {MISUSED: "called wrongly", INTERRUPTED: "ended by Ctrl-C"}
"""What these two exit statuses mean of every command."""


class CommandError(Exception):
    """The command cannot do what it was asked to; the message is one line that says why, and what to do."""


class Parser(argparse.ArgumentParser):
    """Says in one line what is wrong, without the usage of dozens of options before it."""

    def error(self, message: str) -> NoReturn:
        """Exit 2."""
        self.exit(MISUSED, f"{self.prog}: {message}; see {self.prog} --help\n")


def declare(
    commands: argparse._SubParsersAction[Parser],
    name: str,
    *,
    summary: str,
    description: str,
    examples: Sequence[tuple[str, str]],
    statuses: Mapping[int, str],
    run: Callable[[argparse.Namespace], int],
) -> Parser:
    """Add a command. `examples` are what may be typed after `electionctl`, and what it is for; `run` returns a status.

    `statuses` say what the command's exit statuses mean, beside those that mean the same of every command.
    """
    longest = max((len(typed) for typed, _ in examples), default=0)
    lines = ["examples:", *(f"  electionctl {typed:<{longest}}  # {aim}".rstrip(" #") for typed, aim in examples)]
    lines += ["", "exit status:"]
    lines += [f"  {status:<3}  {meaning}" for status, meaning in sorted({**statuses, **COMMON_STATUSES}.items())]
    parser: Parser = commands.add_parser(
        name,
        help=summary,
        description=textwrap.fill(description, WIDTH),
        epilog="\n".join(lines),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    return parser


def misused(text: str) -> int:
    """Say what was called wrongly, and return the status for that."""
    sys.stderr.write(f"electionctl: {text}\n")
    return MISUSED


def failed(text: str) -> int:
    """Say what went wrong, and return the status for that."""
    sys.stderr.write(f"electionctl: {text}\n")
    return FAILED


def missing(error: ModuleNotFoundError, *, extra: str = "lab") -> int:
    """Say which package is not installed; the lab's are an extra."""
    return failed(f"{error.name} is not installed; install leader-elector[{extra}]")


def from_to(least: int, most: int) -> Callable[[str], int]:
    """Return what reads a whole number from `least` to `most`."""

    def number(text: str) -> int:
        if not (text.isascii() and text.isdigit() and len(text) <= len(str(most)) and least <= int(text) <= most):
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {least} to {most}")
        return int(text)

    return number


def span(least: float, most: float) -> Callable[[str], float]:
    """Return what reads a duration of `least` to `most` seconds, written as everywhere else: `30s`."""

    def seconds(text: str) -> float:
        try:
            read = duration.parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error
        if not least <= read <= most:
            raise argparse.ArgumentTypeError(
                f"{text} is not between {duration.render(least)} and {duration.render(most)}"
            )
        return read

    return seconds


def option(row: Option[Any]) -> Callable[[str], str]:
    """Return what accepts a value that the sidecar accepts, and leaves it as it is written."""

    def value(text: str) -> str:
        try:
            row.parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{text!r:.100}: {error} (accepted: {row.accepted})") from error
        return text

    return value


def printable(text: str) -> str:
    """Return text that a terminal shows and does not obey: holders call themselves what they like."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def end_as_interrupted() -> None:
    """However the command is told to end, let it do so as on Ctrl-C, which leaves things in order."""
    # In the background of a script SIGINT would be ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup leaves it
            signal.signal(number, lambda *_: signal.raise_signal(signal.SIGINT))
