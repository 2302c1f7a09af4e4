"""What docs/using-from.md tells programs to do, as it stands there, beside a sidecar with its ups and downs.

The blocks are taken out of the page. A few lines of the same language call them: they ask all the time whether the pod
leads, follow the stream, and write down each answer, which the test reads.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.testbed import golang, processes
from tests.testbed.ports import free_port
from tests.testbed.sidecar import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tests.testbed.embedded import EmbeddedForTests
    from tests.testbed.sidecar import Sidecar, Sidecars

PAGE = (Path(__file__).parents[2] / "docs/using-from.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
"""Every block of the page, with the name of its language."""

PORT = "4040"
ME = "web-0"
TTL = "60s"
"""So long that nothing happens by itself: no stopped leader loses its lease, and nobody who released it returns."""

TIMEOUT = 300
"""Seconds of a test: with nothing cached, Go compiles its HTTP first."""

CALLERS = {
    "sh": """
. ./1.sh; . ./2.sh
say() { kill -0 $$ 2>/dev/null || exit; echo "follow $1"; }
follow say &
while :; do if leads; then echo "ask true"; else echo "ask false"; fi; sleep 0.1; done
""",
    "python": """
import importlib, sys, threading, time
asking, following = importlib.import_module("1"), importlib.import_module("2")
def say(how, leading):
    sys.stdout.write(f"{how} {leading}\\n".lower())
    sys.stdout.flush()
def run():
    for leading in following.follow():
        say("follow", leading)
threading.Thread(target=run, daemon=True).start()
while True:
    say("ask", asking.leads())
    time.sleep(0.1)
""",
    "go": """
package main

import (
	"context"
	"fmt"
	"time"

	"caller/elector"
)

func main() {
	go elector.Follow(context.Background(), func(leading bool) { fmt.Printf("follow %t\\n", leading) })
	for {
		fmt.Printf("ask %t\\n", elector.Leads())
		time.Sleep(100 * time.Millisecond)
	}
}
""",
    "java": """
final class Caller {
  public static void main(String[] arguments) throws InterruptedException {
    var following = new Thread(() -> Following.follow(leading -> System.out.println("follow " + leading)));
    following.setDaemon(true);
    following.start();
    while (true) {
      System.out.println("ask " + Asking.leads());
      Thread.sleep(100);
    }
  }
}
""",
    "js": """
import { leads } from "./1.mjs";
import { follow } from "./2.mjs";
(async () => { for await (const leading of follow()) console.log(`follow ${leading}`); })();
for (;;) {
  console.log(`ask ${await leads()}`);
  await new Promise((resolve) => setTimeout(resolve, 100));
}
""",
}
"""What calls the blocks of a language."""

NEEDED = {"sh": ("sh", "curl"), "python": (), "java": ("java", "javac"), "js": ("node",)}
"""The commands of a language. Go is another matter: the tests need it anyhow, and have it built."""

PRESENT = [language for language, commands in NEEDED.items() if all(map(shutil.which, commands))]
"""A machine has shell and Python. Of the others each that is there is tested, and none is missed."""


def blocks(language: str, port: int) -> list[str]:
    """Return what the page has in this language, for a sidecar on this port."""
    return [text.replace(PORT, str(port)) for name, text in BLOCKS if name == language]


def environment() -> dict[str, str]:
    """Return the environment of a container with a proxy, which does not answer, and no exceptions from it."""
    proxy = "http://127.0.0.1:1"
    return {**os.environ, "http_proxy": proxy, "HTTP_PROXY": proxy, "no_proxy": "", "NO_PROXY": ""}


def run(command: Sequence[str | Path], folder: Path, *, env: dict[str, str] | None = None, status: int = 0) -> str:
    """Run a command to its end, which has to have this status, and return what it prints."""
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == status, done.stderr
    return done.stdout


# -- A program of the page's blocks ------------------------------------------------------------------------------------


def prepare(language: str, port: int, folder: Path) -> list[str | Path]:
    """Write the blocks of a language and their caller into a folder, compile them, and return the program's command."""
    ask, follow, *_ = blocks(language, port)
    caller = CALLERS[language]
    match language:
        case "sh":
            write(folder, {"1.sh": ask, "2.sh": follow, "caller.sh": caller})
            return ["sh", "caller.sh"]
        case "python":
            write(folder, {"1.py": ask, "2.py": follow, "caller.py": caller})
            return [sys.executable, "caller.py"]
        case "js":
            write(folder, {"1.mjs": ask, "2.mjs": follow, "caller.mjs": caller})
            return ["node", "caller.mjs"]
        case "java":
            write(folder, {"Asking.java": ask, "Following.java": follow, "Caller.java": caller})
            run(["javac", "-Werror", "-Xlint:all", "Asking.java", "Following.java", "Caller.java"], folder)
            return ["java", "-XX:TieredStopAtLevel=1", "Caller"]
    write(folder, {"go.mod": "module caller\n\ngo 1.21\n", "caller.go": caller})
    write(folder / "elector", {"ask.go": ask, "follow.go": follow})
    golang.ensure([golang.Program(name="caller", package=".")], module=folder, folder=folder / "bin", announce="...")
    return [folder / "bin" / "caller"]


def write(folder: Path, files: dict[str, str]) -> None:
    """Write files into a folder, which is made."""
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text)


