"""hey, a load generator for HTTP: found in the cache, or built from its published Go module.

`python -m tests.testbed.hey` prints the path of the program.
"""

from __future__ import annotations

import json
import math
import re
import sys
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from tests.testbed import golang, processes

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator, Sequence

MODULE = Path(__file__).with_name("hey")
PACKAGE = "github.com/rakyll/hey"

TEMPLATE = (
    '{"seconds": {{jsonify .Total.Seconds}}, "requests": {{.NumRes}}, "errors": {{jsonify .ErrorDist}}, '
    '"latencies": {{jsonify .Lats}}, "statuses": {{jsonify .StatusCodes}}}'
)
"""What the program prints instead of its summary. Its CSV leaves out how long all took, and what got no answer."""

MOST_REQUESTS = 1_000_000
"""Of which the program keeps the times."""

REQUEST_SECONDS = 20
"""Until a request that gets no answer is given up."""

OUTPUT_BYTES = 128 * 1024 * 1024
"""The most that is read of what the program prints."""


class HeyError(Exception):
    """The program failed, or printed something else; the message is one line."""


def program() -> Path:
    """Return the program. A build takes half a minute with nothing cached. Raises golang.BuildError."""
    folder = golang.cache() / "hey" / golang.digest(MODULE)
    golang.ensure(
        [golang.Program(name="hey", package=PACKAGE)],
        module=MODULE,
        folder=folder,
        announce="(half a minute with nothing cached) ...",
    )
    return folder / "hey"


def version() -> str:
    """Return the version that is built, as go.mod has it. Raises golang.BuildError."""
    found = re.search(rf"{re.escape(PACKAGE)} (v\S+)", (MODULE / "go.mod").read_text())
    if found is None:
        raise golang.BuildError(f"{MODULE / 'go.mod'} names no version of {PACKAGE}")
    return found[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where a load goes, and how many clients send it, each its next request when the last one was answered."""

    url: str
    clients: int
    requests: int = 0
    """Of all clients together, rounded down to a multiple of `clients`; 0 for as many as there is time for."""
    seconds: float = 0.0
    """For which requests are begun, where there is no number of them."""
    keep_alive: bool = True
    """Whether a client stays on its connection. Otherwise each request may come to another replica of a Service."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What came of a load."""

    seconds: float
    """From the first request to the last answer."""
    requests: int
    latencies: list[float]
    """Seconds of each request that was answered 200, the shortest first."""
    failures: dict[str, int]
    """How many were answered otherwise, by status, or not at all, by what happened."""

    def percentile(self, percent: float) -> float | None:
        """Return the seconds within which so many of a hundred were answered 200; None where none was."""
        if not self.latencies:
            return None
        return self.latencies[max(0, math.ceil(len(self.latencies) * percent / 100) - 1)]


def command(target: Target, body: Path) -> list[str]:
    """Return the arguments of the program for a load of PUTs with the body that is in a file."""
    until = f"-n={target.requests}" if target.requests else f"-z={target.seconds:g}s"
    alive = [] if target.keep_alive else ["-disable-keepalive"]
    fixed = ["-m=PUT", "-T=application/octet-stream", f"-D={body}", f"-t={REQUEST_SECONDS}", "-disable-redirects"]
    return [until, f"-c={target.clients}", *alive, *fixed, f"-o={TEMPLATE}", target.url]


def parse(text: str) -> Result:
    """Read what the program printed. Raises HeyError."""
    try:
        told = json.loads(text)
        seconds, requests, errors = told["seconds"], told["requests"], told["errors"]
        answers = list(zip(told["latencies"], told["statuses"], strict=True))
        answered = [float(latency) for latency, status in answers if status == HTTPStatus.OK]
        failures = Counter(str(status) for _, status in answers if status != HTTPStatus.OK)
        # A refused connection names the port that it came from, and each is another one.
        for error, count in errors.items():
            failures[_told(error)] += count
        consistent = requests == len(answers) + sum(errors.values())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        last = text.strip().splitlines()[-1:] or ["nothing"]
        raise HeyError(f"hey printed no result but {last[0][:200]!r} ({error!r})") from error
    if not consistent or requests >= MOST_REQUESTS:
        raise HeyError(f"hey tells of {len(answers)} answers and {sum(errors.values())} errors to {requests} requests")
    return Result(
        seconds=seconds, requests=requests, latencies=sorted(answered), failures=dict(sorted(failures.items()))
    )


def _told(error: str) -> str:
    """Return what is the same of errors that say the same: `Put "URL": read tcp A->B: connection reset by peer`."""
    return error.rpartition(": ")[2]


class Loads:
    """Loads that are being sent. Made by `putting`."""

    def __init__(self, running: Sequence[tuple[subprocess.Popen[bytes], Path]], deadline: float) -> None:
        self._running = running
        self._deadline = deadline

    def done(self) -> bool:
        """Tell whether all have ended. Raises HeyError when there was no time left."""
        if all(process.poll() is not None for process, _ in self._running):
            return True
        if time.monotonic() > self._deadline:
            raise HeyError("hey did not end in time")
        return False

    def results(self) -> list[Result]:
        """Return what came of them, in the order of the targets, when all have ended. Raises HeyError."""
        for process, output in self._running:
            if process.wait() != 0:
                raise HeyError(f"hey ended with status {process.returncode}: {processes.tail(output, lines=1)[:200]}")
            if output.stat().st_size > OUTPUT_BYTES:
                raise HeyError(f"hey printed more than {OUTPUT_BYTES} bytes")
        return [parse(output.read_text(errors="replace")) for _, output in self._running]


@contextmanager
def putting(targets: Sequence[Target], *, body: bytes, limit: float) -> Iterator[Loads]:
    """Send PUTs to all targets at once, one process each, for the block; what still runs after it is killed.

    After `limit` seconds `Loads.done` gives up. Raises golang.BuildError.
    """
    hey = program()
    with TemporaryDirectory(prefix="leader-elector-hey-") as temporary:
        sent = Path(temporary, "body")
        sent.write_bytes(body)
        running: list[tuple[subprocess.Popen[bytes], Path]] = []
        try:
            for number, target in enumerate(targets):
                output = Path(temporary, f"{number}.out")
                running.append((processes.start([hey, *command(target, sent)], log=output), output))
            yield Loads(running, time.monotonic() + limit)
        finally:
            for process, _ in running:
                process.kill()
                process.wait()


if __name__ == "__main__":
    sys.exit(golang.command(program))
