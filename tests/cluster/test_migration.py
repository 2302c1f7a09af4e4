"""Manifests as users of the stock image have them, and the way from one image to the other, and back."""

from __future__ import annotations

import asyncio
import shutil
import time
from typing import TYPE_CHECKING

from tests.cluster.manifests import IDLE, SIDECAR, Application, Image
from tests.cluster.stage import SOON
from tests.cluster.terms import gaps
from tests.testbed import dockerarchive

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.cluster.stage import Stage

STOCK_PEER = "leader-elector-test/clientgo:1"


def plain(namespace: str, *more: str) -> Application:
    """Return an application with a plain second container, which knows nothing but its flags."""
    name = "store"
    flags = ("--election=store-leader", f"--election-namespace={namespace}", "--http=0.0.0.0:4040", *more)
    return Application(name=name, parallel=True, script=IDLE, stock_args=flags)


async def test_stock_manifests_with_another_image(stage: Stage, figure: Callable[[str, float], None]) -> None:
    """With the stock image's flags, no variables, and leave to get, create and update, they elect, and release."""
    application = plain(stage.namespace)
    await stage.apply(application, rbac="stock")
    old = await stage.led(application)
    deleted = time.monotonic()
    await stage.kubectl("delete", "pod", old.name, "--wait=false")
    await stage.seen.led(application.election, since=deleted)
    await stage.led(application)
    led = stage.seen.terms(application.election)
    assert [term.released for term in led] == [True, False]
    assert {term.node for term in led} == {""}
    (gap,) = gaps(led)
    figure("without a leader, whose pod was deleted, with the stock image's manifests", gap)
    assert gap < SOON


async def test_from_the_stock_image_and_back(stage: Stage, clientgo_peer: Path, tmp_path: Path) -> None:
    """Pods get the new image one after the other, and the old one again, and no two of either ever lead at once."""
    root = tmp_path / "root"
    root.mkdir()
    shutil.copy(clientgo_peer, root / "server")
    archive = tmp_path / "clientgo.tar"
    dockerarchive.write(archive, name=STOCK_PEER, root=root, config={"Entrypoint": ["/server"], "User": "65532"})
    await asyncio.to_thread(stage.cluster.load, archive)

    application = plain(stage.namespace, "--ttl=6s")
    ours = stage.ground.image
    theirs = Image(name=STOCK_PEER, pull_policy="Never", curl=ours.curl)
    await stage.apply(application, rbac="stock", image=theirs)
    await stage.led(application)
    for image in (ours, theirs):
        before = stage.seen.living()
        await stage.kubectl("set", "image", "statefulset/store", f"{SIDECAR}={image.name}")
        leader = await stage.replaced(application, before)
        assert leader.container(SIDECAR)["image"].endswith(image.name)
