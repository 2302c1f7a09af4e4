"""The bench: its arithmetic, its readers, its report, and what it concludes from processes that answer."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from sidecar.lab.placement import Pod
from tests.bench import report
from tests.bench.__main__ import main
from tests.bench.candidates import (
    Candidate,
    CandidateError,
    Command,
    Election,
    TemplateError,
    command_from,
    elections_of,
)
from tests.bench.figures import (
    Memory,
    Request,
    Row,
    Spread,
    Traffic,
    count_finished,
    median_mib,
    parse_audit,
    parse_cpu_seconds,
    parse_smaps_rollup,
    percentile,
    spread,
    traffic,
)
from tests.testbed.ports import free_port

if TYPE_CHECKING:
    from pathlib import Path

ROW = Row(
    name="ours",
    elections=5,
    replicas=5,
    ttl=10.0,
    window=60.0,
    traffic=Traffic(total={"update": 0.4}, leaders={"update": 0.4}, followers={}),
    counted_by_metrics=0.4,
    open_watches=5.0,
    leader_changes=0,
    apiserver_idle=10.0,
    apiserver=18.0,
    first_answer=Spread(p50=0.5, p90=0.6, trials=25),
    first_leader=Spread(p50=0.6, p90=0.7, trials=5),
    killed=Spread(p50=9.0, p90=10.0, trials=10),
    terminated=Spread(p50=0.05, p90=0.08, trials=10),
    resident=80.0,
    anonymous=65.0,
    proportional=66.0,
    cpu=1.25,
)
PEER = replace(
    ROW,
    name="peer",
    traffic=Traffic(total={"get": 1.6, "update": 0.4}, leaders={"update": 0.4}, followers={"get": 1.6}),
    resident=20.0,
    killed=None,
)

# Answers GET / with the leader that a file names; ends on SIGTERM.
ANSWERING = """
import json, sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(Path(sys.argv[2]).read_bytes())
    def log_message(self, *_):
        pass

HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""

Made = Callable[[str, list[str]], Candidate]


@pytest.fixture
def candidate(tmp_path: Path) -> Iterator[Made]:
    """Make candidates of any command, `{port}` in it filled in, and end them after the test."""
    made: list[Candidate] = []

    def make(identity: str, command: list[str]) -> Candidate:
        port = free_port()
        words = [word.replace("{port}", str(port)) for word in command]
        log = tmp_path / f"{identity}.log"
        made.append(Candidate(identity=identity, port=port, command=words, kubeconfig=tmp_path / "none", log=log))
        return made[-1]

    yield make
    for one in made:
        one.kill()
        one.bury()


def naming(leader: Path) -> list[str]:
    """Return the command of a process that answers with what is in a file."""
    return [sys.executable, "-S", "-c", ANSWERING, "{port}", str(leader)]


def audit_event(*, at: str, user: str, verb: str, resource: str | None = "endpoints") -> str:
    """Return a line as kube-apiserver writes it."""
    event = {
        "kind": "Event",
        "stage": "RequestReceived",
        "verb": verb,
        "user": {"username": f"system:serviceaccount:test-1:{user}"},
        "requestReceivedTimestamp": at,
    }
    if resource is not None:
        event["objectRef"] = {"resource": resource, "namespace": "test-1"}
    return json.dumps(event) + "\n"


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [
        ([3.0], 0.9, 3.0),
        ([1.0, 2.0], 0.5, 1.5),
        ([5.0, 1.0, 3.0], 0.5, 3.0),
        ([float(value) for value in range(11)], 0.9, 9.0),
        ([0.0, 10.0], 0.9, 9.0),
        ([1.0, 2.0, 4.0], 1.0, 4.0),
    ],
)
def test_percentile(values: list[float], share: float, expected: float) -> None:
    """A percentile lies between the two nearest values in proportion, whatever order the values come in."""
    assert percentile(values, share) == pytest.approx(expected)


def test_the_spread_of_trials() -> None:
    """Trials are told by their median, their 90th percentile and their number."""
    assert spread([2.0, 1.0, 3.0]) == Spread(p50=2.0, p90=percentile([1.0, 2.0, 3.0], 0.9), trials=3)


def test_the_audit_log_is_read() -> None:
    """Every whole line is a request, by whom, when and for what; a line that is still being written waits."""
    text = (
        audit_event(at="2026-11-23T05:00:00.500000Z", user="election-0-1", verb="watch")
        + audit_event(at="2026-11-23T05:00:01.000000Z", user="election-0-0", verb="get", resource=None)
        + audit_event(at="2026-11-23T05:00:02.000000Z", user="election-0-0", verb="update")[:40]
    )

    assert parse_audit(text) == [
        Request(at=1795410000.5, identity="election-0-1", verb="watch", resource="endpoints"),
        Request(at=1795410001.0, identity="election-0-0", verb="get", resource=""),
    ]
    assert parse_audit("") == []


