"""What the tests share: the API servers, programs built with Go, and the rule that no test goes missing silently.

Whoever asks for a real server or for such a program is marked `real`; the tests of the image, which need a Docker
Engine, and those on a cluster are marked by their folder. Where such tests are selected, what they need is found or
built before the first test runs, outside of any test's time-out. When it cannot be had, those tests fail. With
`--leave-out-unavailable`, which is for `make test`, those of a layer that this machine cannot run are left out, and the
summary says which and why.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from tests.testbed import binaries, golang, peers, provision
from tests.testbed import promcheck as promcheck_module
from tests.testbed.apiserver import ENVIRONMENT_KUBECONFIG, RealAPIServer, StartError, open_api_server
from tests.testbed.layers import REAL_PROPERTY
from tests.testbed.ports import free_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from tests.testbed.embedded import APIServer

REAL_FIXTURES = {"real_api_server", "clientgo_peer", "clientgo_lease_peer", "kubectl", "promcheck"}
EMBEDDED_FIXTURES = {"api_server", "embedded"}
SEARCHES = {Path(__file__).parent / "safety" / name for name in ("explore", "simulate", "mutants")}
"""Folders of tests that keep a processor busy for minutes."""

PROBLEMS = pytest.StashKey[dict[str, str]]()
"""Why something could not be had, by the fixture or the layer that needs it."""

LEFT_OUT = pytest.StashKey[list[str]]()
"""Which layers were left out, and why."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the option of `make test`."""
    parser.addoption(
        "--leave-out-unavailable",
        action="store_true",
        help="leave out the tests of containers and pods where this machine cannot run them, and say so",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Declare the markers, and see to it that these tests and the programs that they start can be interrupted."""
    # However this process is told to end, the fixtures remove what they made. In the background of a shell script
    # SIGINT is ignored, under nohup SIGHUP; programs would inherit that, but a handler they do not.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    config.addinivalue_line(
        "markers", "real: needs a real API server or a program built with Go; set by what a test asks for"
    )
    config.addinivalue_line(
        "markers", "election: processes that elect a leader, on an embedded API server; set by what a test asks for"
    )
    config.addinivalue_line(
        "markers", "search: looks for a counter-example for minutes, without any server; set by the folder"
    )
    config.addinivalue_line("markers", "image: containers on a Docker Engine; set by the folder")
    config.addinivalue_line("markers", "cluster: pods on the nodes of a real cluster; set by the folder")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs a real server, before `-m` selects by the mark, and say so in the report."""
    system = Path(__file__).with_name("system")
    for item in items:
        if not SEARCHES.isdisjoint(item.path.parents):
            item.add_marker(pytest.mark.search)
        if (layer := _layer(item)) in provision.LAYERS:
            item.add_marker(layer)
        if isinstance(item, pytest.Function) and _is_real(item):
            item.add_marker(pytest.mark.real)
            item.user_properties.append((REAL_PROPERTY, True))
        elif system in item.path.parents and not EMBEDDED_FIXTURES.isdisjoint(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.election)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_finish(session: pytest.Session) -> None:
    """Build what the selected tests need, before the first of them has a time-out running."""
    config = session.config
    if config.option.collectonly or not session.items:
        return
    config.stash[PROBLEMS] = {}
    config.stash[LEFT_OUT] = []
    capture = config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        for layer in provision.LAYERS:
            _provide(session, layer)
        _build(session)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say which layers were left out, and why."""
    for line in config.stash.get(LEFT_OUT, []):
        terminalreporter.write_line(f"left out: {line}")


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """A run that `make test` left nothing of has not failed; its summary says why nothing ran."""
    if exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED and session.config.option.leave_out_unavailable:
        session.exitstatus = pytest.ExitCode.OK


def _layer(item: pytest.Item) -> str:
    return item.path.relative_to(Path(__file__).parent).parts[0]


def _provide(session: pytest.Session, layer: str) -> None:
    """Make ready what the layer's tests share, or note why that is impossible: they fail then, or are left out."""
    config = session.config
    selected = [item for item in session.items if _layer(item) == layer]
    if not selected:
        return
    if hasattr(config, "workerinput"):
        # Each process would start an engine of its own, and all would want the one cluster.
        config.stash[PROBLEMS][layer] = f"the tests in tests/{layer} are for one process: run them without -n"
        return
    try:
        provision.provide(layer, config.add_cleanup)
    except provision.UnavailableError as error:
        if config.option.leave_out_unavailable:
            session.items[:] = [item for item in session.items if item not in selected]
            config.hook.pytest_deselected(items=selected)
            config.stash[LEFT_OUT].append(f"the {len(selected)} tests in tests/{layer}: {error}")
        config.stash[PROBLEMS][layer] = str(error)
    except provision.ProvisionError as error:
        config.stash[PROBLEMS][layer] = str(error)


def _build(session: pytest.Session) -> None:
    selected = [item for item in session.items if isinstance(item, pytest.Function) and _is_real(item)]
    needed = {name for item in selected for name in item.fixturenames}
    builds = {
        "kubectl": lambda: binaries.ensure_programs("kubectl"),
        "clientgo_peer": peers.clientgo,
        "clientgo_lease_peer": peers.clientgo_lease,
        "promcheck": promcheck_module.program,
    }
    if not os.environ.get(ENVIRONMENT_KUBECONFIG):
        builds["real_api_server"] = binaries.ensure
    for name, build in builds.items():
        # The API server is asked for in several ways.
        if name in needed or (name == "real_api_server" and selected):
            try:
                build()
            except golang.BuildError as error:
                session.config.stash[PROBLEMS][name] = str(error)


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


@pytest.fixture(scope="session")
def clientgo_lease_peer(pytestconfig: pytest.Config) -> Path:
    """Return the program that is today's client-go's leader elector, on the Lease lock."""
    if problem := pytestconfig.stash.get(PROBLEMS, {}).get("clientgo_lease_peer"):
        pytest.fail(f"no client-go peer: {problem}", pytrace=False)
    return peers.clientgo_lease()


@pytest.fixture(scope="session")
def kubectl(pytestconfig: pytest.Config) -> Path:
    """Return kubectl, of the version of the API server."""
    if problem := pytestconfig.stash.get(PROBLEMS, {}).get("kubectl"):
        pytest.fail(f"no kubectl: {problem}", pytrace=False)
    return binaries.ensure_programs("kubectl") / "kubectl"


@pytest.fixture(scope="session")
def promcheck(pytestconfig: pytest.Config) -> promcheck_module.Promcheck:
    """Return what asks Prometheus' own linter, parser and query engine."""
    if problem := pytestconfig.stash.get(PROBLEMS, {}).get("promcheck"):
        pytest.fail(f"no promcheck: {problem}", pytrace=False)
    return promcheck_module.Promcheck(promcheck_module.program())


@pytest.fixture(scope="session")
def provided(pytestconfig: pytest.Config) -> Callable[[str], None]:
    """Fail where what a layer shares could not be made ready."""

    def check(layer: str) -> None:
        if problem := pytestconfig.stash.get(PROBLEMS, {}).get(layer):
            pytest.fail(problem, pytrace=False)

    return check


def _is_real(item: pytest.Function) -> bool:
    parameters = item.callspec.params if hasattr(item, "callspec") else {}
    return not REAL_FIXTURES.isdisjoint(item.fixturenames) or parameters.get("api_server") == "real"
