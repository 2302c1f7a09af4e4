"""The cold starts of the bench: what is concluded from lock objects, requests and logs, and how it is told."""

from __future__ import annotations

import json
import signal
import subprocess
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from sidecar.lab.placement import Pod
from sidecar.record import CLAIM_ANNOTATION, RECORD_ANNOTATION
from tests.bench import __main__ as bench
from tests.bench import balance_report, report
from tests.bench.__main__ import main
from tests.bench.candidates import CandidateError
from tests.bench.coldstart import Seen, judge
from tests.bench.figures import Request
from tests.bench.forking import UNKNOWN, Forked, ForkServer
from tests.bench.holdings import Holding, Said, Version, gaps, holdings, leader, parse_log, version_of
from tests.bench.journal import Journal, JournalError, fingerprint
from tests.bench.outcome import Crash, Range, Run, leaders_per_node, range_of, summary

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

RUN = Run(
    seed=1,
    leaders=[2, 2, 1],
    balanced=True,
    spread=1.0,
    settled=0.5,
    leaders_seen=[1, 1, 1, 1, 2],
    hand_overs=[0, 0, 0, 0, 1],
    lists=[3, 3, 3, 3, 5],
    gaps=[0.1],
    told=1,
    requests={"get": 10, "list": 17},
)
UNBALANCED = replace(RUN, seed=2, leaders=[3, 2, 0], balanced=False, hand_overs=[0] * 5, gaps=[], told=0)
CRASHES = [Crash(loaded=False, vacancy=9, beyond=0.5), Crash(loaded=True, vacancy=9, beyond=2.5)]


def lock(holder: str | None, *, claim: dict[str, str] | None = None) -> dict[str, object]:
    """Return Endpoints with this holder in the record; without a record for None."""
    annotations = {} if holder is None else {RECORD_ANNOTATION: json.dumps({"holderIdentity": holder})}
    if claim is not None:
        annotations[CLAIM_ANNOTATION] = json.dumps(claim)
    return {"kind": "Endpoints", "metadata": {"name": "app-1", "annotations": annotations}}


def version(at: float, holder: str, *, leading: bool = True, record: str = "") -> Version:
    """Return a version of one election's lock object."""
    return Version(
        at=at, election="app-1", holder=holder, leading=leading and bool(holder), record=record or f"{holder} {at}"
    )


def request(at: float, identity: str, verb: str = "update") -> Request:
    """Return a request for the lock object."""
    return Request(at=at, identity=identity, verb=verb, resource="endpoints")


# -- Lock objects --


@pytest.mark.parametrize(
    ("body", "holder", "leading"),
    [
        (lock("x"), "x", True),
        (lock("x", claim={"holder": "x", "state": "leading"}), "x", True),
        (lock("x", claim={"holder": "x", "state": "checking"}), "x", False),
        (lock("x", claim={"holder": "y", "state": "checking"}), "x", True),
        (lock(""), "", False),
        (lock("", claim={"holder": "", "state": "checking", "successor": "y"}), "", False),
        (lock(None), "", False),
        ({"kind": "Endpoints", "metadata": {"name": "app-1", "annotations": {RECORD_ANNOTATION: "["}}}, "", False),
        ({"kind": "Lease", "metadata": {"name": "app-1"}, "spec": {"holderIdentity": "x"}}, "x", True),
        ({"kind": "Lease", "metadata": {"name": "app-1"}, "spec": {}}, "", False),
    ],
)
def test_a_lock_object_says_who_holds_it_and_whether_it_leads(
    body: dict[str, object], holder: str, *, leading: bool
) -> None:
    """A holder leads unless its own claim says that it still checks; a claim that another left behind says nothing."""
    seen = version_of(body, at=1.0)

    assert (seen.election, seen.holder, seen.leading) == ("app-1", holder, leading)
    assert version_of(body, at=1.0, deleted=True).holder == ""


