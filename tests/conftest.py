"""What the tests share: the API servers, the client-go peer, and the rule that no test of the real server goes missing.

Whoever asks for a real server or for the peer is marked `real`. Where such tests are selected, what they need is found
or built before the first test runs, outside of any test's time-out. When it cannot be had, those tests fail.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from tests.testbed import binaries, golang, peers
from tests.testbed.apiserver import ENVIRONMENT_KUBECONFIG, RealAPIServer, StartError, open_api_server
from tests.testbed.layers import REAL_PROPERTY
from tests.testbed.ports import free_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from tests.testbed.embedded import APIServer

REAL_FIXTURES = {"real_api_server", "clientgo_peer"}
EMBEDDED_FIXTURES = {"api_server", "embedded"}
PROBLEMS = pytest.StashKey[dict[str, str]]()
"""Why a program could not be had, by the fixture that needs it."""


def pytest_configure(config: pytest.Config) -> None:
    """Declare the markers, and see to it that programs that the tests start can be interrupted."""
    # In the background of a shell script SIGINT is ignored, under nohup SIGHUP; all of them would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    config.addinivalue_line(
        "markers", "real: needs a real API server or a program built with Go; set by what a test asks for"
    )
    config.addinivalue_line(
        "markers", "election: processes that elect a leader, on an embedded API server; set by what a test asks for"
    )


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs a real server, before `-m` selects by the mark, and say so in the report."""
    system = Path(__file__).with_name("system")
    for item in items:
        if isinstance(item, pytest.Function) and _is_real(item):
            item.add_marker(pytest.mark.real)
            item.user_properties.append((REAL_PROPERTY, True))
        elif system in item.path.parents and not EMBEDDED_FIXTURES.isdisjoint(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.election)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Build what the selected tests need, before the first of them has a time-out running."""
    config = session.config
    selected = [item for item in session.items if isinstance(item, pytest.Function) and _is_real(item)]
    if config.option.collectonly or not selected:
        return
    problems = config.stash[PROBLEMS] = {}
    capture = config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        if not os.environ.get(ENVIRONMENT_KUBECONFIG):
            try:
                binaries.ensure()
            except golang.BuildError as error:
                problems["real_api_server"] = str(error)
        if any("clientgo_peer" in item.fixturenames for item in selected):
            try:
                peers.clientgo()
            except golang.BuildError as error:
                problems["clientgo_peer"] = str(error)


@pytest.fixture(scope="session")
def _real_api_server_of_the_session(
    pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RealAPIServer]:
    """Serve a real API server; it fails where none can be had."""
    if problem := pytestconfig.stash.get(PROBLEMS, {}).get("real_api_server"):
        pytest.fail(f"no real API server: {problem}", pytrace=False)
    try:
        server = open_api_server(tmp_path_factory.mktemp("real-api-server"))
    except StartError as error:
        pytest.fail(f"no real API server: {error}", pytrace=False)
    with server:
        yield server


@pytest.fixture
def real_api_server(_real_api_server_of_the_session: RealAPIServer) -> Iterator[RealAPIServer]:
    """Serve the session's real API server; whatever a test did to it, the next one finds it in order."""
    yield _real_api_server_of_the_session
    _real_api_server_of_the_session.restore()


@pytest_asyncio.fixture(params=["embedded", "real"])
async def api_server(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[APIServer]:
    """Serve, in turn, the embedded API server (a fresh one for each test) and the real one."""
    if request.param == "real":
        yield request.getfixturevalue("real_api_server")
        return
    # Unit tests do without the embedded server, and without loading it.
    from sidecar.lab.apiserver import EmbeddedAPIServer  # noqa: PLC0415 - see above
    from tests.testbed.embedded import EmbeddedForTests  # noqa: PLC0415 - see above

    async with EmbeddedAPIServer(port=free_port()) as server:
        yield EmbeddedForTests(server, tmp_path)


@pytest.fixture(scope="session")
def clientgo_peer(pytestconfig: pytest.Config) -> Path:
    """Return the program that is client-go's leader elector on the Endpoints lock."""
    if problem := pytestconfig.stash.get(PROBLEMS, {}).get("clientgo_peer"):
        pytest.fail(f"no client-go peer: {problem}", pytrace=False)
    return peers.clientgo()


def _is_real(item: pytest.Function) -> bool:
    parameters = item.callspec.params if hasattr(item, "callspec") else {}
    return not REAL_FIXTURES.isdisjoint(item.fixturenames) or parameters.get("api_server") == "real"
