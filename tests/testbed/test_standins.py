"""Where images come from: the engine, a registry, the cache, or a recipe, in that order."""

from __future__ import annotations

import json
import tarfile
from typing import TYPE_CHECKING

import pytest

from tests.testbed import dockerarchive, standins
from tests.testbed.fakeengine import FakeEngine
from tests.testbed.standins import LABEL, LABEL_RECIPE, Recipe, StandInError

if TYPE_CHECKING:
    from pathlib import Path

NAME = "registry.example/thing:1.0"

DEB822 = """\
Types: deb
# http://snapshot.example/archive/debian/20250520T000000Z
URIs: https://mirror.example/debian
Suites: bookworm bookworm-updates

Types: deb
URIs: https://mirror.example/debian-security
"""

ONE_LINE = """\
# deb http://old.example/debian bookworm main
deb https://other.example/apt stable main
deb [signed-by=/usr/share/keyrings/x.gpg] http://mirror.example/debian/ bookworm main
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
    """A stand-in is made and loaded; the next engine gets the archive from the cache, without asking a registry."""
    first, second = FakeEngine(), FakeEngine(registry=True)

    standins.ensure(first, NAME)
    archive = standins.archive(NAME)
    assert first.told == [f"pull {NAME}", f"load --input {archive}"]
    assert capsys.readouterr().err == f"making a stand-in for the image {NAME} ...\n"
    standins.ensure(second, NAME)
    assert second.told == [f"load --input {archive}"]
    assert capsys.readouterr().err == ""


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

    assert standins._mirror(tmp_path).removeprefix("https").removeprefix("http") == "://mirror.example/debian"


def test_a_machine_without_a_mirror(tmp_path: Path) -> None:
    """Elsewhere it is left to debootstrap."""
    assert standins._mirror(tmp_path) == ""
