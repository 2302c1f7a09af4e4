"""The verdict on histories that are made up, and how they are kept."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.safety.chaos.__main__ import main
from tests.safety.chaos.account import Account, Happened
from tests.safety.chaos.polling import Run

if TYPE_CHECKING:
    from pathlib import Path


def led(process: str, begin: float, end: float, *, token: int | None = None, name: str | None = None) -> Run:
    """Return answers in which a process named itself, each of which took 0.01 s."""
    identity = process.partition("/")[0]
    return Run(
        process=process,
        election="amber",
        identity=identity,
        name=identity if name is None else name,
        sent=begin - 0.01,
        begin=begin,
        end=end,
        received=end + 0.01,
        count=10,
        token=token,
    )


def once(process: str, sent: float, received: float) -> Run:
    """Return a single answer in which a process named itself."""
    run = led(process, received, sent)
    run.sent, run.received = sent, received
    return run


def account(*runs: Run) -> Account:
    """Return a history, in which a fault lasted from 2 to 4 s."""
    made = Account()
    for run in runs:
        made.said(run)
    made.faults.append(Happened(name="stopped", election="amber", target="a/1", begin=2.0, end=4.0))
    made.faults.append(Happened(name="killed", election="birch", target="x/1", begin=2.0, end=4.0))
    made.faults.append(Happened(name="resets", election="", target="", begin=2.0, end=4.0, missed="too late"))
    return made


def test_leaders_one_after_the_other_are_no_violation() -> None:
    """Spans that touch nowhere, with tokens that grow, are as it should be; so are answers that name somebody else."""
    assert (
        account(led("a/1", 1, 2, token=5), led("b/2", 2.1, 3, token=7), led("c/3", 0, 9, name="a")).violations() == []
    )


def test_two_at_once_are_told_with_what_went_on() -> None:
    """The sentence names both; with it come their processes, and the faults that their election felt then."""
    (found,) = account(led("a/1", 1, 3), led("b/2", 2.5, 4)).violations()
    assert "a/1" in found.sentence
    assert "b/2" in found.sentence
    assert found.processes == ("a/1", "b/2")
    assert found.faults == ("stopped (a/1)",)


def test_who_still_leads_is_judged_as_well() -> None:
    """Answers that are not over yet count as far as they go."""
    assert account(led("a/1", 1, 3)).violations([led("b/2", 2, 4)])


@pytest.mark.parametrize(("sent", "received", "found"), [(2.0, 2.1, True), (0.5, 2.1, False), (2.9, 3.1, False)])
def test_a_single_answer_counts_where_another_led_all_the_while(
    sent: float,
    received: float,
    found: bool,  # noqa: FBT001 - from the table
) -> None:
    """It was made between its question and its arrival: that proves two leaders only within another's span."""
    assert bool(account(led("a/1", 1, 3), once("b/2", sent, received)).violations()) is found


def test_tokens_that_do_not_grow_are_told() -> None:
    """A later term with a smaller token is found, also where nobody led at once."""
    (found,) = account(led("a/1", 1, 2, token=9), led("b/2", 3, 4, token=8)).violations()
    assert "token" in found.sentence
    assert found.processes == ("a/1", "b/2")


def test_problems_are_violations() -> None:
    """What the course of the run found, such as a process that ended by itself, is told as it is."""
    made = account()
    made.problem("a/1 ended by itself")
    assert [one.sentence for one in made.violations()] == ["a/1 ended by itself"]


def test_time_without_a_leader() -> None:
    """It is the longest between two instants in which somebody named itself, and that of a fault that touched it."""
    made = account(led("a/1", 1, 2), led("b/2", 3.5, 5), led("a/1", 6, 7))
    assert made.leaderless("amber", 1, 7) == pytest.approx(1.48)
    assert made.leaderless("amber", 5.5, 8) == pytest.approx(0.99)
    assert made.leaderless("amber", 1, 7, still=[led("c/3", 2, 3.5)]) == pytest.approx(0.98)
    assert made.longest_without(["amber", "birch"]) == {"stopped": pytest.approx(1.48)}
    assert made.begun() == {"stopped": 1, "killed": 1}


def test_a_history_is_kept_and_judged_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What was written down gives the same verdict, by `--judge` with status 1, and 0 where there was nothing."""
    file = tmp_path / "history.jsonl"
    kept = Account(file=file)
    for run in (led("a/1", 1, 3, token=4), led("b/2", 3.5, 4, token=5)):
        kept.said(run)
    assert main(["--judge", str(file)]) == 0
    kept.said(led("c/3", 2, 2.5))
    kept.ended(Happened(name="stopped", election="amber", target="a/1", begin=2.0, end=4.0))
    kept.problem("b/2 tripped")
    capsys.readouterr()

    assert main(["--judge", str(file)]) == 1
    told = capsys.readouterr().err
    assert "a/1 led amber with token 4" in told
    assert "stopped (a/1)" in told
    assert "b/2 tripped" in told


@pytest.mark.parametrize("line", ["{", "[]", '{"what": "weather"}', '{"what": "fault"}', json.dumps({"no": 1})])
def test_what_is_no_history_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], line: str) -> None:
    """One line says which line of which file, and the status is that of a harness that could not run."""
    file = tmp_path / "history.jsonl"
    file.write_text(line + "\n")
    assert main(["--judge", str(file)]) == 3
    assert f"error: {file}: line 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [["--faults", "earthquake"], ["--minutes", "0"], ["--candidates", "0"], ["--minutes", "nan"]]
)
def test_a_wrong_call_is_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Status 2, and what was wrong, before anything is started."""
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert arguments[0] in capsys.readouterr().err
