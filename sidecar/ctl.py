"""electionctl: the laboratory's and the operator's commands."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from dataclasses import asdict

from sidecar import duration

OK, FAILED, INTERRUPTED = 0, 1, 130

SHORTEST_TTL, LONGEST_TTL = 2, 20
"""Seconds: long enough for a busy machine, short enough to watch."""


def main() -> None:
    """Run one command; exit 0, 1 when it failed, 2 when it was called wrongly, 130 on Ctrl-C."""
    parser = argparse.ArgumentParser(prog="electionctl", description=__doc__)
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    demo = commands.add_parser(
        "demo",
        help="three sidecars elect a leader, lose it twice, and show it",
        description="Three real sidecars, an embedded API server: the leader is killed, the next one is terminated.",
    )
    demo.add_argument("--ttl", type=_ttl, default="10s", help="lease duration (default: %(default)s)")
    demo.add_argument("--json", action="store_true", help="print the figures as JSON, and nothing else")
    demo.set_defaults(run=_demo)
    arguments = parser.parse_args()
    try:
        sys.exit(arguments.run(arguments))
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


def _demo(arguments: argparse.Namespace) -> int:
    try:
        from sidecar.lab import demo, terminal  # noqa: PLC0415 - the lab's dependencies are an extra
    except ModuleNotFoundError as error:
        return _failed(f"{error.name} is not installed; install leader-elector[lab]")
    try:
        with terminal.reporting(quiet=arguments.json) as report:
            figures = asyncio.run(demo.run(report, ttl=arguments.ttl))
    except demo.DemoError as error:
        return _failed(str(error))
    if arguments.json:
        sys.stdout.write(json.dumps(asdict(figures), indent=2) + "\n")
    else:
        sys.stdout.write(
            f"first leader after {figures.first_leader:.2f} s; "
            f"take-over {figures.after_sigkill:.2f} s after SIGKILL (ttl {arguments.ttl}), "
            f"{figures.after_sigterm:.3f} s after SIGTERM\n"
        )
    return OK


def _ttl(text: str) -> str:
    try:
        seconds = duration.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    if not SHORTEST_TTL <= seconds <= LONGEST_TTL:
        raise argparse.ArgumentTypeError(f"{text} is not between {SHORTEST_TTL} s and {LONGEST_TTL} s")
    return text


def _failed(text: str) -> int:
    sys.stderr.write(f"electionctl: {text}\n")
    return FAILED