class Program:
    """A running program of the page's blocks. What it says goes to a log, a line each."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._since = 0

    def said(self) -> list[str]:
        """Return what was said since the last call of `forget`: `ask true`, `follow false`."""
        lines = self._log.read_text().split("\n")[:-1]
        return lines[self._since :]

    def forget(self) -> None:
        """Leave out what was said so far, and an answer that was under way."""
        self._since = self._log.read_text().count("\n") + 1

    async def says(self, *answers: str) -> None:
        """Wait until each of these was the last of its kind."""

        def last() -> set[str]:
            return set({line.partition(" ")[0]: line for line in self.said()}.values())

        await until(lambda: last() >= {*answers}, f"it says {answers}; it said {self.said()[-9:]}", seconds=40)

    async def keeps_saying(self, answer: str) -> None:
        """Wait for a few answers more, which have to be this one."""
        self.forget()
        kind = answer.partition(" ")[0]

        def answers() -> list[str]:
            return [line for line in self.said() if line.startswith(kind)]

        await until(lambda: len(answers()) > 2, f"{kind} is answered")
        assert set(answers()) == {answer}


@contextmanager
def running(command: list[str | Path], folder: Path) -> Iterator[Program]:
    """Run a program, and end it with all that it has started."""
    log = folder / "said"
    log.touch()
    process = processes.start(command, log=log, cwd=folder, env=environment())
    try:
        yield Program(log)
    finally:
        # It leads a group, in which the shell's curl is.
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


# -- The ups and downs -------------------------------------------------------------------------------------------------


async def play(program: Program, start: Callable[..., Sidecar], port: int, folder: Path) -> None:
    """Let a sidecar follow, lead, stop, go on, die, come back, and release: the program has to say what is so."""
    # Nobody is there to ask.
    await program.says("ask false", "follow false")

    other = start(identity="web-1")
    await other.leading()
    mine = start(identity=ME, port=port)
    await mine.naming("web-1")
    await program.keeps_saying("ask false")
    assert "follow true" not in program.said()

    assert await other.terminate() == 0
    await program.says("ask true", "follow true")

    # It accepts connections as before, and says nothing.
    mine.signal(signal.SIGSTOP)
    await program.says("ask false")
    mine.signal(signal.SIGCONT)
    await program.says("ask true")

    await mine.kill()
    await program.says("ask false", "follow false")
    await program.keeps_saying("ask false")
    mine = start(identity=ME, port=port)
    await program.says("ask true", "follow true")

    # Nobody leads: the other one has ended, and this one stays out.
    (release,) = blocks("sh", port)[2:]
    told = await asyncio.to_thread(run, ["sh", "-c", f"{release}\nrelease"], folder, env=environment())
    assert json.loads(told) == {"released": True}
    await mine.naming("")
    await program.says("ask false", "follow false")
    await program.keeps_saying("ask false")


@pytest.fixture
def start(embedded: EmbeddedForTests, sidecars: Sidecars) -> Callable[..., Sidecar]:
    """Start candidates of one election, that are the same pod when they are started again."""

    def started(*, identity: str, port: int | None = None) -> Sidecar:
        return sidecars.start(
            election="store",
            identity=identity,
            port=port,
            ttl=TTL,
            kubeconfig=embedded.admin_kubeconfig,
            http="localhost:{port}",
            env={"POD_UID": f"uid-of-{identity}"},
        )

    return started


@pytest.mark.timeout(TIMEOUT)
@pytest.mark.parametrize("language", PRESENT)
async def test_a_program_knows_whether_it_leads(language: str, start: Callable[..., Sidecar], tmp_path: Path) -> None:
    """Whoever asks or follows is right about a sidecar that is not there, follows, leads, stops, is killed, releases.

    Shell and Python are never missing.
    """
    assert {"sh", "python"} <= {*PRESENT}
    port = free_port()
    command = await asyncio.to_thread(prepare, language, port, tmp_path / "program")
    with running(command, tmp_path / "program") as program:
        await play(program, start, port, tmp_path)


@pytest.mark.timeout(TIMEOUT)
@pytest.mark.usefixtures("clientgo_peer")  # and so there is a toolchain, which was fetched before any test began
async def test_a_program_in_go_knows_whether_it_leads(start: Callable[..., Sidecar], tmp_path: Path) -> None:
    """The same for Go."""
    port = free_port()
    command = await asyncio.to_thread(prepare, "go", port, tmp_path / "program")
    with running(command, tmp_path / "program") as program:
        await play(program, start, port, tmp_path)


async def test_what_is_typed_is_answered_as_the_page_says(start: Callable[..., Sidecar], tmp_path: Path) -> None:
    """The commands at the top of the page print what stands below them; the stream goes on, with an id of its own."""
    sidecar = start(identity=ME)
    await sidecar.leading()
    (block,) = blocks("console", sidecar.port)
    typed = [part.partition("\n") for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]]
    (name, _, its_answer), (leader, _, its_status), (events, _, its_events) = typed

    assert await asyncio.to_thread(run, ["sh", "-c", name], tmp_path) == its_answer.rstrip("\n")
    assert await asyncio.to_thread(run, ["sh", "-c", leader], tmp_path) == its_status
    # 28: curl ran into its time-out.
    told = await asyncio.to_thread(run, ["sh", "-c", f"{events} --max-time 1"], tmp_path, status=28)
    its_own = r'(?<=^id: )\w+-\d+$|(?<="fencing_token":)\d+'
    assert re.sub(its_own, "", told, flags=re.MULTILINE) == re.sub(its_own, "", its_events, flags=re.MULTILINE)


def test_every_block_is_run() -> None:
    """Two blocks of each language, of the shell one more for the end, and the commands at the top: nothing untried."""
    counts = {language: [name for name, _ in BLOCKS].count(language) for language, _ in BLOCKS}
    assert counts == {"console": 1, **dict.fromkeys(CALLERS, 2), "sh": 3}
