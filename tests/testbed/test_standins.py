"""Where images come from: the engine, a registry, the cache, or a recipe, in that order."""

from __future__ import annotations

import json
import os
import shutil
import tarfile
import time
from typing import TYPE_CHECKING

import pytest

from tests.testbed import dockerarchive, standins
from tests.testbed.fakeengine import FakeEngine
from tests.testbed.standins import LABEL, LABEL_RECIPE, Recipe, StandInError

if TYPE_CHECKING:
    from pathlib import Path

NAME = "registry.example/thing:1.0"

MIRROR = "//mirror.example/debian"

DEB822 = f"""\
Types: deb
# http:{MIRROR}-snapshot/debian/20250520T000000Z
URIs: https:{MIRROR}
Suites: bookworm bookworm-updates

Types: deb
URIs: https:{MIRROR}-security
"""

ONE_LINE = f"""\
# deb http:{MIRROR}-old/debian bookworm main
deb https://other.example/apt stable main
deb [signed-by=/usr/share/keyrings/x.gpg] http:{MIRROR}/ bookworm main
"""


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    """The only recipe there is, with an empty cache."""

    def fill(root: Path) -> None:
        (root / "bin").mkdir()
        (root / "bin/thing").write_text("thing\n")
        (root / "usr/share/doc/thing").mkdir(parents=True)

    made = Recipe(fill=fill, config={"User": "65535:65535", "Cmd": ["/bin/thing"]})
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(standins, "RECIPES", {NAME: made})
    (tmp_path / "leader-elector" / "images").mkdir(parents=True)
    return made


@pytest.mark.usefixtures("recipe")
def test_an_image_that_is_there() -> None:
    """Nothing is done about an image that the engine has, wherever it is from."""
    engine = FakeEngine(images={NAME: {"maintainer": "somebody"}})

    standins.ensure(engine, NAME)
    assert engine.told == []


@pytest.mark.usefixtures("recipe")
def test_an_image_that_can_be_pulled() -> None:
    """The published image is taken where it can be had, and no stand-in is made."""
    engine = FakeEngine(registry=True)

    standins.ensure(engine, NAME)
    assert engine.told == [f"pull {NAME}"]


@pytest.mark.usefixtures("recipe")
def test_an_image_that_cannot_be_pulled(capsys: pytest.CaptureFixture[str]) -> None:
    """A stand-in is made and loaded; the next engine gets it from the cache, and asks a registry again after a day."""
    first, second, third = FakeEngine(), FakeEngine(registry=True), FakeEngine(registry=True)

    standins.ensure(first, NAME)
    archive = standins.archive(NAME)
    assert first.told == [f"pull {NAME}", f"load --input {archive}"]
    assert capsys.readouterr().err == f"making a stand-in for the image {NAME} ...\n"
    standins.ensure(second, NAME)
    assert second.told == [f"load --input {archive}"]
    assert capsys.readouterr().err == ""

    long_ago = time.time() - standins.UNPULLED_SECONDS - 1
    os.utime(standins.unpulled_path(NAME), (long_ago, long_ago))
    standins.ensure(third, NAME)
    assert third.told == [f"pull {NAME}"]


@pytest.fixture
def stand_in(recipe: Recipe) -> dict[str, str]:
    """Return the labels of a stand-in of this recipe."""
    return {LABEL: "never publish", LABEL_RECIPE: recipe.digest()}


def test_a_stand_in_leaves_an_engine_that_goes_on(stand_in: dict[str, str]) -> None:
    """The last of those that used it removes it, whoever loaded it; a private engine keeps it."""
    private, first, second = FakeEngine(), FakeEngine(private=False), FakeEngine(private=False)
    for engine in (private, first):
        standins.ensure(engine, NAME)
        engine.images[NAME] = second.images[NAME] = stand_in
    standins.ensure(second, NAME)

    for engine in (private, first, second):
        engine.told.clear()
        engine.close()
    assert (private.told, first.told, second.told) == ([], [], [f"image rm {NAME}"])


@pytest.mark.parametrize("published", [True, False])
def test_an_image_that_nobody_here_loaded_stays(stand_in: dict[str, str], *, published: bool) -> None:
    """What the user has is kept: the published image, also in the place of a stand-in, and a stand-in of their own."""
    engine = FakeEngine(private=False, images={} if published else {NAME: stand_in})
    standins.ensure(engine, NAME)
    engine.images[NAME] = {} if published else stand_in
    engine.told.clear()

    engine.close()
    assert engine.told == []


