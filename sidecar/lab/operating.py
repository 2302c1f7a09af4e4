"""What electionctl does for operators: who leads, what changes, whether all is as it should be; and to step down.

Only the command lines are here, so that reading them takes none of the lab's dependencies.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING

from sidecar import settings
from sidecar.lab.commandline import (
    FAILED,
    OK,
    CommandError,
    Parser,
    declare,
    end_as_interrupted,
    failed,
    missing,
    option,
    printable,
    span,
)

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Coroutine, Iterator

    from sidecar.lab.stepdown import Outcome

KINDS = ("auto", "endpoints", "leases")

SHORTEST_WAIT, LONGEST_WAIT = 1.0, 3600.0
"""Seconds that step-down can be told to wait."""


def describe(commands: argparse._SubParsersAction[Parser]) -> None:
    """Add these commands."""
    _describe_leaders(commands)
    _describe_watch(commands)
    _describe_step_down(commands)
    _describe_check(commands)


def _add_namespace(parser: argparse._ActionsContainer) -> None:
    parser.add_argument("-n", "--namespace", type=option(settings.NAMESPACE), help="default: the kubeconfig context's")


def _add_kubeconfig(parser: Parser) -> None:
    parser.add_argument("--kubeconfig", metavar="PATH", default="", help="default: $KUBECONFIG, ~/.kube/config")


def _add_name(parser: Parser, meaning: str, *, optional: bool = False) -> None:
    number = "?" if optional else None
    parser.add_argument("name", metavar="NAME", nargs=number, type=option(settings.ELECTION), help=meaning)


def _add_lock(parser: Parser) -> None:
    meaning = "the kind of the lock object; auto: whatever there is (default: %(default)s)"
    parser.add_argument("--lock", choices=KINDS, default="auto", help=meaning)


def _completed(work: Coroutine[None, None, int]) -> int:
    """Run a command that may end in `CommandError`."""
    try:
        return asyncio.run(work)
    except CommandError as error:
        return failed(str(error))


# -- leaders -----------------------------------------------------------------------------------------------------------


def _describe_leaders(commands: argparse._SubParsersAction[Parser]) -> None:
    leaders = declare(
        commands,
        "leaders",
        summary="who leads what, on which node, since when",
        description="Who leads what, on which node, since when; leaders per node. Reads lock objects, writes nothing.",
        examples=[
            ("leaders -n shop", "one look"),
            ("leaders -A --watch", "a table that is kept up to date; in a pipe, a line for each change"),
            ("leaders --group store --json", "for programs"),
        ],
        statuses={OK: "told", FAILED: "not allowed, or no API server answers"},
        run=_leaders,
    )
    where = leaders.add_mutually_exclusive_group()
    _add_namespace(where)
    where.add_argument("-A", "--all-namespaces", action="store_true", help="the elections of all namespaces")
    leaders.add_argument("--group", type=option(settings.GROUP), help="the elections of one group only")
    _add_kubeconfig(leaders)
    leaders.add_argument("--watch", "-w", action="store_true", help="go on, and show what changes, until Ctrl-C")
    leaders.add_argument("--json", action="store_true", help="print JSON; with --watch an object a line")


def _leaders(arguments: argparse.Namespace) -> int:
    try:
        from sidecar.lab import leaders, reach  # noqa: PLC0415 - the lab's dependencies are an extra
    except ModuleNotFoundError as error:
        return missing(error)

    async def work() -> int:
        namespace = "" if arguments.all_namespaces else arguments.namespace
        async with reach.reaching(kubeconfig_paths=arguments.kubeconfig, namespace=namespace) as reached:
            await leaders.run(reached, group=arguments.group or "", watch=arguments.watch, as_json=arguments.json)
        return OK

    return _completed(work())


# -- watch -------------------------------------------------------------------------------------------------------------


def _describe_watch(commands: argparse._SubParsersAction[Parser]) -> None:
    parser = declare(
        commands,
        "watch",
        summary="tell what happens: a line for each change of who leads",
        description="Follows one election, or all of a namespace: a line for each change of who leads, where, since "
        "when, with which fencing token; first for how things stand. Needs list and watch on lock objects; writes "
        "nothing. Ctrl-C ends it.",
        examples=[
            ("watch -n shop", "every election of a namespace"),
            ("watch store-leader -n shop --json", "one, an object a line"),
        ],
        statuses={FAILED: "not allowed, or no API server answers"},
        run=_watch,
    )
    _add_name(parser, "the election (default: all of the namespace)", optional=True)
    _add_namespace(parser)
    _add_kubeconfig(parser)
    parser.add_argument("--json", action="store_true", help="print an object a line")


def _watch(arguments: argparse.Namespace) -> int:
    try:
        from sidecar.lab import journal, reach  # noqa: PLC0415 - the lab's dependencies are an extra
    except ModuleNotFoundError as error:
        return missing(error)

    async def work() -> int:
        async with reach.reaching(kubeconfig_paths=arguments.kubeconfig, namespace=arguments.namespace) as reached:
            await journal.follow(reached, election=arguments.name or "", as_json=arguments.json)
        return OK

    return _completed(work())


# -- step-down ---------------------------------------------------------------------------------------------------------


def _describe_step_down(commands: argparse._SubParsersAction[Parser]) -> None:
    parser = declare(
        commands,
        "step-down",
        summary="ask a leader to hand its leadership to another candidate",
        description="Asks the leader of an election to step down, and waits until another candidate leads. It stops "
        "leading first and gives the lock up itself, so there is no moment with two leaders; then it stays out for two "
        "leases. Needs get and update on the lock object; with watch, it sees sooner what happens.",
        examples=[
            ("step-down store-leader -n shop", "before a node is drained, say"),
            ("step-down store-leader --timeout 5s --json", "for scripts"),
        ],
        statuses={OK: "another candidate leads", FAILED: "none does, nobody led, or the leader did not heed it"},
        run=_step_down,
    )
    _add_name(parser, "the election")
    _add_namespace(parser)
    _add_lock(parser)
    _add_kubeconfig(parser)
    parser.add_argument(
        "--timeout",
        type=span(SHORTEST_WAIT, LONGEST_WAIT),
        default="30s",
        help="how long to wait for another leader; then the request is taken back (default: %(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="print what became of it as JSON")


def _step_down(arguments: argparse.Namespace) -> int:
    try:
        from sidecar.lab import lockkinds, reach, stepdown  # noqa: PLC0415 - the lab's dependencies are an extra
    except ModuleNotFoundError as error:
        return missing(error)
    # A request that is not heeded is to be taken back.
    end_as_interrupted()

    async def work() -> int:
        async with reach.reaching(kubeconfig_paths=arguments.kubeconfig, namespace=arguments.namespace) as reached:
            locks = lockkinds.locks_of(
                reached.kube, arguments.lock, namespace=reached.namespace, election=arguments.name
            )
            with _progress(quiet=arguments.json) as progress:
                outcome = await stepdown.step_down(locks, timeout=arguments.timeout, progress=progress)
        if arguments.json:
            sys.stdout.write(json.dumps({**asdict(outcome), "moved": outcome.moved}, indent=2) + "\n")
        else:
            sys.stdout.write(printable(_told(outcome)) + "\n")
        return OK if outcome.moved else FAILED

    return _completed(work())


def _told(outcome: Outcome) -> str:
    def placed(name: str, node: str) -> str:
        return f"{name} on {node}" if node else name

    name = f"{outcome.namespace}/{outcome.election}"
    if outcome.stepped_down_after is None:
        return f"{name}: {outcome.problem}"
    ended = f"{name}: {placed(outcome.asked, outcome.asked_node)} stepped down after {outcome.stepped_down_after:.2f} s"
    if outcome.problem:
        return f"{ended}; {outcome.problem}"
    return f"{ended}; {placed(outcome.leader, outcome.leader_node)} leads, after {outcome.leads_after or 0:.2f} s"


@contextmanager
def _progress(*, quiet: bool) -> Iterator[Callable[[str], None]]:
    """Yield what shows a line on a terminal for as long as the block runs; elsewhere it shows nothing."""
    shown = not quiet and sys.stderr.isatty() and os.environ.get("TERM", "dumb") != "dumb"

    def show(text: str) -> None:
        if shown:
            sys.stderr.write(f"\r\x1b[K{printable(text)}")
            sys.stderr.flush()

    try:
        yield show
    finally:
        if shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


# -- check -------------------------------------------------------------------------------------------------------------


def _describe_check(commands: argparse._SubParsersAction[Parser]) -> None:
    parser = declare(
        commands,
        "check",
        summary="whether permissions, variables, clocks and lock objects are as they should be",
        description="Checks the permissions of the candidates, what their pods tell them, clocks and lock objects: a "
        "line for each finding, with what to do. Reads, and writes nothing. What may not be read is not checked, and "
        "said to be so.",
        examples=[
            ("check -n shop", "every election of a namespace"),
            ("check store-leader -n shop --json", "one, for programs"),
            ("check store-leader --service-account store", "before the first pod is there"),
            ("check --pod store-0 --pod store-1", "what these pods tell their sidecars"),
        ],
        statuses={OK: "no problem, though there may be warnings", FAILED: "a problem, or it could not be checked"},
        run=_check,
    )
    _add_name(parser, "the election (default: all of the namespace)", optional=True)
    _add_namespace(parser)
    _add_lock(parser)
    who = parser.add_mutually_exclusive_group()
    who.add_argument(
        "--service-account",
        type=option(settings.ELECTION),
        metavar="NAME",
        help="whose permissions (default: those of the candidates' pods; where there are none, whose kubeconfig it is)",
    )
    who.add_argument("--as", dest="user", type=option(settings.IDENTITY), metavar="USER", help="the same, of a user")
    parser.add_argument(
        "--pod",
        dest="pods",
        action="append",
        type=option(settings.ELECTION),
        metavar="NAME",
        help="check what this pod tells its sidecar, and no other's; may be repeated",
    )
    _add_kubeconfig(parser)
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")


def _check(arguments: argparse.Namespace) -> int:
    try:
        from sidecar.lab import check, findings, permissions, reach, report  # noqa: PLC0415 - an extra, again
    except ModuleNotFoundError as error:
        return missing(error)

    async def work() -> int:
        async with reach.reaching(kubeconfig_paths=arguments.kubeconfig, namespace=arguments.namespace) as reached:
            subject = None
            if arguments.service_account:
                subject = permissions.service_account(arguments.service_account, reached.namespace)
            elif arguments.user:
                subject = permissions.Subject(user=arguments.user)
            question = check.Question(
                namespace=reached.namespace,
                election=arguments.name or "",
                pods=tuple(dict.fromkeys(arguments.pods or ())),
                lock=arguments.lock,
                subject=subject,
            )
            with _progress(quiet=arguments.json) as progress:
                progress("looking")
                found = await check.check(reached.kube, question)
        if arguments.json:
            sys.stdout.write(json.dumps(findings.document(found), indent=2) + "\n")
        else:
            report.show(found)
        return FAILED if findings.failed(found) else OK

    return _completed(work())
