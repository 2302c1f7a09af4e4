"""The harnesses that are to notice a mistake: how each is run in a copy of the tree, and what its verdict means."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.safety.mutants.tree import environment

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

CAUGHT, SURVIVED, BROKEN = "caught", "survived", "broken"
"""What a harness says of a tree; `BROKEN` is no verdict."""

END_SECONDS = 30.0
"""In which a harness whose time is over ends what it started."""

LONGEST_TOLD = 300
"""Characters of a sentence that are told."""

Told = tuple[str, str]
"""After how much of its work a harness had its verdict, and the sentence of the violation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Harness:
    """One way to search for two leaders."""

    name: str
    command: tuple[str, ...]
    """What Python is called with."""
    bound: str
    """The flag that says how much to do."""
    amount: str
    """How much that is."""
    seconds: float
    """Within which it has done that on a slow machine."""
    entrance: str
    """A file without which it can have tested nothing."""
    read: Callable[[str], Told]
    """Reads what it wrote to standard output. Raises ValueError, KeyError, TypeError or IndexError."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What became of one run of a harness."""

    harness: str
    ending: str
    effort: str
    seconds: float
    sentence: str
    """What was found, or why it broke."""


def _explored(output: str) -> Told:
    scenarios = json.loads(output)
    for scenario in scenarios:
        if scenario["breach"]:
            return f"{scenario['states']:,} states of {scenario['scenario']}", scenario["breach"]
    return f"{sum(scenario['states'] for scenario in scenarios):,} states", ""


def _simulated(output: str) -> Told:
    document = json.loads(output)
    failed = document["failed"]
    return f"{document['seeds']:,} seeds", failed[0]["violations"][0] if failed else ""


def _attacked(output: str) -> Told:
    document = json.loads(output)
    violations = document["violations"]
    return f"{document['bursts']} bursts of faults", violations[0]["sentence"] if violations else ""


def _tested(output: str) -> Told:
    ran = re.findall(r"(\d+) (?:passed|failed)", output)
    failed = re.findall(r"^FAILED \S+::(\S+)", output, re.MULTILINE)
    return f"{sum(map(int, ran))} tests", f"{failed[0]} fails" if failed else ""


HARNESSES: Mapping[str, Harness] = {
    harness.name: harness
    for harness in (
        Harness(
            name="unit",
            command=("-m", "pytest", "-q", "-p", "no:cacheprovider"),
            bound="--maxfail",
            amount="1",
            seconds=120,
            entrance="sidecar/__init__.py",
            read=_tested,
        ),
        Harness(
            name="explore",
            command=("-m", "tests.safety.explore", "--json"),
            bound="--states",
            amount="20000",
            seconds=900,
            entrance="sidecar/election.py",
            read=_explored,
        ),
        Harness(
            name="simulate",
            command=("-m", "tests.safety.simulate", "--json"),
            bound="--seeds",
            amount="500",
            seconds=900,
            entrance="sidecar/candidate.py",
            read=_simulated,
        ),
        Harness(
            name="chaos",
            command=("-m", "tests.safety.chaos", "--json"),
            bound="--minutes",
            amount="1",
            seconds=300,
            entrance="sidecar/__main__.py",
            read=_attacked,
        ),
    )
}
"""The cheapest first. The unit tests stand in where no harness can see a mistake."""


async def run(harness: Harness, tree: Path, *, amount: str | None = None, hints: Sequence[str] = ()) -> Result:
    """Run a harness on a tree. It ends with this call, also when that is cancelled."""
    began = time.monotonic()
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *harness.command,
        harness.bound,
        amount or harness.amount,
        *hints,
        cwd=tree,
        env=environment(tree),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # What it starts is ended with it, and an interrupt at the terminal reaches it through this process only.
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(harness.seconds):
            output, errors = (told.decode("utf-8", "replace") for told in await process.communicate())
    except TimeoutError:
        return _result(harness, began, BROKEN, f"it took longer than {harness.seconds:g} s")
    finally:
        await _end(process)
    ending = {0: SURVIVED, 1: CAUGHT}.get(process.returncode or 0, BROKEN)
    if ending == BROKEN:
        return _result(harness, began, ending, f"exit code {process.returncode}: {_last_line(errors)}")
    try:
        effort, sentence = harness.read(output)
    except (ValueError, KeyError, TypeError, IndexError) as error:
        # An unhandled exception ends Python with the code that means a violation.
        return _result(harness, began, BROKEN, f"it did not report ({error!r}): {_last_line(errors)}")
    if bool(sentence) != (ending == CAUGHT):
        return _result(harness, began, BROKEN, f"exit code {process.returncode}, but: {sentence or 'no violation'}")
    return _result(harness, began, ending, sentence, effort)


def _result(harness: Harness, began: float, ending: str, sentence: str, effort: str = "") -> Result:
    told = " ".join(sentence.split())
    if len(told) > LONGEST_TOLD:
        told = told[: LONGEST_TOLD - 1] + "\u2026"
    seconds = time.monotonic() - began
    return Result(harness=harness.name, ending=ending, effort=effort, seconds=seconds, sentence=told)


async def _end(process: Process) -> None:
    """End a harness and all that it started: kindly first, so that it ends what runs in sessions of its own."""
    if process.returncode is not None:
        return
    for number, seconds in ((signal.SIGTERM, END_SECONDS), (signal.SIGKILL, None)):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await process.communicate()


def _last_line(text: str) -> str:
    return text.strip().rpartition("\n")[2] or "it said nothing"
