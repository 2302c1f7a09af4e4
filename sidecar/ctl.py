"""electionctl: the laboratory's and the operator's commands."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import secrets
import signal
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from sidecar import duration, settings

if TYPE_CHECKING:
    from collections.abc import Callable

OK, FAILED, MISUSED, INTERRUPTED = 0, 1, 2, 130

SHORTEST_TTL, LONGEST_TTL = 2, 20
"""Seconds: long enough for a busy machine, short enough to watch."""

MOST_SIDECARS = 50
"""Each is a process of its own, which takes half a second of a core to start, and 80 MB."""

LARGEST_SEED = 2**32 - 1

MOST_SIMULATED = 10_000
"""Candidates of a simulation: each takes some 50 kB."""

POLICIES = ("stock", "backoff", "full")

LONGEST_WAY = 300.0
"""Milliseconds of one way of a simulated request: two of them stay within the shortest ttl's time-out of a request."""


def main() -> None:
    """Run one command; exit 0, 1 when it failed, 2 when it was called wrongly, 130 on Ctrl-C."""
    parser = _Parser(prog="electionctl", description=__doc__)
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    demo = commands.add_parser(
        "demo",
        help="leaders of several applications spread over the nodes; a node is lost, and comes back",
        description="Real sidecars, an embedded API server: leaders by the stock algorithm, then spread over nodes; "
        "a node is lost and comes back, and a leader is told to end. Exits 1 when leaders are not spread evenly.",
    )
    demo.add_argument("--apps", type=_from_to(1, 10), default=5, help="applications, 1 to 10 (default: %(default)s)")
    demo.add_argument(
        "--replicas", type=_from_to(2, 10), default=5, help="sidecars of each, 2 to 10 (default: %(default)s)"
    )
    demo.add_argument("--nodes", type=_from_to(2, 8), default=3, help="2 to 8 (default: %(default)s)")
    demo.add_argument("--seed", type=_from_to(0, LARGEST_SEED), help="where pods run and who is hit (default: any)")
    demo.add_argument("--ttl", type=_ttl, default="10s", help="lease duration (default: %(default)s)")
    demo.add_argument("--json", action="store_true", help="print the figures as JSON, and nothing else")
    demo.set_defaults(run=_demo)
    _describe_simulate(
        commands.add_parser(
            "simulate",
            help="how evenly leaders spread, over many seeds, under the stock algorithm and under this one",
            description="Real candidates in virtual time, many times over: how evenly their leaders spread, how long "
            "it takes and what it costs. The same seed gives the same figures. Exits 1 when ever two candidates of "
            "one election lead at once.",
        )
    )
    leaders = commands.add_parser(
        "leaders",
        help="who leads what, on which node, since when",
        description="Who leads what, on which node, since when; leaders per node. Reads Endpoints, and writes nothing.",
    )
    where = leaders.add_mutually_exclusive_group()
    where.add_argument("-n", "--namespace", type=_option(settings.NAMESPACE), help="default: the kubeconfig context's")
    where.add_argument("-A", "--all-namespaces", action="store_true", help="the elections of all namespaces")
    leaders.add_argument("--group", type=_option(settings.GROUP), help="the elections of one group only")
    leaders.add_argument("--kubeconfig", metavar="PATH", default="", help="default: $KUBECONFIG, ~/.kube/config")
    leaders.add_argument("--watch", "-w", action="store_true", help="go on, and show what changes, until Ctrl-C")
    leaders.add_argument("--json", action="store_true", help="print JSON; with --watch an object a line")
    leaders.set_defaults(run=_leaders)
    arguments = parser.parse_args()
    try:
        sys.exit(arguments.run(arguments))
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


class _Parser(argparse.ArgumentParser):
    """Says in one line what is wrong, without the usage of dozens of options before it."""

    def error(self, message: str) -> NoReturn:
        """Exit 2."""
        self.exit(MISUSED, f"{self.prog}: {message}; see {self.prog} --help\n")


def _demo(arguments: argparse.Namespace) -> int:
    sidecars = arguments.apps * arguments.replicas
    if sidecars > MOST_SIDECARS:
        return _misused(
            f"--apps {arguments.apps} --replicas {arguments.replicas} makes {sidecars} processes, "
            f"more than {MOST_SIDECARS}"
        )
    try:
        from sidecar.lab import demo, terminal  # noqa: PLC0415 - the lab's dependencies are an extra
    except ModuleNotFoundError as error:
        return _failed(f"{error.name} is not installed; install leader-elector[lab]")
    experiment = demo.Experiment(
        applications=arguments.apps,
        replicas=arguments.replicas,
        nodes=arguments.nodes,
        seed=secrets.randbelow(LARGEST_SEED + 1) if arguments.seed is None else arguments.seed,
        ttl=arguments.ttl,
    )
    # However it is told to end, what it started ends as well. In the background of a script SIGINT would be ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        with terminal.reporting(quiet=arguments.json) as report:
            figures = asyncio.run(demo.run(report, experiment))
    except demo.DemoError as error:
        return _failed(str(error))
    if arguments.json:
        sys.stdout.write(json.dumps(asdict(figures), indent=2) + "\n")
    return OK


