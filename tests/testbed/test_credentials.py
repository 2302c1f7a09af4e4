"""Where containers find an API server of this machine."""

from __future__ import annotations

import pytest

from tests.testbed.credentials import reachable


@pytest.mark.parametrize(
    ("url", "seen"),
    [
        ("https://127.0.0.1:6443", "https://172.18.0.1:6443"),
        ("https://localhost:6443", "https://172.18.0.1:6443"),
        ("https://api.example:6443", "https://api.example:6443"),
        ("https://192.0.2.1:6443/cluster", "https://192.0.2.1:6443/cluster"),
    ],
)
def test_a_server_on_loopback_is_reached_at_the_gateway(url: str, seen: str) -> None:
    """Loopback is the container's own; every other address is the same from there."""
    assert reachable(url, "172.18.0.1") == seen
