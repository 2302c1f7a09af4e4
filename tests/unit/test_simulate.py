"""The command `simulate`: the same figures for the same seed, stock as chance has it, and one line for errors."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from statistics import fmean
from typing import TYPE_CHECKING, Any

import pytest

from sidecar import ctl, lab
from sidecar.lab import simulate, table, trial
from sidecar.lab.chance import chance
from sidecar.lab.figures import SEEDS_SHOWN, Range
from sidecar.lab.placement import candidates_per_node
from sidecar.lab.scenario import Scenario, draw
from sidecar.lab.simulate import TrialError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

CHEAP = ["--apps", "2", "--replicas", "2", "--nodes", "2", "--trials", "3"]


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    """Give back what the command takes over."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def called(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Call `electionctl simulate` in this process; return its exit code."""
    monkeypatch.setattr(sys, "argv", ["electionctl", "simulate", *arguments])
    with pytest.raises(SystemExit) as ended:
        ctl.main()
    assert isinstance(ended.value.code, int)
    return ended.value.code


def figures(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """Return the JSON that was printed, and nothing else was."""
    printed = capsys.readouterr()
    assert printed.err == ""
    result = json.loads(printed.out)
    assert isinstance(result, dict)
    return result


def test_the_same_seed_is_the_same_to_the_byte() -> None:
    """Not even how many processes there are, or in which order Python's sets are, makes a difference; the seed does."""

    def printed(seed: int, workers: int, hashes: int) -> bytes:
        options = ["--trials", "4", "--node-return", "--placement", "random", "--weights", "1,4", "--json"]
        options += ["--seed", str(seed), "--workers", str(workers)]
        return subprocess.run(
            [sys.executable, "-c", "from sidecar import ctl; ctl.main()", "simulate", *options],
            check=True,
            capture_output=True,
            env={**os.environ, "PYTHONHASHSEED": str(hashes)},
        ).stdout

    once = printed(5, 1, 0)
    assert printed(5, 2, 1) == once
    assert printed(6, 1, 0) != once


def test_a_trial_is_played_again_by_its_own_seed() -> None:
    """The second trial of one simulation is the first of the one whose seed is one more."""
    two = simulate.run(Scenario(), ["stock"], trials=2, seed=8, workers=1).figures[0]
    one, other = (simulate.run(Scenario(), ["stock"], trials=1, seed=seed, workers=1).figures[0] for seed in (8, 9))
    assert two.requests == {verb: count + other.requests[verb] for verb, count in one.requests.items()}


@pytest.mark.parametrize("placement", ["spread", "random"])
def test_the_stock_policy_is_as_chance_has_it(placement: str) -> None:
    """Leaders per node and balanced runs of the stock policy are what is worked out for where candidates run.

    For 5 applications of 5 candidates anywhere on 3 nodes that is 2.78 : 1.60 : 0.62. The mean of 100 runs is off by
    no more than three times its standard error.
    """
    trials = 100
    asked = Scenario(placement=placement, starts=0)
    stock = simulate.run(asked, ["stock"], trials=trials, seed=0, workers=1).figures[0]
    expected = [
        chance(candidates_per_node([start.pod for start in draw(asked, seed).starts]).values(), NODES)
        for seed in range(trials)
    ]
    for place, deviation in enumerate((0.77, 0.54, 0.55)):
        mean = fmean(each.mean[place] for each in expected)
        assert stock.leaders_per_node[place] == pytest.approx(mean, abs=3 * deviation / trials**0.5)
    assert sum(stock.leaders_per_node) == pytest.approx(5)
    if placement == "spread":
        # Where candidates run anywhere, not every placement allows 2 : 2 : 1.
        assert stock.balanced == pytest.approx(fmean(each.balanced for each in expected), abs=3 * 0.49 / trials**0.5)
    assert stock.handovers.max == 0
    assert stock.lists.max == 0


NODES = ["node-1", "node-2", "node-3"]


def test_policies_stand_side_by_side(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """For each phase a figure of each policy, in the order asked for; the full policy is balanced."""
    options = ["--policy", "full,stock", "--trials", "4", "--node-loss", "--workers", "1", "--json"]
    assert called(monkeypatch, *options) == 0
    result = figures(capsys)
    assert [(each["phase"], each["policy"]) for each in result["figures"]] == [
        ("start", "full"),
        ("start", "stock"),
        ("node loss", "full"),
        ("node loss", "stock"),
    ]
    assert result["figures"][0]["leaders_per_node"] == [2.0, 2.0, 1.0]
    assert result["figures"][0]["balanced"] == 1.0
    assert result["figures"][0]["distance"] == {"mean": 0.0, "max": 0}
    assert result["figures"][0]["requests"]["list"] == 4 * 5 * result["figures"][0]["requests_per_election"]["list"]
    assert result["seed"] == 0
    assert result["scenario"]["node_loss"] is True


def test_the_table_says_the_same(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Without --json a table for each phase, with a column for each policy.

    In a pipe there is no progress, no colours, and nothing is cut or folded.
    """
    monkeypatch.setenv("COLUMNS", "40")
    assert called(monkeypatch, *CHEAP, "--node-loss", "--workers", "1") == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    assert "\x1b" not in printed.out
    for text in (
        "start: 2 elections x 2 candidates on 2 nodes, 3 trials from seed 0; --apps 2 --replicas 2 --nodes 2 --node-l",
        "node loss: 2 elections",
        "stock",
        "backoff",
        "full",
        "leaders per node",
        "sum of squared loads above the least possible",
        "requests counted for (s of virtual time)",
        "3 of 3",
        "stock is this program, blind to nodes",
    ):
        assert text in printed.out
    assert "weight" not in printed.out


def test_the_table_fits_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """What is too long for 80 columns is folded, and nothing is cut off but from a line that the terminal folds."""
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert called(monkeypatch, *CHEAP, "--workers", "1") == 0
    title, *lines = capsys.readouterr().out.splitlines()
    assert title.endswith("; --apps 2 --replicas 2 --nodes 2")
    assert max(map(len, lines)) <= 80
    first_cells = " ".join(line.split("│")[1].strip() for line in lines if line.startswith("│"))
    assert "sum of squared loads above the least possible all led (s after the end of the disturbance)" in first_cells
    assert "…" not in "".join(lines)


@pytest.mark.parametrize(("weights", "least"), [("1,4", "best found"), ("4", "least possible")])
def test_loads_that_are_weights_are_called_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], weights: str, least: str
) -> None:
    """A load is no number of leaders then; and with different weights the optimum is only the best that was found."""
    assert called(monkeypatch, *CHEAP, "--policy", "full", "--weights", weights, "--workers", "1") == 0
    printed = capsys.readouterr().out
    assert "load per node (weight)" in printed
    assert f"sum of squared loads above the {least} " in printed
    assert "leaders per node" not in printed


def test_nearly_all_trials_are_not_all() -> None:
    """One trial of ten thousand that is not balanced is seen."""
    result = simulate.run(Scenario(apps=1), ["full"], trials=1, seed=0, workers=1)
    nearly = replace(result.figures[0], balanced=0.9999)
    assert replace(result, trials=10_000).balanced(nearly) == "9999 of 10000"


def test_without_leaders_there_is_no_balance() -> None:
    """Of trials with a leaderless election there is no spread, variation or distance; it is said how many they are."""
    asked = Scenario(apps=3, replicas=2, nodes=2, latency=(3, 3))
    result = simulate.run(asked, ["stock"], trials=2, seed=0, workers=1)
    (leaderless,) = result.figures
    assert (leaderless.leaderless, leaderless.leaderless_trials) == (6, 2)
    assert (leaderless.spread_max, leaderless.variation) == (None, None)
    assert leaderless.distance == Range(None, None)


def test_the_table_tells_of_leaderless_trials(capsys: pytest.CaptureFixture[str]) -> None:
    """So it stands in the table, with no figures in their place that would be none."""
    asked = Scenario(apps=3, replicas=2, nodes=2, latency=(3, 3))
    table.show(simulate.run(asked, ["stock"], trials=2, seed=0, workers=1))
    rows = dict(re.findall(r"^│ (.*?) +│ +(.*?) │$", capsys.readouterr().out, re.MULTILINE))
    assert rows["leaderless elections"] == "6, in trials: 2"
    assert rows["worst spread"] == rows["coefficient of variation"] == "-"
    assert rows["sum of squared loads above the least possible"] == "-"
    assert rows["all led (s after the end of the disturbance)"] == "never"


def test_requests_are_counted_for_as_long_as_is_said() -> None:
    """From the beginning of a phase until nothing has changed for the time to settle."""
    asked = Scenario(starts=0, settle=7, quiet=20, latency=(0.01, 0.01))
    start, quiet = simulate.run(asked, ["stock"], trials=1, seed=0, workers=1).figures
    assert start.counted_for.max == pytest.approx(7.04)
    assert quiet.counted_for.max == pytest.approx(27)


def test_progress_is_on_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """On a terminal, standard error counts the trials; standard output has the figures alone."""
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    assert called(monkeypatch, *CHEAP, "--workers", "1", "--json") == 0
    printed = capsys.readouterr()
    assert "9/9" in printed.err
    assert json.loads(printed.out)["trials"] == 3


def test_every_option_reaches_the_scenario(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Each option means what it says, in seconds where it is a time."""
    options = ["--placement", "restricted:1", "--starts", "0.5", "--stragglers", "0.5", "--rolling-restart"]
    options += [
        "--node-return",
        "--late-node",
        "--latency",
        "2,30.5",
        "--weights",
        "1,4",
        "--ttl",
        "8s",
        "--quiet",
        "3",
        "--settle",
        "5",
    ]
    assert called(monkeypatch, *CHEAP, *options, "--policy", "stock", "--json", "--workers", "1") == 0
    asked = figures(capsys)["scenario"]
    assert asked == {
        "apps": 2,
        "replicas": 2,
        "nodes": 2,
        "placement": "restricted",
        "restricted_to": 1,
        "starts": 0.5,
        "ordered": False,
        "stragglers": 0.5,
        "mixed_starts": False,
        "late_node": True,
        "rolling_restart": True,
        "node_loss": False,
        "node_return": True,
        "settle": 5.0,
        "quiet": 3.0,
        "latency": [0.002, 0.0305],
        "weights": [1, 4],
        "ttl": 8,
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--apps", "0"], "--apps: '0' is not a whole number from 1 to 1000"),
        (["--trials", "many"], "--trials: 'many' is not a whole number from 1 to 100000"),
        (["--policy", "stock,best"], "--policy: 'best' is none of stock, backoff, full"),
        (["--policy", "full,full"], "--policy: full,full names a policy twice"),
        (["--placement", "restricted:0"], "--placement: 'restricted:0' is none of spread, random, restricted:K"),
        (["--placement", "restricted:4"], "--placement restricted:4 needs at least --nodes 4"),
        (["--latency", "20,1"], "--latency: 20,1: the first is more than the second"),
        (["--latency", "20"], "--latency: '20' is not MIN,MAX"),
        (
            ["--latency", "1,300", "--ttl", "2s"],
            "--latency 1,300 takes up to 600 ms there and back; with --ttl 2s a re",
        ),
        (["--latency", "1,9999"], "--latency: '9999' is not a number from 0 to 300"),
        (["--weights", "1,x"], "--weights: 'x' is not a whole number from 1 to 1000"),
        (["--starts", "-1"], "--starts"),
        (["--stragglers", "1.5"], "--stragglers: '1.5' is not a number from 0 to 1"),
        (["--ttl", "2.5s"], "--ttl: 2.5s is not a number of whole seconds"),
        (["--ttl", "1h"], "--ttl: 1h is not between 2 s and 20 s"),
        (["--plot", "figure.pdf"], "--plot: figure.pdf ends neither in .png nor in .svg"),
        (["--plot", "/dev/full/x.svg"], "--plot: there is no directory /dev/full"),
        (["--plot", "no/such/directory/x.svg"], "--plot: there is no directory no/such/directory"),
        (["--ordered", "--mixed-starts"], "--mixed-starts: not allowed with argument --ordered"),
        (["--nodes", "1", "--node-loss"], "--late-node, --node-loss and --node-return need at least --nodes 2"),
        (["--apps", "1000", "--replicas", "100"], "--apps 1000 --replicas 100 makes more than 10000 candidates"),
        (["--seed", "4294967295", "--trials", "2"], "--seed 4294967295 --trials 2 needs seeds above 4294967295"),
        (["--bogus"], "unrecognized arguments: --bogus"),
    ],
)
def test_a_wrong_option_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    """Exit 2, and one line on standard error that names the option and what is accepted."""
    assert called(monkeypatch, *arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("electionctl")
    assert printed.err.count("\n") == 1
    assert message in printed.err


def test_two_leaders_fail_the_run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 1, one line that says what was seen, in which trial, and how it is played again."""
    monkeypatch.setattr(trial._Observed, "is_leading", lambda self: self.is_ready())
    assert called(monkeypatch, *CHEAP, "--seed", "70", "--workers", "1", "--policy", "stock") == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    assert "electionctl: policy stock, seed 70: " in printed.err
    again = "electionctl simulate --apps 2 --replicas 2 --nodes 2 --policy stock --seed 70 --trials 1"
    assert printed.err.endswith(f"both lead; again: {again}\n")
    assert called(monkeypatch, *again.split()[2:], "--workers", "1") == 1
    assert capsys.readouterr().err == printed.err


def test_a_failure_in_another_process_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a trial raises in a process of the pool comes out as it does without one, and the pool ends."""
    monkeypatch.setattr(simulate, "_play", _fail_at_5)
    with pytest.raises(TrialError, match="seed 5"):
        simulate.run(Scenario(), ["stock"], trials=100, seed=0, workers=2)


def _fail_at_5(_: Scenario, part: Sequence[tuple[str, int]]) -> list[list[trial.Outcome]]:
    if any(seed == 5 for _, seed in part):
        raise TrialError("seed 5: so")
    return [[] for _ in part]


def test_seeds_of_unbalanced_runs_are_named() -> None:
    """The first of them, and no more than can be read."""
    stock = simulate.run(Scenario(), ["stock"], trials=60, seed=100, workers=1).figures[0]
    assert len(stock.unbalanced_seeds) == SEEDS_SHOWN
    assert all(100 <= seed < 160 for seed in stock.unbalanced_seeds)
    balanced = simulate.run(Scenario(), ["stock"], trials=1, seed=stock.unbalanced_seeds[0], workers=1).figures[0]
    assert balanced.balanced == 0.0


@pytest.mark.parametrize(("suffix", "begins"), [(".svg", b"<?xml"), (".png", b"\x89PNG")])
def test_a_plot_is_drawn(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, suffix: str, begins: bytes
) -> None:
    """A picture of the kind that its name says, with the same bytes each time; the table is printed all the same."""
    pictures = []
    for name in ("one", "other"):
        path = tmp_path / f"{name}{suffix}"
        assert called(monkeypatch, *CHEAP, "--node-loss", "--plot", str(path), "--workers", "1") == 0
        pictures.append(path.read_bytes())
    assert pictures[0].startswith(begins)
    assert pictures[0] == pictures[1]
    assert "leaders per node" in capsys.readouterr().out


def test_a_plot_needs_its_library(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Where it is not installed, one line says so before anything is simulated; without --plot nobody misses it."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, "sidecar.lab.plot", raising=False)
    monkeypatch.delattr(lab, "plot", raising=False)
    assert called(monkeypatch, "--trials", "100000", "--plot", "x.svg") == 1
    assert "matplotlib is not installed; install leader-elector[plot]" in capsys.readouterr().err
    assert called(monkeypatch, *CHEAP, "--workers", "1") == 0


@pytest.mark.parametrize("trouble", ["directory", "permission"])
def test_a_plot_that_can_never_be_written_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, trouble: str
) -> None:
    """A directory in its place, a place that may not be written to: exit 2 before anything is simulated."""
    path = tmp_path / "picture.svg"
    if trouble == "directory":
        path.mkdir()
    else:
        monkeypatch.setattr(os, "access", lambda *_: False)  # a superuser may write everywhere
    assert called(monkeypatch, "--trials", "100000", "--plot", str(path)) == 2
    assert re.fullmatch(rf"electionctl simulate: argument --plot: {path}\W.*{trouble}.*\n", capsys.readouterr().err)


def test_a_plot_that_fails_loses_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """When the disk is full the result has been printed; exit 1 and the reason."""
    path = tmp_path / "picture.svg"
    path.symlink_to("/dev/full")
    assert called(monkeypatch, *CHEAP, "--plot", str(path), "--workers", "1", "--json") == 1
    printed = capsys.readouterr()
    assert json.loads(printed.out)["trials"] == 3
    assert printed.err == f"electionctl: --plot {path}: No space left on device\n"
