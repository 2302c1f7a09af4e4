"""electionctl: the laboratory's and the operator's commands."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import secrets
import sys
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from sidecar import duration
from sidecar.lab import operating
from sidecar.lab.commandline import (
    FAILED,
    INTERRUPTED,
    OK,
    Parser,
    declare,
    end_as_interrupted,
    failed,
    from_to,
    missing,
    misused,
)
from sidecar.lab.scenario import LATE, POLICIES, RANDOM, RESTRICTED, SPREAD, Scenario

SHORTEST_TTL, LONGEST_TTL = 2, 20
"""Seconds: long enough for a busy machine, short enough to watch."""

MOST_SIDECARS = 50
"""Each is a process of its own, which takes half a second of a core to start, and 80 MB."""

LARGEST_SEED = 2**32 - 1

MOST_SIMULATED = 10_000
"""Candidates of a simulation: each takes some 50 kB."""

LONGEST_WAY = 300.0
"""Milliseconds of one way of a simulated request; with a short ttl requests are given up before that."""

SHELLS = ("bash", "zsh", "fish")

OPENAPI = Path(__file__).with_name("openapi.json")


EPILOG = """\
examples:
  electionctl leaders -n shop                 # who leads what, on which node, since when
  electionctl step-down store-leader -n shop  # another candidate leads
  electionctl check -n shop                   # what is wrong, and what to do

Each command's --help has its options, examples and exit statuses; --json prints the answer for programs.

