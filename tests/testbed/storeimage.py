"""The image of the example store: the one that `LEADER_ELECTOR_TEST_STORE_IMAGE` names, else built from k8s/store.

`python -m tests.testbed.storeimage` builds it on the tests' engine and prints its name.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from tests.testbed import engine as engines
from tests.testbed import golang, image, standins
from tests.testbed.image import ROOT, ImageError
from tests.testbed.progress import progress

if TYPE_CHECKING:
    from tests.testbed.engine import Engine

ENVIRONMENT_IMAGE = "LEADER_ELECTOR_TEST_STORE_IMAGE"
CONTEXT = ROOT / "k8s" / "store"


def name() -> str:
    """Return the name that the image of this tree gets, `leader-elector-store:` and the version."""
    return image.name().replace(":", "-store:")


def ensure(engine: Engine) -> str:
    """See to it that an engine has the image; return its name. Progress goes to stderr. Raises as `image.ensure`."""
    given = os.environ.get(ENVIRONMENT_IMAGE)
    if not given:
        return build(engine)
    if engine.image_labels(given) is None and not engine.pull(given, seconds=image.PULL_SECONDS):
        raise ImageError(f"{ENVIRONMENT_IMAGE}={given}: {engine.host} does not have it, and it cannot be pulled")
    return given


def build(engine: Engine) -> str:
    """Build the image from this tree, always; what has not changed since the last time comes from the engine's cache.

    Raises as `ensure`.
    """
    standins.ensure(engine, standins.PYTHON)
    progress(f"building the image {name()} ...")
    engine.run(*("build", "--quiet", "--network=host", f"--tag={name()}", str(CONTEXT)), seconds=engines.BUILD_SECONDS)
    return name()


def main() -> int:
    """Build the image and print its name; status 1 and one line on stderr when that is impossible."""
    try:
        with engines.ensure() as engine:
            sys.stdout.write(f"{build(engine)}\n")
    except (ImageError, standins.StandInError, engines.EngineError, golang.BuildError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
