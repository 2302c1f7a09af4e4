"""What conftest.py promises: tests that are told to end remove what they made, and one process has the engine."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

CONFTEST = Path(__file__).parents[1] / "conftest.py"

# Makes something, starts programs that end themselves by each signal, says so, and waits.
TESTS = """
import subprocess, time
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def made():
    yield
    (HERE / "removed").touch()


def test_waits(made):
    ends = [subprocess.run(["sh", "-c", f"kill -s {name} $$"]).returncode for name in ("INT", "TERM", "HUP")]
    (HERE / "begun.new").write_text(str(ends))
    (HERE / "begun.new").rename(HERE / "begun")
    time.sleep(60)
"""


# As the tests in tests/image ask for what was provided.
ASKS = """
def test_asks(provided):
    provided("image")
"""


@pytest.fixture
def env() -> dict[str, str]:
    """Return the environment of tests that have nothing to do with these."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    return {**inherited, "PYTHONPATH": str(CONFTEST.parents[1])}


@pytest.mark.parametrize(
    ("number", "processes"),
    [(signal.SIGINT, ()), (signal.SIGTERM, ()), (signal.SIGHUP, ()), (signal.SIGTERM, ("-n1",))],
)
def test_what_was_made_is_removed(
    tmp_path: Path, env: dict[str, str], number: signal.Signals, processes: tuple[str, ...]
) -> None:
    """However they are told to end, fixtures finish, the status is that of ^C, and programs got the default signals."""
    shutil.copy(CONFTEST, tmp_path)
    (tmp_path / "test_waiting.py").write_text(TESTS)
    # As in the background of a script, under nohup.
    ignoring = ("sh", "-c", 'trap "" INT HUP TERM; exec "$@"', "sh")
    command = [*ignoring, sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *processes, str(tmp_path)]
    with subprocess.Popen(command, cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as tests:
        deadline = time.monotonic() + 60
        while not (tmp_path / "begun").exists():
            assert tests.poll() is None, tests.communicate()[0].decode()
            assert time.monotonic() < deadline, "the test begins"
            time.sleep(0.02)
        tests.send_signal(number)
        output = tests.communicate(timeout=60)[0].decode()

    assert (tmp_path / "begun").read_text() == str([-signal.SIGINT, -signal.SIGTERM, -signal.SIGHUP])
    assert tests.returncode == pytest.ExitCode.INTERRUPTED, output
    assert (tmp_path / "removed").exists(), output


def test_several_processes_share_no_engine(tmp_path: Path, env: dict[str, str]) -> None:
    """With -n the tests of containers and pods fail, whatever may be left out, and one line says what to do."""
    shutil.copy(CONFTEST, tmp_path)
    (tmp_path / "image").mkdir()
    (tmp_path / "image" / "test_asking.py").write_text(ASKS)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "no:cacheprovider",
        "-n1",
        "--leave-out-unavailable",
        str(tmp_path),
    ]
    done = subprocess.run(
        command, cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )

    assert done.returncode == pytest.ExitCode.TESTS_FAILED, done.stdout
    assert "the tests in tests/image are for one process: run them without -n" in done.stdout
    assert "left out" not in done.stdout