def test_holdings_follow_each_other() -> None:
    """Each hold begins and ends where the lock changes hands; only a changed record makes the lease begin anew."""
    held = holdings(
        [
            version(1, "x", leading=False, record="r1"),
            version(2, "x", record="r1"),
            version(3, "x", record="r2"),
            version(4, "x", record="r2"),
            version(5, "", record="r3"),
            version(6, "y", record="r4"),
            version(7, "z", leading=False, record="r5"),
        ]
    )

    assert held == [
        Holding(holder="x", led_from=2, renewed=3, left=5),
        Holding(holder="y", led_from=6, renewed=6, left=7),
        Holding(holder="z", led_from=None, renewed=7, left=None),
    ]
    assert leader(held) is None
    assert leader(held[:2]) is None
    assert leader([]) is None
    assert leader(holdings([version(1, "x")])) == Holding(holder="x", led_from=1, renewed=1)


def test_the_same_candidate_again_is_another_holding() -> None:
    """Who releases the lock and takes it again has led twice, with a gap in between."""
    held = holdings([version(1, "x"), version(2, ""), version(3, "x")])

    assert [(one.led_from, one.left) for one in held] == [(1, 2), (3, None)]


# -- Gaps --

HANDED_OVER = [
    Holding(holder="x", led_from=10, renewed=20, left=30.0),
    Holding(holder="y", led_from=30.5, renewed=30.5),
]


def test_a_gap_begins_with_the_write_that_gave_up() -> None:
    """Of the old leader's writes, the last one that was received before its effect was seen; others' do not count."""
    requests = [
        request(20, "x"),
        request(29.9, "x", "patch"),
        request(29.95, "x", "list"),
        request(29.96, "y"),
        request(30.2, "x"),
    ]

    (gap,) = gaps(HANDED_OVER, requests, [])

    assert gap.seconds == pytest.approx(0.6)
    assert not gap.told


def test_a_gap_without_a_known_write_begins_with_its_effect() -> None:
    """Where nothing was received from the old leader, the gap begins when the lock was seen not to be its own."""
    (gap,) = gaps(HANDED_OVER, [], [])

    assert gap.seconds == pytest.approx(0.5)


def test_logs_make_a_gap_longer_never_shorter() -> None:
    """A leader that says when it stopped, and one that says when it began, are believed where that is longer."""
    requests = [request(29.9, "x")]
    longer = [
        Said(at=5, identity="x", leading=False),
        Said(at=29.7, identity="x", leading=False),
        Said(at=30.6, identity="y", leading=True),
        Said(at=99, identity="y", leading=True),
    ]
    shorter = [Said(at=29.99, identity="x", leading=False), Said(at=30.1, identity="y", leading=True)]

    (long,) = gaps(HANDED_OVER, requests, longer)
    (short,) = gaps(HANDED_OVER, requests, shorter)

    assert long.seconds == pytest.approx(0.9)
    assert short.seconds == pytest.approx(0.6)
    assert long.told
    assert short.told


def test_a_gap_spans_holders_that_never_led() -> None:
    """A successor that hands on before it ever leads does not end the time without a leader."""
    held = [
        Holding(holder="x", led_from=10, renewed=20, left=30.0),
        Holding(holder="y", renewed=30.1, left=30.2),
        Holding(holder="z", led_from=31.0, renewed=31.0),
    ]

    assert [gap.seconds for gap in gaps(held, [], [])] == pytest.approx([1.0])


def test_logs_are_read() -> None:
    """Lines of ours that say who leads are found among any others; a line that cannot be read is left out."""
    text = """
        {"time": "2026-11-23T07:57:24.500000Z", "event": "leading", "identity": "x"}
        {"time": "2026-11-23T07:57:25.500000Z", "event": "stopped leading: handing over to y"}
        {"time": "2026-11-23T07:57:25.500000Z", "event": "leading the way"}
        {"time": "yesterday", "event": "leading"}
        I1123 leader election lost
        {"event": "lea"""

    assert parse_log("x", text) == [
        Said(at=1795420644.5, identity="x", leading=True),
        Said(at=1795420645.5, identity="x", leading=False),
    ]


