"""Which image the tests take, and how it is built."""

from __future__ import annotations

import re

import pytest

from tests.testbed import image, standins
from tests.testbed.fakeengine import FakeEngine

GIVEN = "registry.example/leader-elector:9"


def test_a_given_image_is_not_built(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the environment names is taken as it is where the engine has it, and pulled where it has not."""
    monkeypatch.setenv(image.ENVIRONMENT_IMAGE, GIVEN)
    has, pulls = FakeEngine(images={GIVEN: {}}), FakeEngine(registry=True)

    assert image.ensure(has) == image.ensure(pulls) == GIVEN
    assert (has.told, pulls.told) == ([], [f"pull {GIVEN}"])


def test_a_given_image_that_cannot_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the variable and the image; nothing is built in its place."""
    monkeypatch.setenv(image.ENVIRONMENT_IMAGE, GIVEN)

    with pytest.raises(image.ImageError, match=f"{image.ENVIRONMENT_IMAGE}={GIVEN}: .* cannot be pulled"):
        image.ensure(FakeEngine())


def test_the_tree_is_built(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a given image, `make image` builds the one of this tree, whose version is the project's."""
    monkeypatch.delenv(image.ENVIRONMENT_IMAGE, raising=False)
    engine = FakeEngine(images={standins.PYTHON: {}})

    name = image.ensure(engine)
    (told,) = engine.told
    assert told.startswith("make ")
    assert f" image IMAGE={name} " in told
    assert re.fullmatch(r"leader-elector:\d+\.\d+\.\d+", name)
    assert capsys.readouterr().err == f"building the image {name} ...\n"