def _leaders(arguments: argparse.Namespace) -> int:
    try:
        from sidecar.lab import leaders  # noqa: PLC0415 - the lab's dependencies are an extra
    except ModuleNotFoundError as error:
        return _failed(f"{error.name} is not installed; install leader-elector[lab]")
    try:
        asyncio.run(
            leaders.run(
                kubeconfig_paths=arguments.kubeconfig,
                namespace="" if arguments.all_namespaces else arguments.namespace,
                group=arguments.group or "",
                watch=arguments.watch,
                as_json=arguments.json,
            )
        )
    except leaders.LeadersError as error:
        return _failed(str(error))
    except BrokenPipeError:
        # Whoever read has read enough. What is still buffered must not be written when the interpreter ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    return OK


def _option(option: settings.Option[str]) -> Callable[[str], str]:
    """Return what reads a value as the sidecar reads it."""

    def value(text: str) -> str:
        try:
            return option.parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{text!r:.100}: {error} (accepted: {option.accepted})") from error

    return value


def _describe_simulate(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--apps", type=_from_to(1, 1000), default=5, help="applications, an election each (default: %(default)s)")
    add("--replicas", type=_from_to(1, 100), default=5, help="candidates of each (default: %(default)s)")
    add("--nodes", type=_from_to(1, 1000), default=3, help="nodes (default: %(default)s)")
    add("--trials", type=_from_to(1, 100_000), default=100, help="trials of each policy (default: %(default)s)")
    add(
        "--policy",
        type=_policies,
        default=",".join(POLICIES),
        metavar="POLICY,...",
        help="stock: blind to nodes; backoff: bids from loaded nodes held back; full: that, and hand-over "
        "(default: %(default)s)",
    )
    add("--seed", type=_from_to(0, LARGEST_SEED), default=0, help="of the first trial; the next one's is one more")
    add("--workers", type=_from_to(1, 256), default=os.cpu_count() or 1, help="processes (default: %(default)s)")
    where = parser.add_argument_group("where candidates run")
    where.add_argument(
        "--placement",
        type=_placement,
        default="spread",
        metavar="spread|random|restricted:K",
        help="as the scheduler spreads pods; on any node; on K nodes drawn for each application (default: %(default)s)",
    )
    where.add_argument("--weights", type=_weights, default="1", metavar="WEIGHT,...", help="drawn for each election")
    starts = parser.add_argument_group("when candidates start")
    starts.add_argument("--starts", type=_seconds, default="1", metavar="SECONDS", help="spread over (default: 1)")
    kinds = starts.add_mutually_exclusive_group()
    kinds.add_argument("--ordered", action="store_true", help="each pod after the one before it, as in a StatefulSet")
    kinds.add_argument("--stragglers", type=_share, default="0", metavar="SHARE", help="part that starts much later")
    kinds.add_argument("--mixed-starts", action="store_true", help="any of these kinds, drawn for each trial")
    after = parser.add_argument_group("what happens after that, in this order")
    after.add_argument("--late-node", action="store_true", help="one node's candidates start when the others settled")
    after.add_argument("--rolling-restart", action="store_true", help="every candidate is replaced in turn")
    after.add_argument("--node-loss", action="store_true", help="all candidates of one node are killed at once")
    after.add_argument("--node-return", action="store_true", help="they are replaced there later (implies --node-loss)")
    after.add_argument(
        "--settle",
        type=_seconds,
        default="4",
        metavar="SECONDS",
        help="without a change, after which each of these has settled and the next one happens (default: 4)",
    )
    after.add_argument("--quiet", type=_seconds, default="0", metavar="SECONDS", help="look on while nothing happens")
    add("--latency", type=_latency, default="1,20", metavar="MIN,MAX", help="of each way, in ms (default: %(default)s)")
    add("--ttl", type=_whole_ttl, default="10s", help="lease duration (default: %(default)s)")
    add("--json", action="store_true", help="print the figures as JSON, and nothing else")
    add("--plot", type=_picture, metavar="FILE", help="draw the figures into a .png or .svg file")
    parser.set_defaults(run=_simulate)


def _simulate(arguments: argparse.Namespace) -> int:
    kind, few = arguments.placement
    if few > arguments.nodes:
        return _misused(f"--placement {kind}:{few} needs at least --nodes {few}")
    if arguments.nodes == 1 and (arguments.late_node or arguments.node_loss or arguments.node_return):
        return _misused("--late-node, --node-loss and --node-return need at least --nodes 2")
    if arguments.apps * arguments.replicas > MOST_SIMULATED:
        return _misused(
            f"--apps {arguments.apps} --replicas {arguments.replicas} makes more than {MOST_SIMULATED} candidates"
        )
    try:
        from sidecar.lab import simulate  # noqa: PLC0415 - the lab's dependencies are an extra
        from sidecar.lab.scenario import Scenario  # noqa: PLC0415 - the same

        if arguments.plot:
            from sidecar.lab import plot  # noqa: PLC0415 - the same
    except ModuleNotFoundError as error:
        extra = "plot" if error.name == "matplotlib" else "lab"
        return _failed(f"{error.name} is not installed; install leader-elector[{extra}]")
    scenario = Scenario(
        apps=arguments.apps,
        replicas=arguments.replicas,
        nodes=arguments.nodes,
        placement=kind,
        restricted_to=few,
        starts=arguments.starts,
        ordered=arguments.ordered,
        stragglers=arguments.stragglers,
        mixed_starts=arguments.mixed_starts,
        late_node=arguments.late_node,
        rolling_restart=arguments.rolling_restart,
        node_loss=arguments.node_loss,
        node_return=arguments.node_return,
        settle=arguments.settle,
        quiet=arguments.quiet,
        latency=arguments.latency,
        weights=arguments.weights,
        ttl=arguments.ttl,
    )
    try:
        result = simulate.run(
            scenario, arguments.policy, trials=arguments.trials, seed=arguments.seed, workers=arguments.workers
        )
        if arguments.plot:
            plot.draw(result, arguments.plot)
    except simulate.TrialError as error:
        return _failed(str(error))
    except OSError as error:
        return _failed(f"--plot: {error}")
    if arguments.json:
        sys.stdout.write(json.dumps(result.as_json(), indent=2) + "\n")
    else:
        simulate.show(result)
    return OK


def _policies(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    for name in names:
        if name not in POLICIES:
            raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(POLICIES)}")
    if len(set(names)) < len(names):
        raise argparse.ArgumentTypeError(f"{text} names a policy twice")
    return names


def _placement(text: str) -> tuple[str, int]:
    """Return the kind, and to how many nodes it is restricted."""
    if text in {"spread", "random"}:
        return text, 0
    found = re.fullmatch(r"restricted:([1-9][0-9]{0,3})", text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is none of spread, random, restricted:K with K from 1 on")
    return "restricted", int(found[1])


def _weights(text: str) -> tuple[int, ...]:
    read = _from_to(1, 1000)
    return tuple(read(part) for part in text.split(","))


def _seconds(text: str) -> float:
    return _decimal(text, most=3600.0)


def _share(text: str) -> float:
    return _decimal(text, most=1.0)


def _latency(text: str) -> tuple[float, float]:
    """Return seconds, from milliseconds."""
    least, comma, most = text.partition(",")
    if not comma:
        raise argparse.ArgumentTypeError(f"{text!r} is not MIN,MAX")
    low, high = (_decimal(part, most=LONGEST_WAY) / 1000 for part in (least, most))
    if low > high:
        raise argparse.ArgumentTypeError(f"{text}: the first is more than the second")
    return low, high


def _decimal(text: str, *, most: float) -> float:
    if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", text) or float(text) > most:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to {most:g}")
    return float(text)


def _whole_ttl(text: str) -> int:
    seconds = duration.parse(_ttl(text))
    if not seconds.is_integer():
        raise argparse.ArgumentTypeError(f"{text} is not a number of whole seconds")
    return int(seconds)


def _picture(text: str) -> Path:
    path = Path(text)
    if path.suffix not in {".png", ".svg"}:
        raise argparse.ArgumentTypeError(f"{text} ends neither in .png nor in .svg")
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"there is no directory {path.parent}")
    return path


def _ttl(text: str) -> str:
    try:
        seconds = duration.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    if not SHORTEST_TTL <= seconds <= LONGEST_TTL:
        raise argparse.ArgumentTypeError(f"{text} is not between {SHORTEST_TTL} s and {LONGEST_TTL} s")
    return text


def _from_to(least: int, most: int) -> Callable[[str], int]:
    """Return what reads a whole number from `least` to `most`."""

    def number(text: str) -> int:
        if not (text.isascii() and text.isdigit() and len(text) <= len(str(most)) and least <= int(text) <= most):
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {least} to {most}")
        return int(text)

    return number


def _misused(text: str) -> int:
    sys.stderr.write(f"electionctl: {text}\n")
    return MISUSED


def _failed(text: str) -> int:
    sys.stderr.write(f"electionctl: {text}\n")
    return FAILED