# -- Balance --


@pytest.mark.parametrize(
    ("placed", "led", "leaders", "balanced"),
    [
        (["abc"] * 5, "aabbc", [2, 2, 1], True),
        (["abc"] * 5, "aaabb", [3, 2, 0], False),
        (["a", "a", "b"], "aab", [2, 1, 0], True),
        (["ab", "ab", "bc"], "aab", [2, 1, 0], False),
        (["ab", "ab", "bc"], "abc", [1, 1, 1], True),
    ],
)
def test_balance_is_judged_by_what_the_placement_allows(
    placed: list[str], led: str, leaders: list[int], *, balanced: bool
) -> None:
    """What cannot be moved is balanced where it is; what a chain of moves could better, is not."""
    pods = [Pod(f"e{place}", f"e{place}-{node}", node) for place, nodes in enumerate(placed) for node in nodes]
    held = {
        f"e{place}": [Holding(holder=f"e{place}-{node}", led_from=2.0, renewed=2.0)] for place, node in enumerate(led)
    }
    requests = [request(1.0, pod.identity, "list") for pod in pods]

    run = judge(pods, ["a", "b", "c"], Seen(requests=requests, held=held, said=[]), seed=4)

    assert (run.leaders, run.balanced) == (leaders, balanced)
    assert run.lists == [len(nodes) for nodes in placed]


def test_leaders_are_counted_on_every_node() -> None:
    """The most loaded node comes first, and one that leads nothing last."""
    assert leaders_per_node({"one": "b", "two": "b", "three": "a"}, ["a", "b", "c"]) == [2, 1, 0]


# -- Many runs --


def test_runs_are_summarised() -> None:
    """Means are over elections or runs; a run in which something went wrong counts as one that is not balanced."""
    broken = Run(seed=3, problem="nobody leads")
    crashes = [
        Crash(loaded=False, vacancy=9.0, beyond=0.1),
        Crash(loaded=True, vacancy=11.0, beyond=2.0),
        Crash(loaded=True, vacancy=12.0, beyond=2.2),
    ]

    found = summary("ours", [RUN, UNBALANCED, broken], crashes)

    assert (found.runs, found.balanced, found.problems) == (3, 1, 1)
    assert found.leaders == [2.5, 2.0, 0.5]
    assert found.hand_overs_mean == pytest.approx(0.1)
    assert found.hand_overs is not None
    assert found.hand_overs.most == 1
    assert found.requests == {"get": 2.0, "list": 3.4}
    assert found.gap == Range(p50=0.1, p90=0.1, most=0.1, count=1)
    assert found.loaded == range_of([2.0, 2.2])
    assert found.light_vacancy == range_of([9.0])


def test_no_runs_are_summarised() -> None:
    """Where there were only crashes, only these are told, and compared with goals."""
    found = summary("ours", [], CRASHES)

    assert (found.runs, found.leaders, found.gap, found.lists, found.requests) == (0, [], None, None, {})
    assert [goal.measured for goal in balance_report.compare_with_goals(found)] == ["0.5 s", "2.5 s"]
    assert balance_report.cells([found])[1] == ["leaders killed, heir on the least loaded node", "1"]


def test_the_table_of_cold_starts() -> None:
    """Every command has a column; what only one of them has is empty in the other's, what nobody has is no line."""
    stock = replace(UNBALANCED, requests={"get": 50}, lists=[0] * 5)

    heading, *lines = balance_report.cells([summary("ours", [RUN], []), summary("stock", [stock], [])])
    cells = {line[0]: line[1:] for line in lines}

    assert heading == ["", "ours", "stock"]
    assert cells["balanced runs"] == ["1 of 1", "0 of 1"]
    assert cells["leaders per node, heaviest first, mean"] == ["2.00 : 2.00 : 1.00", "3.00 : 2.00 : 0.00"]
    assert cells["  s without one, p50"] == ["0.100", ""]
    assert cells["  list"] == ["3.4", "0.0"]
    assert not [title for title in cells if "killed" in title]
    assert balance_report.markdown("what", [summary("ours", [RUN], [])]).splitlines()[2:4] == [
        "|  | ours |",
        "| --- | ---: |",
    ]
    assert len({len(line) for line in balance_report.table("what", [summary("ours", [RUN], [])]).splitlines()[1:]}) == 1


