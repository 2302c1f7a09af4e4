"""What is prepared for a layer, and what becomes of it where that is impossible."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest

from tests.testbed import cluster, engine, image, provision, standins
from tests.testbed.fakeengine import FakeEngine

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def running(monkeypatch: pytest.MonkeyPatch) -> FakeEngine:
    """Return the engine that is found; no image is missing there."""
    found = FakeEngine(images={name: {"maintainer": "somebody"} for name in standins.RECIPES})
    monkeypatch.setenv(engine.ENVIRONMENT_HOST, "")
    monkeypatch.setattr(engine, "ensure", lambda: found)
    monkeypatch.setattr(image, "ensure", lambda _: "leader-elector:0")
    monkeypatch.setattr(cluster, "prepare", lambda: None)
    monkeypatch.setattr(cluster, "given_kubeconfig", lambda: None)
    monkeypatch.setattr(cluster, "obstacle", lambda: None)
    return found


@pytest.fixture
def at_end() -> Iterator[contextlib.ExitStack]:
    """Close what was made at the end."""
    with contextlib.ExitStack() as stack:
        yield stack


@pytest.mark.parametrize(
    ("layer", "names"),
    [("image", {standins.CURL, standins.ETCD, standins.APISERVER}), ("cluster", {standins.CURL})],
)
def test_the_images_of_a_layer(
    running: FakeEngine, at_end: contextlib.ExitStack, monkeypatch: pytest.MonkeyPatch, layer: str, names: set[str]
) -> None:
    """Every image that the layer's tests start, but for the one under test, is there before they do."""
    asked: list[str] = []
    monkeypatch.setattr(standins, "ensure", lambda _, *wanted: asked.extend(wanted))

    provision.provide(layer, at_end.callback)
    assert set(asked) == names
    assert running.told == []


@pytest.mark.usefixtures("running")
@pytest.mark.parametrize("layer", provision.LAYERS)
def test_no_engine_can_be_had(at_end: contextlib.ExitStack, monkeypatch: pytest.MonkeyPatch, layer: str) -> None:
    """Where there is none and none can be started, the layer can be left out."""

    def ensure() -> engine.Engine:
        raise engine.NoEngineError("only root")

    monkeypatch.setattr(engine, "ensure", ensure)
    with pytest.raises(provision.UnavailableError, match=r"^no Docker Engine: only root$"):
        provision.provide(layer, at_end.callback)


@pytest.mark.usefixtures("running")
def test_an_engine_that_should_answer_and_does_not(
    at_end: contextlib.ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that was named, or that did not start, is no reason to leave anything out: the tests fail."""

    def ensure() -> engine.Engine:
        raise engine.EngineError("dockerd ended as it started")

    monkeypatch.setattr(engine, "ensure", ensure)
    with pytest.raises(provision.ProvisionError, match=r"^dockerd ended as it started$"):
        provision.provide("image", at_end.callback)


@pytest.mark.usefixtures("running")
def test_a_given_cluster_needs_no_engine(at_end: contextlib.ExitStack, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its nodes have the image or pull it; nothing of this machine can be in the way."""
    monkeypatch.setattr(cluster, "given_kubeconfig", lambda: "theirs")
    monkeypatch.setattr(cluster, "obstacle", lambda: "no root")
    monkeypatch.delattr(engine, "ensure")

    provision.provide("cluster", at_end.callback)
