"""What is in the image, and what is not."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pytest

from tests.testbed import image, standins
from tests.testbed.containers import mark

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.image.conftest import Candidates
    from tests.testbed.engine import Engine

PYTHON = "/opt/leader-elector/bin/python"
MIB = 2**20

SITE_PACKAGES = "import sysconfig; print(sysconfig.get_path('purelib'))"

# Run by the image's own user, who could write there.
UNSAFE = """
import os, stat
for folder, folders, files in os.walk("/"):
    if folder == "/":
        folders[:] = set(folders) - {"proc", "sys", "dev"}
    for name in [*folders, *files]:
        path = os.path.join(folder, name)
        mode = os.lstat(path)
        if stat.S_ISLNK(mode.st_mode):
            continue
        if 65532 in (mode.st_uid, mode.st_gid):
            print(path, "belongs to the user")
        elif os.access(path, os.W_OK) and not mode.st_mode & stat.S_ISVTX:
            print(path, "can be written")
"""

BYTE_CODE = """
import importlib.util, pathlib, sysconfig
for file in pathlib.Path(sysconfig.get_path("purelib")).rglob("*.py"):
    if not pathlib.Path(importlib.util.cache_from_source(str(file))).exists():
        print(file)
"""

# Every package, and every compiled module, which is where a wheel of another Python would show.
IMPORTS = """
import importlib, importlib.machinery, pathlib, sysconfig
root = pathlib.Path(sysconfig.get_path("purelib"))
files = [*root.glob("*.py"), *root.glob("*/__init__.py"), *(root / "sidecar").glob("*.py")]
files += [file for suffix in importlib.machinery.EXTENSION_SUFFIXES for file in root.rglob("*" + suffix)]
for file in sorted(files):
    name = ".".join((*file.parent.relative_to(root).parts, file.name.partition(".")[0])).removesuffix(".__init__")
    # The last is for PyYAML's parser in C, which is left out.
    if name not in ("sidecar.__main__", "sidecar.ctl", "_yaml"):
        importlib.import_module(name)
        print(name)
"""

ABSENT = """
import importlib.util
for name in ("pip", "setuptools", "wheel", "hatchling", "rich", "matplotlib", "numpy", "pytest"):
    if importlib.util.find_spec(name):
        print(name)
"""


@pytest.fixture(scope="module")
def inside(engine: Engine, image_under_test: str) -> Callable[[str], list[str]]:
    """Run a Python program in a container of the image, as its user; return the lines that it prints."""
    ((name, value),) = mark().items()

    def run(program: str) -> list[str]:
        label = f"--label={name}={value}"
        start = ("run", "--rm", label, "--network=none", f"--entrypoint={PYTHON}", image_under_test)
        # As the program itself runs.
        return engine.run(*start, "-X", "lazy_imports=all", "-c", program).splitlines()

    return run


@pytest.fixture(scope="module")
def inspected(engine: Engine, image_under_test: str) -> dict[str, Any]:
    """Return what `docker image inspect` says."""
    found: dict[str, Any] = json.loads(engine.run("image", "inspect", image_under_test))[0]
    return found


def test_how_a_container_starts(inspected: dict[str, Any]) -> None:
    """A numeric user that is not root, which Kubernetes can verify; one port; no flags that a user did not give."""
    config = inspected["Config"]

    assert config["User"] == "65532:65532"
    assert not config.get("Cmd")
    assert set(config["ExposedPorts"]) == {"4040/tcp"}
    assert not config.get("Volumes")


def test_labels(inspected: dict[str, Any]) -> None:
    """The labels that OCI names say what this is; an image that is built here is of the tree's version."""
    labels = inspected["Config"]["Labels"]

    for name in ("title", "description", "licenses", "version"):
        assert labels[f"org.opencontainers.image.{name}"], name
    if image.ENVIRONMENT_IMAGE not in os.environ:
        assert labels["org.opencontainers.image.version"] == image.name().partition(":")[2]


def test_what_the_image_adds_to_its_base(
    engine: Engine, inspected: dict[str, Any], measured: Callable[[str, float], None]
) -> None:
    """On top of the published Python image it is 40 MiB at most."""
    standins.ensure(engine, standins.PYTHON)
    base = json.loads(engine.run("image", "inspect", standins.PYTHON))[0]
    layers = base["RootFS"]["Layers"]
    if inspected["RootFS"]["Layers"][: len(layers)] != layers and image.ENVIRONMENT_IMAGE in os.environ:
        pytest.skip(f"{os.environ[image.ENVIRONMENT_IMAGE]} stands on another {standins.PYTHON}")

    assert inspected["RootFS"]["Layers"][: len(layers)] == layers
    added = inspected["Size"] - base["Size"]
    measured("mib_on_top_of_the_base", added / MIB)
    assert added <= 40 * MIB


def test_the_user_owns_nothing(inside: Callable[[str], list[str]]) -> None:
    """No file belongs to the user of the image, and none can be written by it; /tmp and its like are the base's."""
    assert inside(UNSAFE) == []


def test_what_is_not_in_it(inside: Callable[[str], list[str]]) -> None:
    """The program's Python finds no installer and none of the lab's libraries."""
    assert inside(ABSENT) == []


def test_everything_is_compiled(inside: Callable[[str], list[str]]) -> None:
    """Every module has its byte code, which nobody could write at run time."""
    assert inside(BYTE_CODE) == []


def test_everything_can_be_imported(inside: Callable[[str], list[str]]) -> None:
    """Every package, every compiled module and every module of the sidecar loads on the image's Python."""
    imported = inside(IMPORTS)

    assert {"aiohttp", "aiohttp._http_parser", "kubernetes_asyncio", "sidecar.program"} <= set(imported)


async def test_nothing_of_the_lab_is_needed(candidates: Candidates, inside: Callable[[str], list[str]]) -> None:
    """With an empty folder in place of the lab the sidecar elects."""
    (folder,) = inside(SITE_PACKAGES)
    container = candidates.start("web-0", tmpfs=[f"{folder}/sidecar/lab"])

    await container.leading()