def test_the_document_has_every_run() -> None:
    """The JSON form holds the summary, each run, each crash, and the goals."""
    machine = report.Machine(date="2026-11-23 05:00 UTC", cores=2, memory_gib=24.0, load=0.1, python="3.11.7")
    crash = Crash(loaded=True, vacancy=11.0, beyond=2.0)
    measured = balance_report.Measured(summary=summary("ours", [RUN], [crash]), runs=[RUN], crashes=[crash])
    goals = balance_report.compare_with_goals(measured.summary)

    document = json.loads(balance_report.document("5 x 5", [measured], goals, machine))

    (command,) = document["commands"]
    assert (command["name"], command["balanced"], command["settled"]["most"]) == ("ours", 1, 0.5)
    assert Run(**command["each"][0]) == RUN
    assert command["crashes"] == [{"loaded": True, "vacancy": 11.0, "beyond": 2.0}]
    assert len(document["goals"]) == len(goals)


@pytest.mark.parametrize(
    ("runs", "crashes", "missed"),
    [
        ([RUN], CRASHES, []),
        ([RUN, UNBALANCED], CRASHES, ["every run ends balanced"]),
        ([RUN, Run(seed=2, problem="nobody leads")], CRASHES, ["every run ends balanced"]),
        ([replace(RUN, settled=5.1)], CRASHES, ["last start to the last change"]),
        ([replace(RUN, gaps=[0.21, 0.3, 0.3])], CRASHES, ["without a leader in a hand-over, p50"]),
        ([replace(RUN, gaps=[0.1, 0.1, 2.0])], CRASHES, ["without a leader in a hand-over, p90"]),
        ([replace(RUN, hand_overs=[5])], CRASHES, ["hand-overs of one election"]),
        ([replace(RUN, lists=[1, 13])], CRASHES, ["LISTs of one election"]),
        ([RUN], [replace(CRASHES[0], beyond=0.51), CRASHES[1]], ["crash, heir on the least"]),
        ([RUN], [CRASHES[0], replace(CRASHES[1], beyond=2.51)], ["crash, heir on the most"]),
        ([RUN], [], []),
        ([RUN, replace(UNBALANCED, balanced=True)], [], []),
    ],
)
def test_goals_of_cold_starts(runs: list[Run], crashes: list[Crash], missed: list[str]) -> None:
    """Each goal is missed by the figure that is its own, and by no other; crashes are judged where there were any."""
    goals = balance_report.compare_with_goals(summary("ours", runs, crashes))

    assert [goal.name for goal in goals if not goal.met] == [
        goal.name for name in missed for goal in goals if goal.name.startswith(name)
    ]
    assert len([goal for goal in goals if not goal.met]) == len(missed)
    assert len(goals) == (8 if crashes else 6)


def test_without_a_hand_over_none_is_judged() -> None:
    """Goals of hand-overs are left out when there was none, which is said; they are judged again with the first one."""
    quiet = replace(UNBALANCED, balanced=True)

    found = summary("ours", [quiet], [])
    goals = balance_report.compare_with_goals(found)

    assert [goal for goal in goals if not goal.met or "without a leader" in goal.name] == []
    assert len(goals) == 4
    assert balance_report.not_judged(found) == "no leader changed: the time without a leader is not judged"
    assert ["changes of a leader in all", "0"] in balance_report.cells([found])
    moved = summary("ours", [quiet, RUN], [])
    assert balance_report.not_judged(moved) == ""
    assert len(balance_report.compare_with_goals(moved)) == 6
    for runs in ([], [Run(seed=1, problem="nobody leads")]):
        assert balance_report.not_judged(summary("ours", runs, CRASHES)) == ""