exit status: 0 done, 1 not done, or something is wrong, 2 called wrongly, 130 ended by Ctrl-C"""


def main() -> None:
    """Run one command; exit 0, 1 when it failed, 2 when it was called wrongly, 130 on Ctrl-C."""
    sys.exit(_status())


def _status() -> int:
    """Run one command and return its exit status; whatever becomes of its output is told here, in a line."""
    # Without these two there would be nothing to print on, and the first file opened would be printed into.
    if sys.stderr is None:
        sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115 - for as long as the program runs
    if sys.stdout is None:
        return failed("standard output is closed")
    try:
        try:
            arguments = _parser().parse_args()
            status: int = arguments.run(arguments)
        finally:
            sys.stdout.flush()
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read has read enough.
        _drop_output()
        return FAILED
    except OSError as error:
        _drop_output()
        return failed(str(error))
    return status


def _drop_output() -> None:
    """Let nothing that is still buffered be written when the interpreter ends: it would fail once more."""
    with suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _parser() -> Parser:
    parser = Parser(
        prog="electionctl",
        description="Who leads, what changes, whether all is as it should be; and elections to try things out.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    operating.describe(commands)
    _describe_demo(
        declare(
            commands,
            "demo",
            summary="leaders of several applications spread over the nodes; a node is lost, and comes back",
            description="Real sidecars, an embedded API server: leaders by the stock algorithm, then spread over "
            "nodes; a node is lost and comes back, and a leader is told to end.",
            examples=[
                ("demo", "25 sidecars on 3 nodes, about a minute"),
                ("demo --apps 3 --replicas 3 --seed 7", "smaller, and the same each time"),
            ],
            statuses={OK: "leaders were spread evenly", FAILED: "they were not, or it could not run"},
            run=_demo,
        )
    )
    _describe_simulate(
        declare(
            commands,
            "simulate",
            summary="how evenly leaders spread, over many seeds, under the stock algorithm and under this one",
            description="Real candidates in virtual time, many times over: how evenly their leaders spread, how long "
            "it takes and what it costs. The same seed gives the same figures.",
            examples=[
                ("simulate --trials 20", "stock, back-off alone and hand-over, compared"),
                ("simulate --policy full --node-loss --plot loss.svg", "what becomes of the loss of a node"),
            ],
            statuses={OK: "done", FAILED: "two candidates of one election led at once, or it could not run"},
            run=_simulate,
        )
    )
    completion = declare(
        commands,
        "completion",
        summary="print a script that completes commands and options in a shell",
        description="Prints a script that completes electionctl's commands and options in a shell.",
        examples=[
            ("completion bash > ~/.local/share/bash-completion/completions/electionctl", ""),
            ("completion zsh > ~/.zfunc/_electionctl", "a folder of your fpath"),
            ("completion fish > ~/.config/fish/completions/electionctl.fish", ""),
        ],
        statuses={OK: "printed", FAILED: "it could not be made"},
        run=_completion,
    )
    completion.add_argument("shell", choices=SHELLS)
    declare(
        commands,
        "openapi",
        summary="print the OpenAPI description of port 4040",
        description="Prints what the sidecar answers on port 4040, as OpenAPI: JSON.",
        examples=[("openapi > leader-elector.json", "")],
        statuses={OK: "printed", FAILED: "it could not be printed"},
        run=_openapi,
    )
    return parser


def _completion(arguments: argparse.Namespace) -> int:
    try:
        import shtab  # noqa: PLC0415 - the lab's dependencies are an extra
    except ModuleNotFoundError as error:
        return missing(error)
    sys.stdout.write(shtab.complete(_parser(), shell=arguments.shell).rstrip("\n") + "\n")
    return OK


def _openapi(_: argparse.Namespace) -> int:
    sys.stdout.write(OPENAPI.read_text())
    return OK


def _describe_demo(demo: Parser) -> None:
    demo.add_argument("--apps", type=from_to(1, 10), default=5, help="applications, 1 to 10 (default: %(default)s)")
    demo.add_argument(
        "--replicas", type=from_to(2, 10), default=5, help="sidecars of each, 2 to 10 (default: %(default)s)"
    )
    demo.add_argument("--nodes", type=from_to(2, 8), default=3, help="2 to 8 (default: %(default)s)")
    demo.add_argument("--seed", type=from_to(0, LARGEST_SEED), help="where pods run and who is hit (default: any)")
    demo.add_argument("--ttl", type=_ttl, default="10s", help="lease duration (default: %(default)s)")
    demo.add_argument("--json", action="store_true", help="print the figures as JSON, and nothing else")


def _demo(arguments: argparse.Namespace) -> int:
    sidecars = arguments.apps * arguments.replicas
    if sidecars > MOST_SIDECARS:
        return misused(
            f"--apps {arguments.apps} --replicas {arguments.replicas} makes {sidecars} processes, "
            f"more than {MOST_SIDECARS}"
        )
    try:
        from sidecar.lab import demo, terminal  # noqa: PLC0415 - the lab's dependencies are an extra
    except ModuleNotFoundError as error:
        return missing(error)
    experiment = demo.Experiment(
        applications=arguments.apps,
        replicas=arguments.replicas,
        nodes=arguments.nodes,
        seed=secrets.randbelow(LARGEST_SEED + 1) if arguments.seed is None else arguments.seed,
        ttl=arguments.ttl,
    )
    end_as_interrupted()
    try:
        with terminal.reporting(quiet=arguments.json) as report:
            figures = asyncio.run(demo.run(report, experiment))
    except demo.DemoError as error:
        return failed(str(error))
    if arguments.json:
        sys.stdout.write(json.dumps(asdict(figures), indent=2) + "\n")
    return OK


def _describe_simulate(parser: Parser) -> None:
    add = parser.add_argument
    add("--apps", type=from_to(1, 1000), help="applications, an election each (default: %(default)s)")
    add("--replicas", type=from_to(1, 100), help="candidates of each (default: %(default)s)")
    add("--nodes", type=from_to(1, 1000), help="nodes (default: %(default)s)")
    add("--trials", type=from_to(1, 100_000), default=100, help="trials of each policy (default: %(default)s)")
    add(
        "--policy",
        type=_policies,
        default=",".join(POLICIES),
        metavar="POLICY,...",
        help="stock: this program, blind to nodes, so that who leads is as with the stock image, but requests are not; "
        "backoff: bids from loaded nodes held back; full: that, and hand-over (default: %(default)s)",
    )
    add(
        "--seed",
        type=from_to(0, LARGEST_SEED),
        default=0,
        help="of the first trial; the next one's is one more (default: %(default)s)",
    )
    add("--workers", type=from_to(1, 256), default=os.cpu_count() or 1, help="processes (default: %(default)s)")
    where = parser.add_argument_group("where candidates run")
    where.add_argument(
        "--placement",
        type=_placement,
        metavar=f"{SPREAD}|{RANDOM}|{RESTRICTED}:K",
        help="as the scheduler spreads pods; on any node; on K nodes drawn for each application (default: %(default)s)",
    )
    where.add_argument(
        "--weights",
        type=_weights,
        metavar="WEIGHT,...",
        help="what the weight of each election is drawn from (default: %(default)s)",
    )
    starts = parser.add_argument_group("when candidates start")
    starts.add_argument(
        "--starts", type=_seconds, metavar="SECONDS", help="each at any time within so long (default: %(default)s)"
    )
    kinds = starts.add_mutually_exclusive_group()
    kinds.add_argument("--ordered", action="store_true", help="each pod after the one before it, as in a StatefulSet")
    kinds.add_argument(
        "--stragglers",
        type=_share,
        metavar="SHARE",
        help=f"the part, 0 to 1, that starts {LATE[0]:g} to {LATE[1]:g} s later still (default: %(default)s)",
    )
    kinds.add_argument("--mixed-starts", action="store_true", help="any of these kinds, drawn for each trial")
    after = parser.add_argument_group("what happens after that, in this order")
    after.add_argument("--late-node", action="store_true", help="one node's candidates start when the others settled")
    after.add_argument("--rolling-restart", action="store_true", help="every candidate is replaced in turn")
    after.add_argument("--node-loss", action="store_true", help="all candidates of one node are killed at once")
    after.add_argument("--node-return", action="store_true", help="they are replaced there later (implies --node-loss)")
    after.add_argument("--quiet", type=_seconds, metavar="SECONDS", help="nothing, for so long (default: %(default)s)")
    after.add_argument(
        "--settle",
        type=_seconds,
        metavar="SECONDS",
        help="go on to the next of these, or end, when nothing has changed for so long (default: %(default)s)",
    )
    add("--latency", type=_latency, metavar="MIN,MAX", help="of each way, in ms (default: %(default)s)")
    add("--ttl", type=_whole_ttl, help="lease duration (default: %(default)s)")
    add("--json", action="store_true", help="print the figures as JSON, and nothing else")
    add("--plot", type=_picture, metavar="FILE", help="draw the figures into a .png or .svg file")
    usual = {option.removeprefix("--"): value for option, value in Scenario().options.items()}
    parser.set_defaults(**usual)


def _simulate(arguments: argparse.Namespace) -> int:
    scenario = _scenario(arguments)
    if contradiction := _contradiction(scenario):
        return misused(contradiction)
    if arguments.seed + arguments.trials - 1 > LARGEST_SEED:
        return misused(f"--seed {arguments.seed} --trials {arguments.trials} needs seeds above {LARGEST_SEED}")
    try:
        from sidecar.lab import simulate, table  # noqa: PLC0415 - the lab's dependencies are an extra

        if arguments.plot:
            from sidecar.lab import plot  # noqa: PLC0415 - the same
    except ModuleNotFoundError as error:
        return missing(error, extra="plot" if error.name == "matplotlib" else "lab")
    end_as_interrupted()
    try:
        result = simulate.run(
            scenario, arguments.policy, trials=arguments.trials, seed=arguments.seed, workers=arguments.workers
        )
    except simulate.TrialError as error:
        return failed(str(error))
    if arguments.json:
        sys.stdout.write(json.dumps(result.as_json(), indent=2) + "\n")
    else:
        table.show(result)
    if arguments.plot:
        # What was worked out is not to be lost when it cannot be drawn.
        sys.stdout.flush()
        try:
            plot.draw(result, arguments.plot)
        except OSError as error:
            return failed(f"--plot {arguments.plot}: {error.strerror or error}")
    return OK


def _scenario(arguments: argparse.Namespace) -> Scenario:
    kind, few = arguments.placement
    return Scenario(
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


def _contradiction(asked: Scenario) -> str:
    """Say which of the options do not go together; `""` when all do."""
    if asked.restricted_to > asked.nodes:
        return f"--placement {RESTRICTED}:{asked.restricted_to} needs at least --nodes {asked.restricted_to}"
    if asked.nodes == 1 and (asked.late_node or asked.node_loss or asked.node_return):
        return "--late-node, --node-loss and --node-return need at least --nodes 2"
    if asked.apps * asked.replicas > MOST_SIMULATED:
        return f"--apps {asked.apps} --replicas {asked.replicas} makes more than {MOST_SIMULATED} candidates"
    there_and_back, timeout = 2000 * asked.latency[1], 1000 * asked.request_timeout
    if there_and_back >= timeout:
        return (
            f"--latency {asked.options['--latency']} takes up to {there_and_back:g} ms there and back; "
            f"with --ttl {asked.ttl}s a request is given up after {timeout:.0f} ms"
        )
    return ""


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
    if text in {SPREAD, RANDOM}:
        return text, 0
    found = re.fullmatch(rf"{RESTRICTED}:([1-9][0-9]{{0,3}})", text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is none of {SPREAD}, {RANDOM}, {RESTRICTED}:K with K from 1 on")
    return RESTRICTED, int(found[1])


def _weights(text: str) -> tuple[int, ...]:
    read = from_to(1, 1000)
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
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"{text} is a directory")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise argparse.ArgumentTypeError(f"{text}: no permission to write there")
    return path


def _ttl(text: str) -> str:
    try:
        seconds = duration.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    if not SHORTEST_TTL <= seconds <= LONGEST_TTL:
        raise argparse.ArgumentTypeError(f"{text} is not between {SHORTEST_TTL} s and {LONGEST_TTL} s")
    return text
