"""Faults of the machine."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from tests.safety.chaos.faults import Fault
from tests.testbed import processes

if TYPE_CHECKING:
    import subprocess

PER_CORE = 2
"""Busy processes for each core: enough that everybody else has to wait."""


class Busy(Fault):
    """More busy processes than the machine has cores."""

    name = "cpu-loaded"
    traits = frozenset({"machine"})
    leases = (1.0, 3.0)
    touches_all = True
    _processes: tuple[subprocess.Popen[bytes], ...] = ()

    async def _begin(self) -> None:
        count = PER_CORE * (os.cpu_count() or 1)
        self.target = f"{count} busy processes"
        for _ in range(count):
            busy = processes.start(
                [sys.executable, "-I", "-S", "-c", "while True: pass"], log=self.stage.folder / "busy.log"
            )
            self._processes = (*self._processes, busy)

    async def _end(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait()