def test_packages_are_never_taken_unchecked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without Debian's keys nothing is installed: the error names the package that has them."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(shutil, "which", lambda name, path: f"{path}/{name}")
    monkeypatch.setattr(standins, "KEYRING", tmp_path / "none.gpg")

    with pytest.raises(StandInError, match="apt-get install debian-archive-keyring"):
        standins._debian(tmp_path, "curl")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may make namespaces, and Debian systems in them")
def test_what_makes_a_stand_in_ends_in_time(tmp_path: Path) -> None:
    """A command that takes too long is killed with all that it started, and the error names it."""
    end = tmp_path / "end"
    os.mkfifo(end)
    # In the background, as whatever debootstrap runs: it holds the fifo open for writing while it lives.
    script = 'exec 3<>"$0"; sleep 600 & wait'

    with pytest.raises(StandInError, match=r"^sh -c exec 3.* did not end within 1 s$"):
        standins._output("sh", "-c", script, str(end), seconds=1, within=standins.ALONE)
    deadline = time.monotonic() + 20
    while _is_written_to(end):
        assert time.monotonic() < deadline, "what it started has ended"
        time.sleep(0.02)


def _is_written_to(fifo: Path) -> bool:
    """Tell whether a process has the fifo open for writing."""
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    try:
        os.read(reader, 1)
    except BlockingIOError:
        return True
    finally:
        os.close(reader)
    return False


def test_a_stand_in_of_an_old_recipe(recipe: Recipe) -> None:
    """A stand-in that the engine has is replaced when the recipe is another one by now, and kept when it is not."""
    current = FakeEngine(images={NAME: {LABEL: "never publish", LABEL_RECIPE: recipe.digest()}})
    old = FakeEngine(images={NAME: {LABEL: "never publish", LABEL_RECIPE: "older"}})

    for engine in (current, old):
        standins.ensure(engine, NAME)
    assert current.told == []
    assert old.told[-1] == f"load --input {standins.archive(NAME)}"


@pytest.mark.usefixtures("recipe")
def test_an_image_without_a_recipe() -> None:
    """It can only be pulled; where it cannot, the error names it."""
    with pytest.raises(StandInError, match="other:1 cannot be pulled, and nothing here stands in for it"):
        standins.ensure(FakeEngine(), "other:1")
    with pytest.raises(StandInError, match=f"nothing here stands in for other:1; known are {NAME}"):
        standins.archive("other:1")


def test_recipes_with_programs_depend_on_their_sources(recipe: Recipe) -> None:
    """Another version of what is built here makes another archive."""
    built = Recipe(fill=recipe.fill, config=recipe.config, built=True)

    assert recipe.digest() != built.digest()


@pytest.mark.usefixtures("recipe")
def test_a_stand_in_says_what_it_is() -> None:
    """The archive is what `docker load` reads: the name, the configuration, the label that warns, the files."""
    with tarfile.open(standins.archive(NAME)) as archive:

        def content(name: str) -> bytes:
            file = archive.extractfile(name)
            assert file is not None
            return file.read()

        (manifest,) = json.loads(content("manifest.json"))
        image = json.loads(content(manifest["Config"]))
        (layer,) = manifest["Layers"]
        with tarfile.open(fileobj=archive.extractfile(layer)) as files:
            assert files.getnames() == ["bin", "bin/thing", "usr", "usr/share", "usr/share/doc"]
    assert manifest["RepoTags"] == [NAME]
    assert image["config"]["Labels"][LABEL] == "never publish"
    assert image["config"]["User"] == "65535:65535"
    assert image["architecture"] in dockerarchive.ARCHITECTURES.values()
    assert image["rootfs"]["diff_ids"] == [f"sha256:{layer.partition('/')[0]}"]


@pytest.mark.parametrize(("name", "content"), [("debian.sources", DEB822), ("debian.list", ONE_LINE)])
def test_the_mirror_is_that_of_the_machine(tmp_path: Path, name: str, content: str) -> None:
    """Debian's packages come from where the machine has its own, in either form of apt's sources."""
    folder = tmp_path / "sources.list.d"
    folder.mkdir()
    (folder / "another.list").write_text("deb https://packages.example/apt cloud main\n")
    (folder / name).write_text(content)

    assert standins._mirror(tmp_path).removeprefix("https").removeprefix("http") == f":{MIRROR}"


def test_a_machine_without_a_mirror(tmp_path: Path) -> None:
    """Elsewhere it is left to debootstrap."""
    assert standins._mirror(tmp_path) == ""
