"""What was measured is read back as it was written, and nothing else is taken for it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.paper import data
from tests.paper.data import CpuRun, DataError, FailureRun, Load, Recorded, ThroughputRun
from tests.paper.made_up import ABOUT, FAILURE, LOAD, RUN, USAGE

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("run", [CpuRun(**RUN), ThroughputRun(**RUN), FAILURE])
def test_what_is_written_is_read(tmp_path: Path, run: CpuRun | ThroughputRun | FailureRun) -> None:
    """A file gives back what it was made of, to the digits that were measured."""
    file = data.path(tmp_path / "data", data.CPU)
    written: Recorded[Any] = Recorded(about=ABOUT, runs=[run, run])
    data.save(file, written)
    assert data.load(file, type(run)) == written
    assert [one.name for one in file.parent.iterdir()] == ["cpu.json"]


def test_an_experiment_that_was_not_made_has_nothing(tmp_path: Path) -> None:
    """That there is no file is no error."""
    assert data.load(data.path(tmp_path, data.CPU), CpuRun) is None


def written(tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    """Return a file, and what is in it."""
    file = data.path(tmp_path, data.CPU)
    data.save(file, Recorded(about=ABOUT, runs=[CpuRun(**RUN)]))
    return file, json.loads(file.read_text())


@pytest.mark.parametrize(
    ("where", "value"),
    [
        ("number", "1"),
        ("number", True),
        ("number", 1.5),
        ("number", None),
        ("moved", "a"),
        ("moved", [1]),
        ("leaders_before", {"n1": "1"}),
        ("usage", None),
        ("usage", {}),
        ("loads", [{}]),
        ("unknown", 1),
    ],
)
def test_what_is_of_another_kind_is_refused(tmp_path: Path, where: str, value: object) -> None:
    """The error names the file and the place in one line."""
    file, content = written(tmp_path)
    content["runs"][0][where] = value
    file.write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"cpu.json: runs\[0\]") as raised:
        data.load(file, CpuRun)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"about": {}, "runs": []}', '{"about": 1, "runs": {}}', "\ud800"])
def test_what_is_no_file_of_data_is_refused(tmp_path: Path, text: str) -> None:
    """Half a file, or another one, is told in one line."""
    file, _ = written(tmp_path)
    file.write_bytes(text.encode(errors="surrogatepass"))
    with pytest.raises(DataError, match=r"cpu\.json") as raised:
        data.load(file, CpuRun)
    assert "\n" not in str(raised.value)


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is read is bounded."""
    file, _ = written(tmp_path)
    monkeypatch.setattr(data, "FILE_BYTES", 10)
    with pytest.raises(DataError, match="larger"):
        data.load(file, CpuRun)


def test_a_whole_number_may_be_a_time(tmp_path: Path) -> None:
    """JSON of other tools writes 4.0 as 4."""
    file, content = written(tmp_path)
    content["runs"][0]["loads"][0]["seconds"] = 4
    file.write_text(json.dumps(content))
    found = data.load(file, CpuRun)
    assert found is not None
    assert found.runs[0].loads[0].throughput == 2.0


def test_throughput_is_of_acknowledged_writes() -> None:
    """It is summed up over the stores, each over its own time; of no time there is none."""
    assert LOAD.throughput == 2.0
    assert ThroughputRun(**RUN | {"loads": [LOAD, LOAD]}).throughput == 4.0
    assert (FAILURE.throughput_before, FAILURE.throughput_after) == (4.0, 2.0)
    nothing = Load(store="a", requests=0, acknowledged=0, failures={}, seconds=0.0, p50=None, p99=None)
    assert nothing.throughput == 0.0


def test_what_ran_elsewhere_is_what_is_left_of_the_machine() -> None:
    """Noise of other programs can be told from it: the node used 0.375 cores on average."""
    assert USAGE.elsewhere == pytest.approx(1.5 - 0.375 - 0.1 - 0.2)
