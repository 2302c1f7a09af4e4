"""A peer that joins: not a fault, but what a rolling update brings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.safety.chaos.faults import Fault, MissedError

if TYPE_CHECKING:
    from tests.safety.chaos.fleet import Process


class Peer(Fault):
    """A client-go candidate joins the election, as the stock image is one, and ends without a release."""

    name = "client-go-joins"
    traits = frozenset({"peer"})
    leases = (1.0, 3.0)
    _process: Process | None = None

    async def _begin(self) -> None:
        fleet = self.stage.fleet
        if self.stage.clientgo is None:
            raise MissedError("the peer was not built")
        self._process = fleet.start(
            [str(self.stage.clientgo)],
            election=self.election,
            identity=f"{self.election}-peer",
            variables={"KUBECONFIG": str(fleet.kubeconfig)},
            is_peer=True,
        )
        self.target = self._process.name

    async def _end(self) -> None:
        if self._process is not None:
            await self.stage.fleet.kill(self._process)
