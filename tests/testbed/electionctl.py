"""electionctl as a process under test."""

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.testbed.sidecar import PATIENCE, environment

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

ELECTIONCTL = Path(sys.executable).with_name("electionctl")


@dataclass(frozen=True)
class Done:
    """A command that has ended."""

    status: int
    out: str
    err: str

    def json(self) -> Any:  # noqa: ANN401 - JSON
        """Return what it printed."""
        return json.loads(self.out)


async def electionctl(kubeconfig: Path, *arguments: str, seconds: float = 3 * PATIENCE) -> Done:
    """Run a command to its end."""
    async with running(kubeconfig, *arguments) as program:
        async with asyncio.timeout(seconds):
            out, err = await program.communicate()
    return Done(program.returncode or 0, out.decode(), err.decode())


@asynccontextmanager
async def running(kubeconfig: Path, *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a command in pipes as long as the block runs."""
    program = await asyncio.create_subprocess_exec(
        ELECTIONCTL,
        *arguments,
        env=environment(kubeconfig.parent, {"KUBECONFIG": str(kubeconfig)}),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield program
    finally:
        with suppress(ProcessLookupError):
            program.kill()
        await program.wait()


async def next_line(program: asyncio.subprocess.Process) -> str:
    """Return the next line that a running command prints."""
    assert program.stdout is not None
    async with asyncio.timeout(PATIENCE):
        return (await program.stdout.readline()).decode().rstrip("\n")
