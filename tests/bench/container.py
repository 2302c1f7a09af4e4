"""A candidate as a container of an image: confined, and with a service account, as a pod has it."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tests.bench.candidates import START_PAUSE, CandidateError, leader_named_on
from tests.bench.figures import MIB, parse_run_time, parse_smaps_rollup, parse_start_time
from tests.testbed.containers import mark
from tests.testbed.credentials import SERVICE_ACCOUNT
from tests.testbed.engine import EngineError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tests.bench.figures import Memory
    from tests.testbed.engine import Engine

START_SECONDS = 60.0
"""Within which a container has to answer."""
TICKS = os.sysconf("SC_CLK_TCK")


class CandidateContainer:
    """One container that takes part in an election. `account` is the folder with its service account's files.

    It is made, and started by `start`. Raises EngineError.
    """

    def __init__(
        self,
        engine: Engine,
        image: str,
        *,
        identity: str,
        port: int,
        flags: Sequence[str],
        variables: Mapping[str, str],
        account: Path,
    ) -> None:
        self.identity = identity
        self._engine = engine
        self._port = port
        labels = [f"--label={name}={value}" for name, value in mark().items()]
        options = [f"--env={name}={value}" for name, value in variables.items()]
        confined = ["--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--network=host"]
        mounted = f"--volume={account}:{SERVICE_ACCOUNT}:ro"
        self._id = engine.run("create", *labels, *confined, *options, mounted, image, *flags).strip()
        self._pid = 0

    def start(self) -> float:
        """Start it; return the seconds from the start of its process to its first answer. Raises CandidateError."""
        # Asked while docker is still at it, which goes on for a while after the process was started.
        starting = subprocess.Popen(
            ["docker", "start", self._id],
            env=self._engine.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            deadline = time.monotonic() + START_SECONDS
            while self.name() is None:
                if time.monotonic() > deadline:
                    raise self._error(f"does not answer within {START_SECONDS:g} s")
                if starting.poll() not in (None, 0):
                    raise self._error("cannot be started")
                time.sleep(START_PAUSE)
            answered = time.clock_gettime(time.CLOCK_BOOTTIME)
        finally:
            starting.kill()
            starting.wait()
        self._pid = self._find_process()
        return answered - parse_start_time(self._read("stat"), ticks=TICKS)

    def name(self) -> str | None:
        """Return the leader that its `/` names, `""` for nobody; None when it does not answer in time."""
        try:
            return leader_named_on(self._port)
        except ValueError as error:
            raise self._error(str(error)) from error

    def check(self) -> None:
        """Raise CandidateError when it has ended."""
        if self._engine.run("inspect", "--format", "{{.State.Running}}", self._id).strip() != "true":
            raise self._error("ended")

    def memory(self) -> Memory:
        """Return what its process occupies. Raises CandidateError."""
        return parse_smaps_rollup(self._read("smaps_rollup"))

    def cpu_seconds(self) -> float:
        """Return the processor time of its process so far. Raises CandidateError."""
        threads = Path(f"/proc/{self._pid}/task")
        return sum(parse_run_time(self._read(f"task/{thread.name}/schedstat")) for thread in threads.iterdir())

    def remove(self) -> None:
        """Remove it, whatever state it is in."""
        with contextlib.suppress(EngineError):
            self._engine.run("rm", "--force", self._id)

    def _find_process(self) -> int:
        """Return its first process, found by its cgroup: the engine may count from another one. Raises as `_read`."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):  # one that has ended meanwhile
                if self._id in (process / "cgroup").read_text():
                    found.append(int(process.name))
        if not found:
            raise self._error("is no process of this machine; use an engine that is here")
        return min(found)

    def _read(self, name: str) -> str:
        try:
            return Path(f"/proc/{self._pid}/{name}").read_text()
        except PermissionError as error:
            raise self._error("belongs to another user; only root can measure it") from error
        except OSError as error:
            raise self._error(f"ended: {error.strerror}") from error

    def _error(self, problem: str) -> CandidateError:
        try:
            log = "\n".join(self._engine.run("logs", "--tail=15", self._id).splitlines())
        except EngineError as error:
            log = str(error)
        return CandidateError(f"container {self.identity} {problem}" + (f"; its log ends:\n{log}" if log else ""))


def added_mib(engine: Engine, image: str) -> float | None:
    """Return what an image adds to its base, in MiB; None where that is not known. Raises EngineError.

    The base is the one that its label names, if the engine has it and the image is made of it.
    """
    base = (engine.image_labels(image) or {}).get("org.opencontainers.image.base.name")
    if not base or engine.image_labels(base) is None:
        return None
    size, layers = _inspected(engine, image)
    base_size, base_layers = _inspected(engine, base)
    return (size - base_size) / MIB if layers[: len(base_layers)] == base_layers else None


def _inspected(engine: Engine, image: str) -> tuple[int, list[str]]:
    told = engine.run("image", "inspect", "--format", '{{.Size}} {{join .RootFS.Layers " "}}', image)
    size, *layers = told.split()
    return int(size), layers