# -- The journal --


def test_a_journal_returns_the_runs_of_its_conditions(tmp_path: Path) -> None:
    """What was appended under the same conditions comes back, the last one of a seed; others in the file do not."""
    path = tmp_path / "runs.jsonl"
    Journal(path, {"starts": "20"}).append(replace(RUN, seed=7))
    assert Journal(path, {"starts": "1"}).runs() == {}
    for run in (RUN, UNBALANCED, replace(RUN, settled=3.0)):
        Journal(path, {"starts": "1"}).append(run)

    assert Journal(path, {"starts": "1"}).runs() == {1: replace(RUN, settled=3.0), 2: UNBALANCED}
    assert Journal(tmp_path / "none", {}).runs() == {}


def test_a_journal_does_not_know_a_run_that_failed(tmp_path: Path) -> None:
    """A run in which something went wrong is to be repeated; once it went well, it is known."""
    journal = Journal(tmp_path / "runs.jsonl", {})
    journal.append(Run(seed=1, problem="nobody leads"))
    journal.append(UNBALANCED)

    assert journal.runs() == {2: UNBALANCED}
    journal.append(RUN)
    assert journal.runs() == {1: RUN, 2: UNBALANCED}


def test_a_program_is_known_by_its_modules(tmp_path: Path) -> None:
    """A changed module is another program, and so is a renamed one; what is no module makes no difference."""
    module = tmp_path / "one.py"
    module.write_text("x = 1")
    prints = [fingerprint(tmp_path)]
    (tmp_path / "notes.txt").write_text("x = 1")
    prints.append(fingerprint(tmp_path))
    module.write_text("x = 2")
    prints.append(fingerprint(tmp_path))
    module.rename(tmp_path / "two.py")
    prints.append(fingerprint(tmp_path))

    assert prints[0] == prints[1]
    assert len(set(prints)) == 3


@pytest.mark.parametrize("line", ["", "[]", '{"run": {"seed": 1}}', '{"conditions": {}, "run": {"seed": 1, "x": 2}}'])
def test_a_journal_that_cannot_be_read_is_named(line: str, tmp_path: Path) -> None:
    """A line that is no run is told with its file and number, rather than lost."""
    path = tmp_path / "runs.jsonl"
    Journal(path, {}).append(RUN)
    with path.open("a") as file:
        file.write(line + "\n")

    with pytest.raises(JournalError, match=r"runs\.jsonl, line 2: not a run"):
        Journal(path, {}).runs()


