"""What the cluster tests share: the cluster, the image under test on its nodes, and what the tests measured."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from tests.cluster.opening import OpeningError, opened
from tests.cluster.stage import staged

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from tests.cluster.opening import Ground
    from tests.cluster.stage import Stage

TIMEOUT = 420
"""Seconds of one test; of the first one, until the cluster is up as well. A hanging test is a failing test."""

FIGURE = "figure: "
"""What a figure's name begins with among the properties of a test."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give every test here time to wait for leases and nodes."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.timeout(TIMEOUT))


@pytest.fixture(scope="session")
def ground(provided: Callable[[str], None]) -> Iterator[Ground]:
    """Serve a cluster whose nodes have the image under test; it fails where none can be had."""
    provided("cluster")
    try:
        with opened() as found:
            yield found
    except OpeningError as error:
        pytest.fail(f"no cluster: {error}", pytrace=False)


@pytest_asyncio.fixture
async def stage(ground: Ground) -> AsyncIterator[Stage]:
    """Give the test a namespace of its own, under observation; no two sidecars there may name themselves at once."""
    async with staged(ground) as prepared:
        yield prepared


@pytest.fixture
def figure(request: pytest.FixtureRequest) -> Callable[[str, float], None]:
    """Report what was measured, in seconds: in the summary, and in the JUnit report."""

    def report(name: str, seconds: float) -> None:
        # Not by `record_property`, which warns of a form of the report that has no place for properties; ours has.
        request.node.user_properties.append((f"{FIGURE}{name}", round(seconds, 3)))

    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Tell what was measured."""
    told = [
        f"{value:8.3f} s  {name.removeprefix(FIGURE)}"
        for report in terminalreporter.getreports("passed")
        if report.when == "call"
        for name, value in report.user_properties
        if name.startswith(FIGURE)
    ]
    if told:
        terminalreporter.section("measured on the cluster")
        terminalreporter.write("\n".join([*told, ""]))
