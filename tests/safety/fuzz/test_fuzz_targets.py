"""Hostile input, in seconds: what was found once, what chance finds beside it, and that a planted bug is seen."""

from __future__ import annotations

import importlib.util
import json
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp.web import json_response
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sidecar import balance, duration, election, kube, locks, record, registration, web
from sidecar import settings as flags
from tests.safety.fuzz import __main__ as program
from tests.safety.fuzz import fuzz_endpoint, fuzz_record, fuzzing, targets

if TYPE_CHECKING:
    from pathlib import Path

    from aiohttp.web import Request, Response

EXAMPLES = 150
"""Of chance, for each target."""

LARGEST_KEPT = 8192
"""Bytes of an input that is kept."""


def spliced(kept: bytes, at: int, new: bytes, instead_of: int) -> bytes:
    """Return a kept input with something else in one place."""
    at %= len(kept) + 1
    return kept[:at] + new + kept[at + instead_of :]


def inputs(name: str) -> st.SearchStrategy[bytes]:
    """Return any bytes, and kept inputs with a change."""
    kept = [file.read_bytes() for file in targets.load(name).kept()]
    changed = st.builds(
        spliced, st.sampled_from(kept), st.integers(0, LARGEST_KEPT), st.binary(max_size=20), st.integers(0, 20)
    )
    return st.binary(max_size=400) | changed


@pytest.mark.parametrize("name", targets.NAMES)
def test_kept_inputs_break_nothing(name: str) -> None:
    """What was found once is mended, and stays so; every target has inputs, and they are small."""
    target = targets.load(name)
    kept = target.kept()

    assert kept
    for file in kept:
        content = file.read_bytes()
        assert len(content) <= LARGEST_KEPT, file
        target.check(content)


@pytest.mark.parametrize("name", targets.NAMES)
def test_chance_breaks_nothing(name: str) -> None:
    """Whatever hypothesis makes up, of nothing or of what is kept, breaks no promise."""
    target = targets.load(name)

    @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
    @given(inputs(name))
    def check(data: bytes) -> None:
        target.check(data)

    check()


# -- Planted bugs: a harness that catches nothing is itself the bug ----------------------------------------------------


def _no_escapes(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _believes_all(fields: dict[str, Any], key: str, *, default: int = 0) -> int:
    value = fields.get(key, default)
    return int(value) if isinstance(value, int | float) else default


def _keeps_labels_only(lock: locks.EndpointsLock, body: dict[str, Any], annotations: dict[str, str]) -> dict[str, Any]:
    kept = {key: text for key, text in annotations.items() if text is not None}
    return {**body, "metadata": {**body["metadata"], "annotations": kept, "labels": lock._labels}}


def _fails(*_: object) -> None:
    raise LookupError("a bug")


async def _tells_itself(_: Request) -> Response:
    return json_response({"name": fuzz_endpoint.OWN_NAME})


PLANTED: dict[str, tuple[object, str, object]] = {
    "record": (fuzz_record, "parse_record", lambda text: record.parse_record(text.replace("0", "null"))),
    "claim": (record, "number_of", _believes_all),
    "registration": (registration, "LONGEST_REGISTRATION", 4096),
    "lock": (locks.EndpointsLock, "_merged", _keeps_labels_only),
    "watch": (locks, "decimal", int),
    "answer": (kube, "_retry_after", lambda response: float(response.headers["Retry-After"] or -1)),
    "census": (balance, "_nearest", _fails),
    "settings": (flags, "_shown", lambda text: text),
    "duration": (duration, "_fraction", lambda digits, unit: int(digits or 0) * unit // 10 ** len(digits)),
    "endpoint": (web, "_name", _tells_itself),
    "election": (election, "_vacancy", lambda *given: (given[2].now, given[2].now)),
}
"""By target: what is broken, and how."""


@pytest.mark.parametrize("name", targets.NAMES)
def test_a_planted_bug_is_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each target fails on one of its kept inputs once something that it watches is broken."""
    where, what, instead = PLANTED[name]
    monkeypatch.setattr(where, what, instead)
    target = targets.load(name)
    caught = 0
    for file in target.kept():
        try:
            target.check(file.read_bytes())
        except Exception:  # noqa: BLE001 - any of them is a finding
            caught += 1
    assert caught


# -- The program -------------------------------------------------------------------------------------------------------


def ended(*arguments: str) -> int:
    """Run the program and return the status that it exits with."""
    with pytest.raises(SystemExit) as ending:
        program.main(arguments)
    assert isinstance(ending.value.code, int)
    return ending.value.code


def test_replaying_an_input(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An input that breaks nothing ends with 0 and says so; one that breaks something with 1 and a traceback."""
    kept = targets.load("duration").kept()[0]

    assert ended("duration", "--replay", str(kept)) == program.OK
    assert "nothing is wrong" in capsys.readouterr().out

    monkeypatch.setattr(duration, "parse", _fails)
    assert ended("duration", "--replay", str(kept)) == program.FOUND
    assert "LookupError: a bug" in capsys.readouterr().err

    assert ended("duration", "--replay", str(tmp_path)) == 2
    assert ended("nothing") == 2
    assert ended("duration", "--minutes", "0") == 2


def test_without_the_fuzzer(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where atheris is not installed, that is said in a line, and the status is 3."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)

    assert ended("duration") == program.UNAVAILABLE
    assert capsys.readouterr().err.startswith("error: no atheris")


def test_fuzzing_for_a_second(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A short campaign executes inputs and finds nothing; without the fuzzer there is none."""
    monkeypatch.setattr(fuzzing, "BUILD", tmp_path)
    status = ended("duration", "--minutes", "0.02", "--json")

    if importlib.util.find_spec("atheris") is None:
        assert status == program.UNAVAILABLE
        return
    assert status == program.OK
    (outcome,) = json.loads(capsys.readouterr().out)
    assert outcome["target"] == "duration"
    assert outcome["executions"] > 0
    assert outcome["findings"] == []