# -- Calls --


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--balance=5x5"], "--balance: '5x5': not elections, candidates of each and nodes, such as 5x5x3"),
        (["--balance=0x5x3"], "--balance: '0': not a number from 1 to 100"),
        (["--balance=100x200x3"], "--balance: 100 x 200 is more than 500 candidates"),
        (["--balance=5x5x3", "--window=9"], "--window has no meaning with --balance"),
        (["--balance=5x5x3", "--kill-trials=0"], "--kill-trials has no meaning with --balance"),
        (["--balance=5x5x3", "--runs=0"], "--runs=0 needs --crashes"),
        (["--runs=9"], "--runs has no meaning without --balance"),
        (["--balance=5x5x3", "--starts=soon"], "--starts: 'soon': not a number of seconds up to 3600, nor ordered"),
        (["--balance=5x5x3", "--start=fork", "--command=x"], "--start=fork: only this project's own program"),
        (["--balance=5x5x3", "--command={x}"], "unknown placeholder {x}"),
    ],
)
def test_a_wrong_call_for_cold_starts_is_refused(
    arguments: list[str], problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A wrong argument ends with status 2 and its name, before anything is started."""
    try:
        status = main(arguments)
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else 1

    assert status == 2
    assert problem in capsys.readouterr().err


# -- A series --


class Lab:
    """Stands for the API server and the processes: tells which seeds were carried out, and how each one went."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.carried_out: list[int] = []
        self.failing: set[int] = set()
        monkeypatch.setattr(bench, "_bed", lambda *_, **__: SimpleNamespace(command=SimpleNamespace(name="ours")))
        monkeypatch.setattr(bench, "cold_start", self.cold_start)

    def cold_start(self, *_: object, seed: int, **__: object) -> Run:
        """Return a balanced run without a hand-over, or raise."""
        self.carried_out.append(seed)
        if seed in self.failing:
            raise CandidateError("nobody leads")
        return replace(UNBALANCED, seed=seed, balanced=True)

    def series(self, *arguments: str) -> tuple[int, list[int]]:
        """Return the status of a series of three runs, and which of them were carried out."""
        self.carried_out = []
        return main(["--balance=5x5x3", "--runs=3", *arguments]), self.carried_out


@pytest.fixture
def lab(monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    """Carry out no run in earnest; the handler that the program installs goes with it."""
    before = signal.getsignal(signal.SIGTERM)
    yield Lab(monkeypatch)
    signal.signal(signal.SIGTERM, before)


def test_a_good_series_without_a_hand_over_passes(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is missed where no leader changed, and that none did is said below the goals."""
    assert lab.series("--check") == (0, [1, 2, 3])

    out = capsys.readouterr().out
    assert "MISSED" not in out
    assert out.endswith("\n\nno leader changed: the time without a leader is not judged\n")
    lab.series()
    assert "not judged" not in capsys.readouterr().out


def test_a_series_goes_on_with_what_is_missing(lab: Lab, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Runs that failed, and those that are not there, are carried out; then there is nothing to do any more."""
    out = f"--out={tmp_path / 'runs.jsonl'}"
    lab.failing = {2}

    assert lab.series(out) == (1, [1, 2, 3])
    assert "seed 2: nobody leads" in capsys.readouterr().err
    lab.failing = set()
    assert lab.series(out) == (0, [2])
    assert lab.series(out) == (0, [])
    assert lab.series(out, "--runs=4") == (0, [4])


def test_runs_of_another_version_are_not_reused(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When this program's modules have changed, all of its runs are carried out again; another program's are not."""
    out = f"--out={tmp_path / 'runs.jsonl'}"
    for arguments in ([], ["--command=other"]):
        assert lab.series(out, *arguments) == (0, [1, 2, 3])
        assert lab.series(out, *arguments) == (0, [])

    monkeypatch.setattr(bench, "fingerprint", lambda _: "changed")

    assert lab.series(out) == (0, [1, 2, 3])
    assert lab.series(out, "--command=other") == (0, [])


# -- Forked processes --


def test_a_forked_process_is_handled_like_a_child() -> None:
    """It is running until it was killed; then its end is noticed, waiting returns, and signals do nothing."""
    child = subprocess.Popen(["sleep", "60"])
    process = Forked(child.pid)

    assert process.poll() is None
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait(30) == UNKNOWN
    assert child.wait() == -signal.SIGKILL
    assert process.poll() == UNKNOWN
    process.kill()
    assert Forked(child.pid).poll() == UNKNOWN


def test_the_program_runs_in_a_fork(tmp_path: Path) -> None:
    """What is forked is the program itself, with these arguments, this environment, and its output in this log."""
    log = tmp_path / "candidate.log"
    with ForkServer(tmp_path / "server.log") as server:
        wrong = server.start(["x", "--election=e"], environment={"ELECTION_TTL": "soon"}, log=log)
        wrong.wait(30)

        assert "ELECTION_TTL='soon'" in log.read_text()
        server._process.kill()
        server._process.wait()
        with pytest.raises(OSError, match="the process that forks candidates has ended"):
            server.start(["x"], environment={}, log=log)
