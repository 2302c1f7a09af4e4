"""What `make bench` can be asked for."""

from __future__ import annotations

import argparse
import math
import re
from pathlib import Path
from typing import TYPE_CHECKING

from sidecar import duration
from tests.bench.candidates import PLACEHOLDERS
from tests.bench.coldstart import BY_NODE, ORDERED

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

FORK, SPAWN = "fork", "spawn"

CLIENTGO = {"clientgo": "", "clientgo-release": " --release-on-cancel"}
VARIANTS = {"off": {"ELECTION_BALANCE": "off"}, "backoff": {"ELECTION_REBALANCE": "never"}}
"""What is compared by a word alone: client-go's elector with these flags, and this program with these variables."""
WORDS = [*CLIENTGO, *VARIANTS]

# What the goal of an election with many replicas is measured with.
MANY_ELECTIONS, MANY_REPLICAS = 2, 50

LIMITS = {
    "elections": 100,
    "replicas": 200,
    "nodes": 100,
    "trials": 1000,
    "runs": 10_000,
    "seed": 2**31,
}
MOST_CANDIDATES = 500
LONGEST_WINDOW = 3600.0
LONGEST_TTL = 600.0

STEADY: Mapping[str, object] = {
    "elections": 5,
    "replicas": 5,
    "nodes": 3,
    "window": 60.0,
    "kill_trials": 10,
    "term_trials": 10,
    "settle": 45.0,
}
CHECKED_WINDOW = 300.0
"""Seconds: what a candidate does now and then, it does every few minutes."""
BALANCE: Mapping[str, object] = {
    "runs": 20,
    "starts": "1",
    "settle": 6.0,
    "crashes": 0,
    "seed": 1,
    "out": None,
    "logs": None,
    "start": None,
}
FOOTPRINT: Mapping[str, object] = {"replicas": 5, "settle": 10.0, "window": 60.0}
"""The options of each mode, with their defaults. None of another's may be given."""


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return what was asked for; ends the program with status 2, and a line on stderr, when that makes no sense."""
    parser = _parser()
    chosen = parser.parse_args(arguments)
    mine, mode = _mode(parser, chosen)
    for name in sorted({**STEADY, **BALANCE}.keys() - mine.keys()):
        if getattr(chosen, name) is not None:
            parser.error(f"--{name.replace('_', '-')} has no meaning {mode}")
    if chosen.window is None and chosen.check and mine is STEADY:
        chosen.window = CHECKED_WINDOW
    for name, default in mine.items():
        if getattr(chosen, name) is None:
            setattr(chosen, name, default)
    if chosen.balance:
        _check_balance(parser, chosen)
    elif chosen.image is not None:
        _check_footprint(parser, chosen)
    else:
        _check_steady(parser, chosen)
    return chosen


def _mode(parser: argparse.ArgumentParser, chosen: argparse.Namespace) -> tuple[Mapping[str, object], str]:
    """Return the options that have a meaning, and the words for that."""
    if chosen.balance and chosen.image is not None:
        parser.error("--balance and --image are two things to measure")
    if chosen.balance:
        return BALANCE, "with --balance"
    return (STEADY, "without --balance") if chosen.image is None else (FOOTPRINT, "with --image")


def _check_steady(parser: argparse.ArgumentParser, chosen: argparse.Namespace) -> None:
    if chosen.elections * chosen.replicas > MOST_CANDIDATES:
        parser.error(f"--elections times --replicas is more than {MOST_CANDIDATES} candidates")
    if chosen.replicas < 2 and chosen.kill_trials + chosen.term_trials > 0:
        parser.error("nobody takes over from a single replica: --kill-trials and --term-trials must be 0")
    if chosen.check and 0 in (chosen.kill_trials, chosen.term_trials):
        parser.error("--check needs --kill-trials and --term-trials")


def _check_balance(parser: argparse.ArgumentParser, chosen: argparse.Namespace) -> None:
    applications, replicas, _ = chosen.balance
    if applications * replicas > MOST_CANDIDATES:
        parser.error(f"--balance: {applications} x {replicas} is more than {MOST_CANDIDATES} candidates")
    if not chosen.runs and not chosen.crashes:
        parser.error("--runs=0 needs --crashes: there is nothing else to measure")
    if chosen.start == FORK and chosen.command:
        parser.error("--start=fork: only this project's own program can be forked, not that of --command")


def _check_footprint(parser: argparse.ArgumentParser, chosen: argparse.Namespace) -> None:
    if chosen.replicas < 2:
        parser.error("--replicas: a leader alone has no followers to measure")
    if chosen.command or chosen.name or chosen.compare:
        parser.error("--image measures containers; --command, --name and --compare have no meaning with it")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="make bench ARGS=...",
        description="Runs elections of any program against a real API server, and measures what they cost; "
        "with --balance, how their leaders are spread over nodes after cold starts; with --image, what containers "
        "of an image occupy.",
        epilog="Placeholders of a TEMPLATE: " + " ".join(f"{{{name}}}" for name in PLACEHOLDERS) + ". "
        "No shell runs it. It also finds KUBECONFIG, POD_NAME, POD_UID and NODE_NAME in its environment.",
    )
    add = parser.add_argument
    add("--ttl", type=_ttl, default="10s", help="lease duration, as Go writes it (default 10s)")
    add(
        "--settle",
        type=_seconds,
        metavar="SECONDS",
        help="after the last start: until the window (default 45); "
        "with --balance, that are watched at least (default 6); with --image until the window (default 10)",
    )
    add("--command", metavar="TEMPLATE", help="the program (default: leader-elector with the stock image's flags)")
    add("--name", metavar="LABEL", help="what its column is called (default: the program's name)")
    add(
        "--compare",
        action="append",
        default=[],
        type=_comparison,
        metavar="LABEL=TEMPLATE",
        help="another program to measure the same way; may be repeated; "
        f"{' or '.join(CLIENTGO)} alone is client-go's, {' or '.join(VARIANTS)} alone is this one without balance, "
        "or without hand-overs",
    )
    add(
        "--check",
        action="store_true",
        help=f"compare with the goals; without --balance, measure {MANY_REPLICAS} replicas as well",
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print JSON")
    form.add_argument("--markdown", action="store_true", help="print the tables in Markdown")

    add = parser.add_argument_group("the steady state, and failovers").add_argument
    add("--elections", type=_count("elections"), metavar="N", help="elections (default 5)")
    add("--replicas", type=_count("replicas"), metavar="N", help="candidates of each (default 5)")
    add("--nodes", type=_count("nodes"), metavar="N", help="nodes that they are spread over (default 3)")
    add("--window", type=_seconds, metavar="SECONDS", help="of the steady state (default 60; 300 with --check)")
    add("--kill-trials", type=_count("trials", least=0), metavar="N", help="leaders killed (default 10)")
    add("--term-trials", type=_count("trials", least=0), metavar="N", help="leaders ended (default 10)")

    add = parser.add_argument_group("the footprint of the image; also --replicas, --window").add_argument
    add(
        "--image",
        nargs="?",
        const="",
        metavar="IMAGE",
        help="what containers of an image occupy: a leader, and followers; without a name, the image of this tree",
    )

    add = parser.add_argument_group("cold starts").add_argument
    add("--balance", type=_shape, metavar="AxRxN", help="A elections of R candidates each on N nodes")
    add("--runs", type=_count("runs", least=0), metavar="N", help="cold starts (default 20)")
    add(
        "--starts",
        type=_starts,
        metavar=f"SECONDS|{ORDERED}|{BY_NODE}",
        help="spread over so many seconds "
        "(default 1); each pod of an application when the one before is ready; or one node's first, and when they "
        "lead, all others",
    )
    add(
        "--crashes",
        type=_count("trials", least=0),
        metavar="N",
        help="leaders killed afterwards whose heirs are on "
        "the least loaded node, and as many whose heirs are on the most loaded one (default 0)",
    )
    add("--seed", type=_count("seed", least=0), metavar="N", help="of the first run; each has the next (default 1)")
    add(
        "--start",
        choices=(FORK, SPAWN),
        help="how processes are started: forked with their libraries loaded "
        "(default for this program), or on their own (for any other)",
    )
    add(
        "--out",
        type=Path,
        metavar="FILE",
        help="append each run as a line of JSON; what it holds of the same program and conditions is not repeated",
    )
    add("--logs", type=Path, metavar="FOLDER", help="keep there the candidates' logs of runs that did not end balanced")
    return parser


def _count(what: str, *, least: int = 1) -> Callable[[str], int]:
    def count(text: str) -> int:
        if not text.isascii() or not text.isdigit() or not least <= int(text) <= LIMITS[what]:
            raise argparse.ArgumentTypeError(f"{text!r}: not a number from {least} to {LIMITS[what]}")
        return int(text)

    return count


def _shape(text: str) -> tuple[int, int, int]:
    found = re.fullmatch(r"(\d{1,4})x(\d{1,4})x(\d{1,4})", text, re.ASCII)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r}: not elections, candidates of each and nodes, such as 5x5x3")
    elections, replicas, nodes = (
        _count(what)(number) for what, number in zip(("elections", "replicas", "nodes"), found.groups(), strict=True)
    )
    return elections, replicas, nodes


def _starts(text: str) -> str:
    if text in (ORDERED, BY_NODE):
        return text
    if text != "0":
        try:
            _seconds(text)
        except argparse.ArgumentTypeError as error:
            raise argparse.ArgumentTypeError(f"{error}, nor {ORDERED} nor {BY_NODE}") from error
    return text


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
    if text not in WORDS and not (label and equals and template):
        raise argparse.ArgumentTypeError(f"{text!r}: neither LABEL=TEMPLATE nor {' nor '.join(WORDS)}")
    return text
