"""Writes docs/paper/: what the paper did and found, what was done here, and where the two differ, from the raw data.

Every figure is computed; which sentence explains it is chosen by the figures. The same data give the same bytes.
"""

from __future__ import annotations

import re
import textwrap
from collections import Counter
from itertools import pairwise
from statistics import fmean
from typing import TYPE_CHECKING, Any

from tests.bench.table import markdown
from tests.paper import data as stored
from tests.paper import plots
from tests.paper.data import (
    BALANCED,
    CONCENTRATED,
    CPU,
    DISTRIBUTION,
    NODE_FAILURE,
    NODES,
    OFF,
    OURS,
    PODS,
    PROCESSES,
    REPLICAS,
    STORES,
    THROUGHPUT,
    CpuRun,
    Election,
    FailureRun,
    ThroughputRun,
)
from tests.paper.distribution import evenly
from tests.paper.plots import PAPER_LEADERS, PART_NAMES, POLICY_NAMES
from tests.paper.report_figures import (
    PARTS,
    PLACEMENTS,
    POLICIES,
    Measured,
    Spread,
    capacity,
    elections,
    gain,
    losses,
    writing,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from tests.paper.data import About, Recorded
    from tests.paper.report_figures import Elections, Loss, NodeUse, Writing

OVERVIEW = "overview"
"""The name of the picture for the project's README."""

COLUMNS = 120
"""Of a line of prose."""

PAPER_GAIN = 0.487
"""By how much more the paper has with balanced leaders, at one client a store."""
PAPER_FLAT_FROM = 4
"""Clients a store from which on the paper's throughput with concentrated leaders stays about the same."""
PAPER_BUSY, PAPER_IDLE, PAPER_EVEN = 0.8, 0.2, 0.6
"""The paper's shares of a processor: of the node with all leaders, of the others, and of those with two leaders."""

FLAT = 0.15
"""A throughput that stays within this share of itself is called flat."""
FULL = 0.95
"""The share of the machine's processors from which on it is called full."""
SATURATED = 0.5
"""The share of the time in which a node wants more than its limit from which on it is called saturated."""
BUSY = 0.9
"""The share of its limit that a node uses from which on it is called saturated as well."""
LIKE = 0.1
"""Shares of a processor that differ by less are called much the same."""

NOT_MEASURED = "Not measured."
NOT_IN_THE_PAPER = "not in the paper"


def write(data: Path, docs: Path) -> None:
    """Write the report on the data in one folder, and its pictures, into another. Raises DataError, OSError."""
    measured = read(data)
    docs.mkdir(parents=True, exist_ok=True)
    drawn = _draw(measured, docs)
    for name in (DISTRIBUTION, CPU, THROUGHPUT, NODE_FAILURE, OVERVIEW):
        if name not in drawn:
            # Of what is no longer measured.
            (docs / f"{name}.svg").unlink(missing_ok=True)
    (docs / "README.md").write_text(text(measured), encoding="utf-8")


def read(data: Path) -> Measured:
    """Read what a folder has. Raises DataError."""
    return Measured(
        distribution=stored.load(stored.path(data, DISTRIBUTION), Election),
        cpu=stored.load(stored.path(data, CPU), CpuRun),
        throughput=stored.load(stored.path(data, THROUGHPUT), ThroughputRun),
        node_failure=stored.load(stored.path(data, NODE_FAILURE), FailureRun),
    )


def text(measured: Measured) -> str:
    """Return the report in Markdown."""
    parts = [
        "<!-- Made by `make paper` out of data/. Do not edit: change tests/paper/report.py, and make it anew. -->",
        "# The paper's evaluation, measured again",
        _prose(
            """N. D. Nguyen and T. Kim measured what it costs when the leaders of several applications pile up on one
            node (*Toward Highly Scalable Load Balancing in Kubernetes Clusters*, IEEE Communications Magazine 58(7),
            2020). This page repeats their three experiments with this project's sidecar and its
            [store](../../k8s/store), and adds a fourth. All figures are computed from the raw data in [data/](data).
            Where figures stand as *median (least to greatest)*, the spread is that of the runs.""",
        ),
        *_summary(measured),
        *_setup(measured),
        *_distribution(measured.distribution),
        *_cpu(measured.cpu),
        *_throughput(measured.throughput),
        *_node_failure(measured.node_failure),
        *_again(),
        *_left_out(measured),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _draw(measured: Measured, docs: Path) -> set[str]:
    """Draw what there is to be drawn; return the names of the pictures."""
    drawn: dict[str, Callable[[Path], None]] = {}
    chance = evenly()
    if (distribution := measured.distribution) and distribution.runs:
        drawn[DISTRIBUTION] = lambda path: plots.distribution(distribution, chance, path)
    if (cpu := measured.cpu) and _counts(cpu.runs):
        drawn[CPU] = lambda path: plots.cpu(cpu, path)
    if (throughput := measured.throughput) and _counts(throughput.runs):
        drawn[THROUGHPUT] = lambda path: plots.throughput(throughput, path)
    if (failure := measured.node_failure) and _counts(failure.runs):
        drawn[NODE_FAILURE] = lambda path: plots.node_failure(failure, path)
    if both := drawn.keys() & {DISTRIBUTION, THROUGHPUT}:
        first = measured.distribution if DISTRIBUTION in both else None
        second = measured.throughput if THROUGHPUT in both else None
        drawn[OVERVIEW] = lambda path: plots.overview(first, second, chance, path)
    for name, draw in drawn.items():
        draw(docs / f"{name}.svg")
    return set(drawn)


# -- All of it at once --


def _summary(measured: Measured) -> list[str]:
    lines = [["", "the paper", "here"]]
    by_part = _by_part(measured.distribution)
    for policy in POLICIES:
        of_policy = [by_part[part, policy] for part in PARTS if (part, policy) in by_part]
        told = "; ".join(f"{_ratio(one.leaders)} ({PART_NAMES[one.part]}, n = {one.count})" for one in of_policy)
        paper = _ratio(PAPER_LEADERS) if policy == OFF else NOT_IN_THE_PAPER
        lines.append([f"leaders of each node, {POLICY_NAMES[policy]}", paper, told or "not measured"])
    use = writing(measured.cpu) if measured.cpu else {}
    concentrated, balanced = (_first(use.get(placement, {})) for placement in PLACEMENTS)
    lines += [
        ["CPU of the node with all leaders", f"more than {PAPER_BUSY:.0%}", _shares(concentrated, slice(0, 1))],
        ["CPU of the other two then", f"about {PAPER_IDLE:.0%}", _shares(concentrated, slice(1, None))],
        ["CPU of nodes with two leaders, when balanced", f"about {PAPER_EVEN:.0%}", _shares(balanced, slice(0, 2))],
    ]
    rates = writing(measured.throughput) if measured.throughput else {}
    at_one = gain(rates, 1) if rates else None
    lines.append(["more writes when balanced, 1 client a store", _signed(PAPER_GAIN, 1), _gain(at_one)])
    lines.append([f"concentrated, from {PAPER_FLAT_FROM} clients on", "about constant", _flatness(rates)])
    found = {one.policy: one for one in losses(measured.node_failure)} if measured.node_failure else {}
    for policy in POLICIES:
        one = found.get(policy)
        told = f"{_ratio(one.after)}; throughput {_kept(one.kept)} (n = {one.count})" if one else "not measured"
        lines.append([f"a node is lost: leaders of the others, {POLICY_NAMES[policy]}", NOT_IN_THE_PAPER, told])
    return [_words(lines)]


def _setup(measured: Measured) -> list[str]:
    recorded = (measured.throughput, measured.cpu, measured.node_failure, measured.distribution)
    found = [one.about for one in recorded if one is not None]
    if not found:
        return ["## Set-up", NOT_MEASURED]

    def told(tell: Callable[[About], str]) -> str:
        return "; ".join(dict.fromkeys(text for about in found if (text := tell(about)))) or "not said"

    lines = [
        ["", "the paper", "here"],
        ["machines", "four, of 4 cores each", told(lambda it: f"one, {it.machine_cores} cores, {_gib(it)}")],
        ["workers", "three: 4 cores, 3 GB each", told(_workers)],
        ["control plane", "a node of its own: 4 cores, 4 GB", "processes on the same machine, without a limit"],
        ["Kubernetes", "1.14.2, Docker 18.09.6", told(lambda it: f"{it.kubernetes.removeprefix('v')}, containerd")],
        ["kernel, Python", "not said", told(lambda it: f"Linux {it.kernel.partition('-')[0]}; {it.python}")],
        ["applications", "5, each of 5 replicas", told(lambda it: f"{it.stores}, each of {it.replicas} replicas")],
        ["what they are", "not described", "a [replicated store](../../k8s/store): aiohttp and SQLite"],
        ["images", "not said", told(lambda it: ", ".join(sorted(set(it.images.values()))))],
        ["elections", "the stock sidecar", "this project's sidecar; for the stock policy with `ELECTION_BALANCE=off`"],
        ["load", "hey", told(lambda it: f"hey {it.hey.removeprefix('v')}" if it.hey else "")],
    ]
    return [
        "## Set-up",
        _words(lines),
        _prose(
            """Nodes are sets of namespaces, each with a containerd, a kubelet and a kube-proxy of its own. They share
            the machine's kernel, disk and clock. A node's limit is a quota of processor time in each tenth of a second,
            so that a node is saturated like a small machine of its own; the load generator and the control plane run
            outside of these limits, on what is left.""",
        ),
        _prose(
            """Leaders are placed by what an operator has at hand. They are concentrated by cordoning two of the nodes
            (`kubectl cordon`): leaders leave a cordoned node, while pods stay where they are, and nothing is started
            anew. They are balanced by uncordoning the nodes, after which the sidecars spread by themselves. So the same
            pods and volumes serve both, and the placements take turns: concentrated, balanced, balanced, concentrated,
            and so on. The node that all leaders are brought to is another one in each repetition. Three seconds of load
            come before what is measured. A run during which a leader moved does not count.""",
        ),
        _prose(
            """All writes are of 100 bytes, and each store's are of one key. A write costs the followers as well: the
            leader gives it a number, stores it, and sends it to all of them, and answers when a majority has it on
            disk. Writes that wait go to the disk and to the followers together, so that a write can get cheaper the
            more clients there are. The paper's text does not say what its followers do with a write, so how much more
            its leaders work than they is not known.""",
        ),
    ]


def _workers(about: About) -> str:
    nodes = f"{_number(len(about.nodes))} nodes"
    return f"{nodes}, {about.node_cpus:g} cores each" if about.node_cpus else f"{nodes} without a limit"


def _gib(about: About) -> str:
    return f"{about.machine_memory_gib:.0f} GiB"


# -- 1. Leader distribution --


def _distribution(recorded: Recorded[Election] | None) -> list[str]:
    heading = "## 1. Where leaders end up"
    paper = _prose(
        f"""The paper elected leaders of 5 applications a hundred times with the stock sidecar, and found
        {_ratio(PAPER_LEADERS)} leaders on the three nodes, the most loaded first."""
    )
    if recorded is None or not recorded.runs:
        return [heading, paper, NOT_MEASURED]
    found = elections(recorded)
    chance = evenly()
    lines = [
        ["", "n", "leaders of each node, mean", "as even as can be", "last change of a leader, s"],
        ["the paper", "100", _ratio(PAPER_LEADERS), "", ""],
        ["every node equally likely, exact", "", _ratio(chance.leaders), f"{chance.balanced:.0%}", ""],
    ]
    for part in PARTS:
        some = [one for one in found if one.part == part]
        if some:
            expected = some[0].expected
            name = f"every replica equally likely, placed as the {PART_NAMES[part]}, exact"
            lines.append([name, "", _ratio(expected.leaders), f"{expected.balanced:.0%}", ""])
    for policy in POLICIES:
        for one in found:
            if one.policy == policy:
                name = f"{POLICY_NAMES[policy]}, {PART_NAMES[one.part]}"
                told = _ratio_with_errors(one)
                lines.append([name, str(one.count), told, f"{one.balanced} of {one.count}", _plain(one.settled, 1)])
    return [
        heading,
        paper,
        _prose(
            f"""Here an election begins from nothing: no candidate runs and no lock object exists. It ends when all
            candidates are there and no leader has changed for seconds. *As processes*, {STORES * REPLICAS}
            sidecars run on one machine against a real API server, start within a second of one another, and are told
            {NODES} nodes that are only names, on which they are placed as the scheduler would place pods. *In pods*,
            {STORES} StatefulSets of {REPLICAS} replicas of the store run on the cluster, are scaled to nothing,
            lose their lock objects, and are scaled up again. {_order(recorded)}""",
        ),
        _when(recorded.about),
        _figures(lines),
        _picture(DISTRIBUTION, "leaders of each node by rank: the paper, by chance, and both policies"),
        _prose(
            """The figures after ± are standard errors of the means. What is exact is enumerated over everything that
            can come out, not drawn at random. The last column is counted from when the last candidate was there."""
        ),
        _points(*_distribution_differences(found)),
    ]


def _order(recorded: Recorded[Election]) -> str:
    told = []
    for part in PARTS:
        policies = [one.policy for one in recorded.runs if one.part == part]
        changes = sum(one != other for one, other in pairwise(policies))
        if len(set(policies)) > 1:
            how = "all runs of one policy came before those of the other" if changes == 1 else "the policies took turns"
            told.append(f"{'As processes' if part == PROCESSES else 'In pods'}, {how}.")
    return " ".join(told)


def _distribution_differences(found: Sequence[Elections]) -> list[str]:
    told = []
    for one in found:
        where = "As processes" if one.part == PROCESSES else "In pods"
        if one.policy == OFF:
            mean, expected, error = one.leaders[0], one.expected.leaders[0], one.errors[0]
            # Two standard errors: chance alone explains less in 19 of 20 cases.
            within = "within" if abs(mean - expected) <= 2 * error else "not within"
            told.append(
                f"""{where}, the stock policy has {mean:.2f} ± {error:.2f} leaders on the most loaded node. Chance gives
                {expected:.2f}, which is {within} two standard errors; the paper has {PAPER_LEADERS[0]:.2f}."""
            )
            if one.starts:
                told.append(_starts(one))
        else:
            every = "every election" if one.balanced == one.count else f"{one.balanced} of {one.count} elections"
            told.append(f"{where}, this project's policy ended as evenly as can be in {every}.")
    if any(one.part == PODS for one in found):
        told.append(
            """The pods' volumes are local to their nodes, so each replica comes back to the node that it was on: all
            elections in pods have the same placement of candidates, while that of the processes is drawn anew."""
        )
    return told


def _starts(one: Elections) -> str:
    many = one.first_lead > one.first_all + LIKE
    matters = "So who comes up first mostly leads, and a node that starts its pods before the others gets many leaders."
    told = f"""The pods of one election came up over {_plain(one.starts, 0)} s. {one.first_lead:.0%} of the leaders
        started in the same second as the first of their store, as did {one.first_all:.0%} of all candidates."""
    return f"{told} {matters}" if many else told


# -- 2. Processor use --


def _cpu(recorded: Recorded[CpuRun] | None) -> list[str]:
    heading = "## 2. CPU of the nodes (the paper's Fig. 4)"
    paper = _prose(
        f"""In the paper four clients wrote to each application for 150 s, through Services that spread the requests
        over all replicas. With all leaders on one node, that node used more than {PAPER_BUSY:.0%} of its processor and
        the other two about {PAPER_IDLE:.0%}; with leaders on all nodes, the two nodes with two leaders used about
        {PAPER_EVEN:.0%}."""
    )
    if recorded is None or not _counts(recorded.runs):
        return [heading, paper, _void([] if recorded is None else recorded.runs) or NOT_MEASURED]
    found = writing(recorded)
    lines = [["", "n", "clients", "CPU, of the limit", "time in which it wanted more", "writes/s", "failed"]]
    for placement in PLACEMENTS:
        for one in found[placement].values():
            lines += [
                [
                    f"{placement}, {_leaders(node.leaders)}",
                    str(one.count),
                    str(one.clients),
                    _percent(node.share),
                    f"{node.throttled.median:.0%}",
                    _rate(one.throughput) if place == 0 else "",
                    _failed(one) if place == 0 else "",
                ]
                for place, node in enumerate(one.nodes)
            ]
    return [
        heading,
        paper,
        _prose(
            """Here hey's clients write through the node port of each store, each write over a connection of its own,
            so that kube-proxy spreads the writes over all replicas and followers pass them on to the leader. Each
            node's processor time is read from its control group once a second.""",
        ),
        _when(recorded.about),
        _figures(lines),
        _picture(CPU, "CPU of each node over time, concentrated and balanced leaders"),
        _prose(
            """In the picture lines are medians of the runs, and areas reach from the least to the greatest of them. In
                the
            table the CPU is each run's median over time."""
        ),
        _points(*_cpu_differences(found, recorded.about), _void(recorded.runs)),
    ]


def _cpu_differences(found: Mapping[str, Mapping[int, Writing]], about: About) -> list[str]:
    told = []
    concentrated, balanced = (_first(found[placement]) for placement in PLACEMENTS)
    if concentrated and len(concentrated.nodes) > 1:
        busy, *others = concentrated.nodes
        idle = fmean(node.share.median for node in others)
        told.append(
            f"""With all leaders on one node, that node used {busy.share.median:.0%} of what it may, the others
            {idle:.0%} on average; the paper has more than {PAPER_BUSY:.0%} and about {PAPER_IDLE:.0%}.
            {_saturation(busy)}"""
        )
        if idle > PAPER_IDLE + LIKE:
            told.append(
                f"""The others work more here than in the paper, by {100 * (idle - PAPER_IDLE):.0f} points. Two
                reasons, which were not told apart: a follower of this store writes every entry to its disk, answers the
                leader, and passes on the writes that clients bring to it; and a node of {capacity(about):g} cores
                spends a greater share than one of 4 on the kubelet, on probes and on sidecars."""
            )
        elif idle < PAPER_IDLE - LIKE:
            told.append(f"The others work less here than in the paper, by {100 * (PAPER_IDLE - idle):.0f} points.")
        even = fmean(node.share.median for node in concentrated.nodes)
        told.append(
            f"""If this work were shared evenly, each node would use {even:.0%}. Where that one node is what holds the
            writes up, that allows {_signed(concentrated.ceiling)} of them, if each costs the same."""
        )
    if balanced and len(balanced.nodes) > 1:
        most, least = balanced.nodes[0], balanced.nodes[-1]
        difference = most.share.median - least.share.median
        apart = f"works {abs(100 * difference):.0f} points {'less' if difference > 0 else 'more'} than the first"
        how = "works much as the others" if abs(difference) <= LIKE else apart
        told.append(
            f"""With balanced leaders the nodes used {_list(f"{node.share.median:.0%}" for node in balanced.nodes)}; the
            paper has about {PAPER_EVEN:.0%} for those with two leaders. The node with one leader {how}."""
        )
    if concentrated and balanced and concentrated.throughput.median:
        more = balanced.throughput.median / concentrated.throughput.median - 1
        told.append(
            f"""At the same number of clients, {balanced.throughput.median:.0f} writes a second were done with balanced
            leaders and {concentrated.throughput.median:.0f} with concentrated ones ({_signed(more)}): the two panels do
            not show the same work."""
        )
        told.append(_costs(concentrated, balanced))
    told.append(_machine([one for one in (concentrated, balanced) if one], about))
    return told


def _costs(concentrated: Writing, balanced: Writing) -> str:
    one, other = 1000 * concentrated.cost.median, 1000 * balanced.cost.median
    told = f"""A write took {one:.1f} ms of the nodes' processor time with concentrated leaders and {other:.1f} ms with
        balanced ones, with all that the nodes do besides: kubelets, probes, sidecars"""
    return f"{told}. The more is written, the less of that falls on each." if other < one else f"{told}."


def _saturation(node: NodeUse) -> str:
    told = f"It wanted more than its limit in {node.throttled.median:.0%} of the time"
    if node.throttled.median >= SATURATED or node.share.median >= BUSY:
        return f"{told}: it was saturated."
    return f"{told} only: these clients did not saturate it."


def _machine(runs: Sequence[Writing], about: About) -> str:
    if not runs:
        return ""
    used = max(run.machine.median for run in runs)
    told = f"""At most, hey took {max(run.generator.median for run in runs):.2f} cores, the control plane
        {max(run.control_plane.median for run in runs):.2f}, and all that ran {used:.2f} of the machine's
        {about.machine_cores}, of which {max(run.others.median for run in runs):.2f} by what has no part in this"""
    if used >= FULL * about.machine_cores:
        return f"""{told}. So the machine itself was full: nodes did not always get what their limits allow, which may
            hide some of the difference between the placements."""
    return f"{told}: the machine itself was not full."


# -- 3. Throughput --


def _throughput(recorded: Recorded[ThroughputRun] | None) -> list[str]:
    heading = "## 3. Throughput of writes (the paper's Fig. 5)"
    paper = _prose(
        f"""In the paper 1 to 32 clients wrote directly to the leader of each application, 20,000 requests an
        application. At 1 client, balanced leaders got {PAPER_GAIN:.1%} more done than concentrated ones, all five
        applications together. With concentrated leaders the throughput stayed about the same from {PAPER_FLAT_FROM}
        clients on, and with balanced ones it went on growing."""
    )
    if recorded is None or not _counts(recorded.runs):
        return [heading, paper, _void([] if recorded is None else recorded.runs) or NOT_MEASURED]
    found = writing(recorded)
    rates = [f"{name}, writes/s" for name in PLACEMENTS]
    lines = [["clients a store", "n", *rates, "more", "CPU of a write, ms", "p50, ms", "p99, ms", "failed"]]
    for clients in sorted({count for some in found.values() for count in some}):
        both = [found[placement].get(clients) for placement in PLACEMENTS]
        lines.append(
            [
                str(clients),
                " / ".join(str(one.count) if one else "-" for one in both),
                *(_rate(one.throughput) if one else "-" for one in both),
                _gain(gain(found, clients)),
                " / ".join(f"{1000 * one.cost.median:.1f}" if one else "-" for one in both),
                " / ".join(_milliseconds(one.p50) if one else "-" for one in both),
                " / ".join(_milliseconds(one.p99) if one else "-" for one in both),
                " / ".join(_failed(one) if one else "-" for one in both),
            ]
        )
    return [
        heading,
        paper,
        _prose(
            """Here hey's clients write to the address of the leader's pod, over connections that stay open, to all
            stores at
            once. The throughput is the sum over the
            stores of acknowledged writes over the time that the store's own requests took.""",
        ),
        _when(recorded.about),
        _figures(lines),
        _picture(THROUGHPUT, "acknowledged writes a second over clients of each store, both placements"),
        _prose(
            f"""Where two figures stand side by side they are of {CONCENTRATED} / {BALANCED} leaders. In the column
            *more* the spread sets the worst run of one placement against the best of the other. p50 is the median of
            the stores, p99 that of the slowest store."""
        ),
        _points(*_throughput_differences(found, recorded.about), _void(recorded.runs)),
    ]


def _throughput_differences(found: Mapping[str, Mapping[int, Writing]], about: About) -> list[str]:
    told = []
    common = sorted(set(found[CONCENTRATED]) & set(found[BALANCED]))
    gains = {clients: one for clients in common if (one := gain(found, clients))}
    if 1 in gains:
        told.append(_gain_at_one(gains[1], found[CONCENTRATED][1], about.stores))
        cautious = found[BALANCED][1].together.median / found[CONCENTRATED][1].together.median - 1
        told.append(
            f"""Counted over the time of the slowest store instead, which is the more cautious sum, it is
            {_signed(cautious)}."""
        )
    if gains:
        best = max(gains, key=lambda clients: gains[clients].median)
        told.append(f"Balanced leaders gain the most, {_signed(gains[best].median)}, at {_clients(best)} a store.")
        if worse := [clients for clients in common if clients in gains and gains[clients].low <= 0]:
            told.append(
                f"""At {_list(map(str, worse))} clients the runs of the two placements overlap: there the difference is
                not certain."""
            )
    told += _growth(found[CONCENTRATED], CONCENTRATED)
    told += _growth(found[BALANCED], BALANCED)
    if found[CONCENTRATED]:
        last = found[CONCENTRATED][max(found[CONCENTRATED])]
        told.append(
            f"""At {_clients(last.clients)} the node with all leaders used {last.nodes[0].share.median:.0%} of its limit
            and
            the others {_list(f"{node.share.median:.0%}" for node in last.nodes[1:])}. Shared evenly, that allows
            {_signed(last.ceiling)} writes, if
            each costs the same."""
        )
        told += _cheaper(found)
    told.append(_machine([one for some in found.values() for one in some.values()], about))
    return told


def _gain_at_one(measured: Spread, concentrated: Writing, stores: int) -> str:
    points = 100 * (measured.median - PAPER_GAIN)
    busy = concentrated.nodes[0]
    told = f"""At 1 client a store balanced leaders gave {_signed(measured.median)}; the paper has
        {_signed(PAPER_GAIN, 1)}."""
    if abs(points) < 100 * LIKE:
        return f"{told} That is much the same."
    why = f"""with {_number(stores)} writes under way at once, the node with all leaders used {busy.share.median:.0%} of
        its limit, and wanted more in {busy.throttled.median:.0%} of the time"""
    much = f"{told} That is {abs(points):.0f} points {'more' if points > 0 else 'less'}"
    if points < 0:
        return f"""{much}. What there is to be gained depends on how near one client a store comes to saturating one
            node, and on how much of a write the followers do: here, {why}."""
    if busy.throttled.median >= SATURATED or busy.share.median >= BUSY:
        return f"{much}. One client a store saturates a node of this size sooner than one of 4 cores: {why}."
    return f"{much}. Here, {why}."


def _cheaper(found: Mapping[str, Mapping[int, Writing]]) -> list[str]:
    told = []
    for placement, some in found.items():
        if len(some) > 1:
            few, many = some[min(some)], some[max(some)]
            if 0 < many.cost.median < few.cost.median:
                told.append(
                    f"""from {1000 * few.cost.median:.1f} ms at {_clients(few.clients)} a store to
                    {1000 * many.cost.median:.1f} ms at {many.clients} with {placement} leaders"""
                )
    if not told:
        return []
    return [
        f"""The nodes' processor time for a write falls with more clients, {_list(told)}: the leader stores and sends
        together what is waiting, and what the nodes do besides is shared by more writes."""
    ]


def _growth(some: Mapping[int, Writing], placement: str) -> list[str]:
    later = [some[clients].throughput.median for clients in sorted(some) if clients > PAPER_FLAT_FROM]
    if PAPER_FLAT_FROM not in some or not later:
        return []
    base = some[PAPER_FLAT_FROM].throughput.median
    if not base:
        return []
    low, high, last = min(later) / base, max(later) / base, later[-1] / base
    if low >= 1 - FLAT and high <= 1 + FLAT:
        verdict = "it is flat"
    elif last > 1 + FLAT:
        verdict = "it goes on growing"
    elif last < 1 - FLAT:
        verdict = "it falls"
    else:
        verdict = "it neither stays flat nor goes on growing"
    theirs, alike = ("about constant", "it is flat") if placement == CONCENTRATED else ("growing", "it goes on growing")
    does = "is" if placement == CONCENTRATED else "does"
    compared = f"as the paper's {does}" if verdict == alike else f"where the paper's is {theirs}"
    much = f"{low:.0%}" if f"{low:.0%}" == f"{high:.0%}" else f"{low:.0%} to {high:.0%}"
    return [
        f"""With {placement} leaders and more than {PAPER_FLAT_FROM} clients a store, the throughput is {much} of
        that at {PAPER_FLAT_FROM}: {verdict}, {compared}."""
    ]


# -- 4. The loss of a node --


def _node_failure(recorded: Recorded[FailureRun] | None) -> list[str]:
    heading = "## 4. The loss of a node (not in the paper)"
    if recorded is None or not _counts(recorded.runs):
        return [heading, _void([] if recorded is None else recorded.runs) or NOT_MEASURED]
    found = losses(recorded)
    lines = [["", *(POLICY_NAMES[one.policy] for one in found)]]
    rows: list[tuple[str, Callable[[Loss], str]]] = [
        ("n", lambda one: str(one.count)),
        ("leaders of each node before, mean", lambda one: _ratio(one.before)),
        ("of the nodes that are left", lambda one: _ratio(one.after)),
        ("of each node when it is back", lambda one: _ratio(one.returned) if one.returned else "not seen"),
        ("stores that lost their leader", lambda one: _plain(one.lost, 0)),
        ("longest time without a write, s, of these", lambda one: _plain(one.gap_lost, 1)),
        ("of the other stores", lambda one: _plain(one.gap_others, 2)),
        ("writes/s before", lambda one: _rate(one.throughput_before)),
        ("writes/s without the node", lambda one: _rate(one.throughput_after)),
        ("the same, of those before", lambda one: _percent(one.kept) if one.kept else "-"),
    ]
    lines += [[title, *(tell(one) for one in found)] for title, tell in rows]
    return [
        heading,
        _prose(
            """The node with the most leaders loses its power: all that runs there is gone at once, and nothing is told
            to anybody. One client a store tries to write every 50 ms, through the node ports of the nodes that live;
            the longest time between
            two acknowledged writes is what the loss costs. The throughput is measured before, and again when the
            leaders have settled on the nodes that are left. Then the node is switched on, and its pods come back. Every
            trial begins with a cold start of all replicas, and the policies take turns.""",
        ),
        _when(recorded.about),
        _figures(lines),
        _picture(NODE_FAILURE, "leaders of each node, time without writes, and throughput around the loss of a node"),
        _points(*_failure_differences(found), _void(recorded.runs)),
    ]


def _failure_differences(found: Sequence[Loss]) -> list[str]:
    told = []
    by_policy = {one.policy: one for one in found}
    if len(by_policy) > 1:
        stock, ours = by_policy[OFF], by_policy[OURS]
        told.append(
            f"""The node that leads most has {max(stock.before):.1f} leaders on average under the stock policy and
            {max(ours.before):.1f} under this project's, so that many stores are hit at once."""
        )
        if stock.gap_lost and ours.gap_lost:
            apart = ours.gap_lost.median - stock.gap_lost.median
            much = f"{abs(apart):.1f} s {'longer' if apart > 0 else 'shorter'} with this project's policy"
            how = "about as long under both policies" if abs(apart) < 1 else much
            told.append(
                f"""A store that lost its leader is without writes {how}. A leader that went without a word is followed
                when its lease runs out, which is the same for both."""
            )
        if stock.kept and ours.kept:
            told.append(
                f"""Without the node the stores write {_percent(stock.kept)} of what they did before under the stock
                policy, and {_percent(ours.kept)} under this project's. The node takes a third of the processors with
                it, and its followers' part of the work."""
            )
        if stock.returned and ours.returned:
            told.append(
                f"""When the node is back, leaders are at {_ratio(stock.returned)} under the stock policy, and at
                {_ratio(ours.returned)} under this project's."""
            )
    return told


# -- The end of it --


def _again() -> list[str]:
    commands = """```console
$ make paper                                                          # everything, as root
$ make paper ARGS="--only throughput --requests 1000 --clients 1,8"   # one experiment, and shorter
$ make paper ARGS=--resume                                            # go on with what was interrupted
```"""
    return [
        "## Run it again",
        commands,
        _prose(
            """That writes the raw data into [data/](data), one file an experiment with every single run, the pictures,
            and this page. What is needed besides root is what the tests on a cluster need, see
            [CONTRIBUTING.md](../../CONTRIBUTING.md).""",
        ),
    ]


def _left_out(measured: Measured) -> list[str]:
    points = [
        """Several machines. All nodes share one kernel, one disk and one page cache; a packet between nodes never
        leaves the machine. What a network or a slow disk would do to the placements is not in these figures.""",
        """Other applications than this store, other sizes of values, reads, and more than five stores. How much
        balanced leaders gain depends on how much more a leader does than a follower.""",
        """Memory, and the processor's caches, which the nodes share.""",
        """The stock image itself. What stands for it is this project's sidecar, told to elect as the stock image
        does.""",
    ]
    counts = [one.count for one in (*losses(measured.node_failure),)] if measured.node_failure else []
    for recorded in (measured.cpu, measured.throughput):
        if recorded is not None:
            counts += [one.count for some in writing(recorded).values() for one in some.values()]
    if counts:
        points.append(
            f"""Many repetitions: of experiments 2 to 4 each kind has {_range_of(counts)}. Least and greatest
            of so
            few say little about what is rare."""
        )
    return ["## What is not measured", _points(*points)]


# -- How things are said --


def _figures(lines: Sequence[Sequence[str]]) -> str:
    """Return a table of figures, aligned to the right."""
    return "\n".join(markdown(lines))


def _words(lines: Sequence[Sequence[str]]) -> str:
    """Return a table of words, aligned to the left."""
    return _figures(lines).replace("---:", "---")


def _points(*points: str) -> str:
    """Return a list of what is not empty, broken into lines."""
    told = [_filled(" ".join(point.split()), COLUMNS - 2) for point in points if point]
    return "\n".join(f"- {textwrap.indent(one, '  ').strip()}" for one in told)


def _prose(*sentences: str) -> str:
    """Return one paragraph, broken into lines."""
    words = " ".join(" ".join(sentences).split())
    return _filled(words, COLUMNS)


def _filled(words: str, columns: int) -> str:
    # What is typed is not to be broken.
    kept = re.sub(r"`[^`]+`", lambda typed: typed[0].replace(" ", "\0"), words)
    return textwrap.fill(kept, columns, break_long_words=False, break_on_hyphens=False).replace("\0", " ")


def _picture(name: str, shown: str) -> str:
    return f"![{shown}]({name}.svg)"


def _when(about: About) -> str:
    asked = ", ".join(f"{name} {_option(value)}" for name, value in sorted(about.options.items()))
    told = f"Measured on {about.date[:10]} at {about.date[11:16]} UTC"
    return _prose(f"{told}; asked for: {asked}." if asked else f"{told}.")


def _option(value: Any) -> str:  # noqa: ANN401 - JSON
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def _void(runs: Iterable[CpuRun | ThroughputRun | FailureRun]) -> str:
    """Say which runs do not count, and why; nothing when all do."""
    runs = list(runs)
    reasons = Counter(run.void for run in runs if run.void)
    if not reasons:
        return ""
    told = "; ".join(f"{reason}{f' ({count} times)' if count > 1 else ''}" for reason, count in reasons.most_common())
    many = reasons.total()
    return f"{many} of {len(runs)} runs {'does' if many == 1 else 'do'} not count: {told}."


def _counts(runs: Iterable[CpuRun | ThroughputRun | FailureRun]) -> bool:
    return any(not run.void for run in runs)


def _by_part(recorded: Recorded[Election] | None) -> dict[tuple[str, str], Elections]:
    return {(one.part, one.policy): one for one in elections(recorded)} if recorded else {}


def _first(some: Mapping[int, Writing]) -> Writing | None:
    return next(iter(some.values()), None)


def _flatness(found: Mapping[str, Mapping[int, Writing]]) -> str:
    some = found.get(CONCENTRATED, {})
    later = [some[clients].throughput.median for clients in sorted(some) if clients > PAPER_FLAT_FROM]
    base = some[PAPER_FLAT_FROM].throughput.median if PAPER_FLAT_FROM in some else 0.0
    return f"{min(later) / base:.0%} to {max(later) / base:.0%} of that at 4" if later and base else "not measured"


def _shares(run: Writing | None, which: slice) -> str:
    if run is None or not run.nodes[which]:
        return "not measured"
    return " and ".join(f"{node.share.median:.0%}" for node in run.nodes[which]) + f" (n = {run.count})"


def _ratio(leaders: Iterable[float]) -> str:
    return " : ".join(f"{count:.2f}" for count in leaders)


def _ratio_with_errors(one: Elections) -> str:
    return " : ".join(
        f"{mean:.2f} ± {error:.2f}" if error else f"{mean:.2f}"
        for mean, error in zip(one.leaders, one.errors, strict=True)
    )


def _plain(spread: Spread | None, places: int) -> str:
    if spread is None:
        return "-"
    if spread.low == spread.high:
        return f"{spread.median:.{places}f}"
    return f"{spread.median:.{places}f} ({spread.low:.{places}f} to {spread.high:.{places}f})"


def _rate(spread: Spread) -> str:
    return _plain(spread, 0 if spread.median >= 10 else 1)


def _percent(spread: Spread | None) -> str:
    if spread is None:
        return "-"
    around = "" if spread.low == spread.high else f" ({100 * spread.low:.0f} to {100 * spread.high:.0f})"
    return f"{spread.median:.0%}{around}"


def _kept(spread: Spread | None) -> str:
    return f"{spread.median:.0%} of that before" if spread else "not known"


def _signed(share: float, places: int = 0) -> str:
    return f"{100 * share:+.{places}f}%".replace("-", "\N{MINUS SIGN}")


def _gain(spread: Spread | None) -> str:
    if spread is None:
        return "not measured"
    if spread.count == 1:
        return f"{_signed(spread.median)} (n = 1)"
    return f"{_signed(spread.median)} ({_signed(spread.low)} to {_signed(spread.high)})"


def _milliseconds(spread: Spread | None) -> str:
    return "-" if spread is None else f"{1000 * spread.median:.0f}"


def _failed(run: Writing) -> str:
    return f"{run.failed / run.sent:.1%}" if run.failed and run.sent else "0"


def _leaders(count: int) -> str:
    return f"node with {count} leader{'' if count == 1 else 's'}"


def _clients(count: int) -> str:
    return f"{count} client{'' if count == 1 else 's'}"


def _number(count: int) -> str:
    return {1: "one", 2: "two", 3: "three", 4: "four", 5: "five"}.get(count, str(count))


def _range_of(counts: Sequence[int]) -> str:
    least, most = min(counts), max(counts)
    return f"{least} runs" if least == most != 1 else "one run" if most == 1 else f"{least} to {most} runs"


def _list(told: Iterable[str]) -> str:
    *first, last = told
    return f"{', '.join(first)} and {last}" if first else last
