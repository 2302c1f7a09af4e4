"""The networks that the test bed takes for itself on a machine: none that the machine uses already."""

from __future__ import annotations

import json
from ipaddress import IPv4Network
from typing import TYPE_CHECKING

from tests.testbed import commands

if TYPE_CHECKING:
    from collections.abc import Iterable

SHORTEST_PREFIX = 2
"""Of a route to somewhere. Shorter ones are routes to everywhere, which VPNs set in halves beside the default one."""


def check(networks: Iterable[IPv4Network], *, error: type[Exception]) -> None:
    """Raise `error` when the machine has a route to an address of the networks, and so uses it already."""
    for route in json.loads(commands.run("ip", "-json", "-4", "route", "show", "table", "all", error=error)):
        if route["dst"] == "default":
            continue
        taken = IPv4Network(route["dst"], strict=False)
        if taken.prefixlen < SHORTEST_PREFIX:
            continue
        for network in networks:
            if taken.overlaps(network):
                device = route.get("dev", "another link")
                raise error(f"the addresses {network} are taken on this machine: {taken} is {device}")