def test_requests_are_told_apart_by_who_sent_them() -> None:
    """Rates are those of one election; what a follower sent is never counted as a leader's."""
    requests = [
        *(Request(at=0, identity=leader, verb="update", resource="endpoints") for leader in ("a-0", "b-0") * 12),
        Request(at=0, identity="a-1", verb="watch", resource="endpoints"),
        Request(at=0, identity="a-1", verb="get", resource="endpoints"),
    ]

    counted = traffic(requests, leaders={"a-0", "b-0"}, elections=2, seconds=10)

    assert counted == Traffic(
        total={"get": 0.05, "update": 1.2, "watch": 0.05},
        leaders={"update": 1.2},
        followers={"get": 0.05, "watch": 0.05},
    )
    row = replace(ROW, traffic=counted)
    assert row.requests == pytest.approx(1.3)
    assert row.follower_requests == pytest.approx(0.05)  # its watch aside


def test_counters_are_compared_without_watches() -> None:
    """The server counts a watch when it ends, so watches are left out; so are objects that no candidate asked for."""
    before = {("PUT", "endpoints"): 10, ("WATCH", "endpoints"): 1, ("PUT", "leases"): 3}
    after = {("PUT", "endpoints"): 34, ("GET", "endpoints"): 2, ("WATCH", "endpoints"): 9, ("PUT", "leases"): 5}

    assert count_finished(before, after, resources={"endpoints"}) == 26


def test_memory_is_read() -> None:
    """The three sizes come from their own lines, `Pss_Anon` and the like notwithstanding."""
    text = (
        "5581b2c5d000-7ffd3f5f2000 ---p 00000000 00:00 0                          [rollup]\n"
        "Rss:               81920 kB\nPss:               66560 kB\nPss_Dirty:         65000 kB\n"
        "Pss_Anon:          64000 kB\nPrivate_Dirty:     64000 kB\nAnonymous:         65536 kB\n"
    )

    memory = parse_smaps_rollup(text)

    assert memory == Memory(resident=80 * 2**20, anonymous=64 * 2**20, proportional=65 * 2**20)
    assert median_mib([memory.resident, memory.anonymous, 0]) == 64.0


def test_processor_time_is_read_whatever_the_command_is_called() -> None:
    """User and system time are found behind a name with spaces and parentheses."""
    stat = "42 (a (b) c) S 1 42 42 0 -1 4194304 100 0 0 0 150 50 7 7 20 0 1 0 12345 1000 200"

    assert parse_cpu_seconds(stat, ticks=100) == 2.0


def test_a_template_is_filled_without_a_shell() -> None:
    """Placeholders are filled inside words, quotes group words, and what a shell would expand stays as it is."""
    words = command_from("'my program' --id={id} --http=localhost:{port} $HOME", {"id": "a b", "port": "1"})

    assert words == ["my program", "--id=a b", "--http=localhost:1", "$HOME"]


