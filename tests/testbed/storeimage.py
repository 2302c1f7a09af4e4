"""The image of the example store: the one that `LEADER_ELECTOR_TEST_STORE_IMAGE` names, else built from k8s/store.

`python -m tests.testbed.storeimage` builds it on the tests' engine and prints its name.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from tests.testbed import engine as engines
from tests.testbed import image, standins
from tests.testbed.image import ROOT
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
    return image.named(engine, ENVIRONMENT_IMAGE) or build(engine)


def build(engine: Engine) -> str:
    """Build the image from this tree, always; what has not changed since the last time comes from the engine's cache.

    Raises as `ensure`.
    """
    standins.ensure(engine, standins.PYTHON)
    progress(f"building the image {name()} ...")
    engine.run(*("build", "--quiet", "--network=host", f"--tag={name()}", str(CONTEXT)), seconds=engines.BUILD_SECONDS)
    return name()


if __name__ == "__main__":
    sys.exit(image.command(build))
