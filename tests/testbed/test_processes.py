"""The test bed's promise that it leaves no process behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.testbed import processes

ROOT = Path(__file__).parents[2]


def await_gone(pid: int) -> None:
    """Wait until a process is gone, or only waits to be collected."""
    deadline = time.monotonic() + 10
    while processes.is_running(pid):
        assert time.monotonic() < deadline, f"process {pid} is still there"
        time.sleep(0.01)


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_processes_end_with_the_process_that_started_them(tmp_path: Path, end: signal.Signals) -> None:
    """A started process is gone when its starter is killed, although nobody called `stop`."""
    program = (
        "import sys, time, pathlib\n"
        "from tests.testbed.processes import start\n"
        "print(start(['sleep', '600'], log=pathlib.Path(sys.argv[1])).pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "log")]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as starter:
        assert starter.stdout is not None
        pid = int(starter.stdout.readline())
        os.kill(pid, 0)
        starter.send_signal(end)
        await_gone(pid)


def test_stop_ends_a_stopped_process(tmp_path: Path) -> None:
    """A process under SIGSTOP gets its SIGTERM all the same, so that no fault test hangs as it cleans up."""
    process = processes.start(["sleep", "600"], log=tmp_path / "log")
    process.send_signal(signal.SIGSTOP)

    assert processes.stop(process) == -signal.SIGTERM


def test_a_command_that_cannot_start_says_so_in_its_log(tmp_path: Path) -> None:
    """The log of a command that does not exist names it and the reason."""
    log = tmp_path / "log"

    status = processes.start(["/nonexistent/program"], log=log).wait(10)

    assert status == 1
    assert processes.tail(log) == "/nonexistent/program: No such file or directory"
