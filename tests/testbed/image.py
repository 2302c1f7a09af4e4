"""The image under test: the one that `LEADER_ELECTOR_TEST_IMAGE` names, else built from this tree.

`python -m tests.testbed.image` builds it on the tests' engine and prints its name.
"""

from __future__ import annotations

import os
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

from tests.testbed import engine as engines
from tests.testbed import golang, standins
from tests.testbed.progress import progress

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.testbed.engine import Engine

ENVIRONMENT_IMAGE = "LEADER_ELECTOR_TEST_IMAGE"
PULL_SECONDS = 300.0
ROOT = Path(__file__).parents[2]


class ImageError(Exception):
    """The image could not be had; the message is one line that says why and what to do."""


def name() -> str:
    """Return the name that the image of this tree gets, `leader-elector:` and the version."""
    return f"leader-elector:{_version()}"


def ensure(engine: Engine) -> str:
    """See to it that an engine has the image under test; return its name.

    Building takes a minute with nothing cached, and seconds afterwards; progress goes to stderr.
    Raises ImageError, standins.StandInError, golang.BuildError or engine.EngineError.
    """
    return named(engine, ENVIRONMENT_IMAGE) or build(engine)


def named(engine: Engine, variable: str) -> str:
    """Return the image that an environment variable names, pulled where the engine lacks it; empty without one.

    Raises ImageError.
    """
    given = os.environ.get(variable, "")
    if given and engine.image_labels(given) is None and not engine.pull(given, seconds=PULL_SECONDS):
        raise ImageError(f"{variable}={given}: {engine.host} does not have it, and it cannot be pulled")
    return given


def build(engine: Engine) -> str:
    """Build the image from this tree, always; what has not changed since the last time comes from the engine's cache.

    Raises as `ensure`.
    """
    standins.ensure(engine, standins.PYTHON)
    progress(f"building the image {name()} ...")
    recipe = ("make", f"--directory={ROOT}", "image", f"IMAGE={name()}", "BUILD=--quiet --network=host")
    engine.command(*recipe, seconds=engines.BUILD_SECONDS)
    return name()


def _version() -> str:
    return str(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"])


def command(build: Callable[[Engine], str]) -> int:
    """Build an image and print its name; status 1 and one line on stderr when that is impossible."""
    try:
        with engines.ensure() as engine:
            sys.stdout.write(f"{build(engine)}\n")
    except (ImageError, standins.StandInError, engines.EngineError, golang.BuildError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(command(build))
