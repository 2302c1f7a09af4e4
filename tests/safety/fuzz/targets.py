"""What is fuzzed: one module a subject, each with a function of bytes that fails where a promise is broken."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

NAMES = (
    "record",
    "claim",
    "registration",
    "lock",
    "watch",
    "answer",
    "census",
    "settings",
    "duration",
    "endpoint",
    "election",
)

CORPUS = Path(__file__).with_name("corpus")
"""Inputs that are kept, in a folder for each target: what was found once, and what leads a fuzzer far."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One subject. `check` raises anything at all when its promise is broken; `tokens` are what its inputs consist of.

    `about` says what is promised, in a line.
    """

    name: str
    about: str
    check: Callable[[bytes], None]
    tokens: tuple[bytes, ...]

    @property
    def corpus(self) -> Path:
        """The folder of its kept inputs."""
        return CORPUS / self.name

    def kept(self) -> list[Path]:
        """Return the kept inputs."""
        return sorted(self.corpus.iterdir()) if self.corpus.is_dir() else []


def load(name: str) -> Target:
    """Return the target of this name. What it fuzzes is imported here and no earlier: a fuzzer has to see that."""
    module = import_module(f"tests.safety.fuzz.fuzz_{name}")
    summary = (module.__doc__ or "").partition("\n")[0]
    tokens = tuple(token.encode("utf-8", "surrogateescape") for token in module.TOKENS)
    return Target(name=name, about=summary, check=module.check, tokens=tokens)