@pytest.mark.parametrize(
    ("template", "problem"),
    [
        ("x {name}", "unknown placeholder {name}; there are {election} {id} {namespace} {port} {kubeconfig} {ttl}"),
        ("x {id.real}", "unknown placeholder {id.real}"),
        ("x {", "Single '{' encountered"),
        ("x 'y", "No closing quotation"),
        ("x {id:d}", "Unknown format code 'd'"),
        (" ", "the command is empty"),
    ],
)
def test_a_template_that_cannot_be_filled_is_named(template: str, problem: str) -> None:
    """What is wrong with a template is said in one line."""
    with pytest.raises(TemplateError) as caught:
        command_from(template, {"id": "x"})

    assert problem in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--elections=0"], "--elections: '0': not a number from 1 to 100"),
        (["--elections=100", "--replicas=200"], "more than 500 candidates"),
        (["--replicas=1"], "nobody takes over from a single replica"),
        (["--ttl=10"], "--ttl: missing unit in duration '10'"),
        (["--ttl=0s"], "--ttl: '0s': not between 0s and 10m0s"),
        (["--window=nan"], "--window: 'nan': not a number of seconds up to 3600"),
        (["--compare=peer"], "--compare: 'peer': neither LABEL=TEMPLATE nor clientgo"),
        (["--check", "--kill-trials=0"], "--check needs --kill-trials and --term-trials"),
        (["--command={x}"], "unknown placeholder {x}"),
        (["--compare=peer=y {x}"], "unknown placeholder {x}"),
    ],
)
def test_a_wrong_call_is_refused(arguments: list[str], problem: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong argument ends with status 2 and its name, before anything is started."""
    try:
        status = main(arguments)
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else 1

    assert status == 2
    assert problem in capsys.readouterr().err


def test_the_table_shows_rows_side_by_side_and_their_ratio() -> None:
    """Every row has its column; what was not measured is empty, and so is a ratio that would divide by zero."""
    heading, *lines = report.cells([ROW, PEER])
    cells = {line[0].strip(): line[1:] for line in lines}

    assert heading == ["", "ours", "peer", "peer / ours"]
    assert cells["API requests/s, one election"] == ["0.400", "2.000", "5.00"]
    assert cells["get"] == ["0.000", "1.600", ""]
    assert cells["by followers, watches aside"] == ["0.000", "1.600", ""]
    assert cells["leader killed: s to the next, p50"] == ["9.00", "", ""]
    assert cells["RSS a candidate, MiB"] == ["80.0", "20.0", "0.25"]
    assert "leader killed: s to the next, p50" not in {line[0] for line in report.cells([PEER])}
    assert len({len(line) for line in report.table([ROW, PEER]).splitlines()[1:]}) == 1
    assert report.markdown([ROW, PEER]).splitlines()[2:4] == [
        "|  | ours | peer | peer / ours |",
        "| --- | ---: | ---: | ---: |",
    ]


def test_the_document_has_rows_and_ratios() -> None:
    """The JSON form holds what the table holds: the rows as measured, and each peer's ratios to the first."""
    machine = report.Machine(date="2026-11-23 05:00 UTC", cores=2, memory_gib=24.0, load=0.1, python="3.11.7")
    goals = report.compare_with_goals(ROW, ROW)

    document = json.loads(report.document([[ROW, PEER]], goals, machine))

    (workload,) = document["workloads"]
    assert [row["requests"] for row in workload["rows"]] == [0.4, 2.0]
    assert workload["rows"][0]["terminated"] == {"p50": 0.05, "p90": 0.08, "trials": 10}
    assert workload["ratios"] == {"peer": {**workload["ratios"]["peer"], "requests": 5.0, "resident": 0.25}}
    assert "killed_p50" not in workload["ratios"]["peer"]
    assert document["machine"]["cores"] == 2
    assert len(document["goals"]) == len(goals)


def test_goals_that_are_met() -> None:
    """A row as it should be meets every goal."""
    assert all(goal.met for goal in report.compare_with_goals(ROW, replace(ROW, replicas=50)))


BUSY = Traffic(total={"update": 0.44}, leaders={"update": 0.44}, followers={})
BUSIER = Traffic(total={"update": 0.46}, leaders={"update": 0.46}, followers={})
ASKING = Traffic(total={"update": 0.39, "get": 0.03}, leaders={"update": 0.39}, followers={"get": 0.03})
REGISTERING = Traffic(total={"update": 0.39, "patch": 0.02}, leaders={"update": 0.39}, followers={"patch": 0.02})
WATCHING = Traffic(total={"update": 0.39, "watch": 0.01}, leaders={"update": 0.39}, followers={"watch": 0.01})


@pytest.mark.parametrize(
    ("row", "many", "missed"),
    [
        (replace(ROW, traffic=BUSY), replace(ROW, traffic=BUSY), ["at most 0.43 requests/s"]),
        (ROW, replace(ROW, traffic=BUSIER), ["at most 0.45 for one of"]),
        (ROW, replace(ROW, traffic=ASKING), ["followers send nothing but"]),
        (replace(ROW, traffic=ASKING), ROW, ["followers send nothing but"]),
        (ROW, replace(ROW, traffic=REGISTERING), []),
        (ROW, replace(ROW, traffic=WATCHING), []),
        (
            replace(ROW, terminated=Spread(p50=0.5, p90=0.9, trials=9)),
            ROW,
            ["leader terminated: another leads within 0.5"],
        ),
        (
            replace(ROW, terminated=Spread(p50=0.4, p90=1.0, trials=9)),
            ROW,
            ["leader terminated: another leads within 1.0"],
        ),
        (replace(ROW, killed=Spread(p50=10.51, p90=11.0, trials=9)), ROW, ["leader killed: another leads within 10.5"]),
        (replace(ROW, killed=Spread(p50=10.5, p90=99.0, trials=9)), ROW, []),
        (replace(ROW, killed=None), ROW, ["leader killed"]),
    ],
)
def test_goals_that_are_missed(row: Row, many: Row, missed: list[str]) -> None:
    """Each goal is missed by the figure that is its own, and by no other; what was not measured is not met."""
    goals = [goal for goal in report.compare_with_goals(row, many) if not goal.met]

    assert len(goals) == len(missed)
    assert all(goal.name.startswith(name) for goal, name in zip(goals, missed, strict=True))
    assert report.goal_lines(goals).count("MISSED") == len(missed)


def test_a_candidate_runs_its_command_as_a_pod_would(tmp_path: Path) -> None:
    """The template is filled for the pod; its process finds the pod's variables and the command's, and has a log."""
    telling = "import os, sys; print(*sys.argv[1:], *map(os.environ.get, ('POD_NAME', 'NODE_NAME', 'KUBECONFIG', 'V')))"
    template = f'{sys.executable} -S -c "{telling}" {{election}} {{id}} {{namespace}} {{port}} {{kubeconfig}} {{ttl}}'
    pods = [Pod("b", "b-0", "n1"), Pod("a", "a-0", "n2"), Pod("b", "b-1", "n3")]
    command = Command(name="telling", template=template, variables={"V": "7"})
    candidates = {
        pod.identity: command.candidate(
            pod, namespace="ns", port=80, kubeconfig=tmp_path / "config", ttl="9s", folder=tmp_path
        )
        for pod in pods
    }

    elections = elections_of(pods, candidates)

    assert {name: [one.identity for one in election.candidates] for name, election in elections.items()} == {
        "b": ["b-0", "b-1"],
        "a": ["a-0"],
    }
    last = elections["b"].candidates[1]
    last.begin()
    last.await_end()
    config = str(tmp_path / "config")
    assert (tmp_path / "b-1.log").read_text().split() == [
        "b",
        "b-1",
        "ns",
        "80",
        config,
        "9s",
        "b-1",
        "n3",
        config,
        "7",
    ]


def test_a_candidate_that_ends_is_named_with_its_log(candidate: Made) -> None:
    """A crash is noticed while its first answer is awaited, and the message ends with what it said last."""
    crashing = candidate("a-0", [sys.executable, "-S", "-c", "raise SystemExit('no such election')"])

    with pytest.raises(CandidateError, match=r"(?s)candidate a-0 ended with status 1; its log ends:.*no such election"):
        crashing.start()


def test_an_answer_without_a_leader_is_told(candidate: Made, tmp_path: Path) -> None:
    """A program that answers something else is reported with its answer, rather than waited for."""
    answer = tmp_path / "answer"
    answer.write_text('{"leader": "x"}')

    with pytest.raises(CandidateError, match=r"""candidate a-0 answers what is no leader's name: b'\{"leader"""):
        candidate("a-0", naming(answer)).start()


def test_there_is_a_leader_when_all_agree(candidate: Made, tmp_path: Path) -> None:
    """A leader is a candidate of the election that all candidates name; nobody, somebody else or a mixture is none."""
    answers = [tmp_path / "first", tmp_path / "second"]
    election = Election(
        name="a", candidates=[candidate(f"a-{place}", naming(answer)) for place, answer in enumerate(answers)]
    )
    for answer in answers:
        answer.write_text('{"name": ""}')
    for one in election.candidates:
        assert one.start() > 0

    found = []
    for names in (("", ""), ("a-0", "a-1"), ("b-0", "b-0"), ("a-1", "a-1")):
        for answer, name in zip(answers, names, strict=True):
            answer.write_text(json.dumps({"name": name}))
        leader = election.leader()
        found.append(leader.identity if leader else None)

    assert found == [None, None, None, "a-1"]
    election.candidates[0].send_signal(signal.SIGKILL)
    election.candidates[0].await_end()
    with pytest.raises(CandidateError, match="candidate a-0 ended with status -9"):
        election.leader()


def test_a_failover_ends_when_another_names_itself(candidate: Made, tmp_path: Path) -> None:
    """A follower that still names the old leader, or names a third, is no end; the old leader runs again afterwards."""
    told = tmp_path / "told"
    told.write_text('{"name": "a-0"}')
    # The old leader's end is what changes the answer of all the others, so that nobody leads before it.
    leaving = ANSWERING.replace(
        "HTTPServer((",
        "import os, signal\n"
        "def leave(*_):\n"
        "    Path(sys.argv[2] + '.new').write_text(json.dumps({'name': 'a-2'}))\n"
        "    os.replace(sys.argv[2] + '.new', sys.argv[2])\n"
        "    sys.exit()\n"
        "signal.signal(signal.SIGTERM, leave)\n"
        "HTTPServer((",
    )
    old = candidate("a-0", [sys.executable, "-S", "-c", leaving, "{port}", str(told)])
    election = Election(name="a", candidates=[old, candidate("a-1", naming(told)), candidate("a-2", naming(told))])
    for one in election.candidates:
        one.start()

    assert 0 < election.fail_over(signal.SIGTERM, 30) < 30
    assert old.name() == "a-2"
    told.write_text('{"name": "a-0"}')
    with pytest.raises(CandidateError, match=r"election a: nobody leads 0\.2 s after SIGKILL"):
        election.fail_over(signal.SIGKILL, 0.2)
