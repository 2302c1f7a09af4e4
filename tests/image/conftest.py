"""What the image's tests share: an engine, the image under test, and an API server that containers reach."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from testcontainers.core.network import Network

from tests.testbed import engine as engines
from tests.testbed import golang, image, standins
from tests.testbed.apiserver import ENVIRONMENT_KUBECONFIG, LocalAPIServer, StartError, open_api_server
from tests.testbed.certificate import Authority
from tests.testbed.containers import Containers, mark, remove_remains
from tests.testbed.credentials import Credentials
from tests.testbed.monitored_election import ELECTION, RULES, LockObject

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path
    from typing import Any

    from tests.testbed.apiserver import RealAPIServer
    from tests.testbed.containers import SidecarContainer
    from tests.testbed.engine import Engine


@pytest.fixture(scope="session")
def engine(provided: Callable[[str], None]) -> Iterator[Engine]:
    """Serve an engine to docker, docker-compose and testcontainers; what the tests made on it is removed at the end."""
    provided("image")
    try:
        found = engines.ensure()
    except engines.EngineError as error:
        pytest.fail(f"no Docker Engine: {error}", pytrace=False)
    with found, pytest.MonkeyPatch.context() as patch:
        for name, value in found.environment.items():
            patch.setenv(name, value)
        remove_remains(found)
        yield found
        remove_remains(found, mine=True)


@pytest.fixture(scope="session")
def image_under_test(engine: Engine) -> str:
    """Return the name of the image, which the engine has."""
    try:
        return image.ensure(engine)
    except (image.ImageError, standins.StandInError, engines.EngineError, golang.BuildError) as error:
        pytest.fail(f"no image: {error}", pytrace=False)


@pytest.fixture(scope="session")
def network(engine: Engine) -> Iterator[Network]:  # noqa: ARG001 - whose variables are set
    """Serve a network for the containers of the tests."""
    with Network(docker_network_kw={"labels": mark()}) as made:
        yield made


@pytest.fixture(scope="session")
def gateway(engine: Engine, network: Network) -> str:
    """Return the machine's address in that network."""
    return engine.run("network", "inspect", "--format", "{{(index .IPAM.Config 0).Gateway}}", network.name).strip()


@pytest.fixture(scope="session")
def _real_api_server_for_containers(gateway: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealAPIServer]:
    """Serve a real API server that containers reach at the gateway, with a certificate for that address."""
    folder = tmp_path_factory.mktemp("api-server-for-containers")
    authority = Authority(folder)
    certificate, _ = authority.server("apiserver", names=["localhost"], addresses=["127.0.0.1", gateway])
    with certificate.open("ab") as chain:
        chain.write(authority.certificate.read_bytes())
    try:
        server = (
            open_api_server(folder)
            if os.environ.get(ENVIRONMENT_KUBECONFIG)
            else LocalAPIServer(folder, arguments=["--bind-address=0.0.0.0"])
        )
    except (StartError, golang.BuildError) as error:
        pytest.fail(f"no real API server: {error}", pytrace=False)
    with server:
        yield server


@pytest.fixture
def real_api_server(_real_api_server_for_containers: RealAPIServer) -> Iterator[RealAPIServer]:
    """Serve the session's API server; whatever a test did to it, the next one finds it in order."""
    yield _real_api_server_for_containers
    _real_api_server_for_containers.restore()


@pytest.fixture
def access(real_api_server: RealAPIServer, gateway: str, tmp_path: Path) -> Credentials:
    """Make a user who may elect in a namespace of its own."""
    namespace = real_api_server.namespace()
    return Credentials(real_api_server, tmp_path / "access", rules=RULES, namespace=namespace, gateway=gateway)


@pytest.fixture
def containers(image_under_test: str, network: Network) -> Iterator[Containers]:
    """Start containers of the image; all are removed after the test, and none may have tripped over anything."""
    started = Containers(image_under_test, network)
    yield started
    outputs = [container.output() for container in started.started]
    started.close()
    for output in outputs:
        assert "Traceback" not in output
        assert "Unclosed" not in output  # aiohttp, of what it had to close itself


class Candidates:
    """Starts containers that take part in one election, as a user with a kubeconfig starts them."""

    def __init__(self, containers: Containers, access: Credentials) -> None:
        self._containers = containers
        self._access = access

    def start(
        self,
        identity: str = "",
        *,
        ttl: str = "60s",
        flags: Iterable[str] = (),
        env: Mapping[str, str] | None = None,
        mounts: Mapping[Path | str, str] | None = None,
        **options: Any,  # noqa: ANN401 - whatever docker's API takes
    ) -> SidecarContainer:
        """Start one; without an identity it is known by its host name."""
        given = [f"--election={ELECTION}", f"--election-namespace={self._access.namespace}", f"--ttl={ttl}"]
        return self._containers.start(
            [*given, *([f"--id={identity}"] if identity else []), *flags],
            identity=identity,
            mounts={**self._access.mounts, **(mounts or {})},
            env={**self._access.env, **(env or {})},
            **options,
        )


@pytest.fixture
def candidates(containers: Containers, access: Credentials) -> Candidates:
    """Start candidates of one election."""
    return Candidates(containers, access)


@pytest.fixture
def lock(real_api_server: RealAPIServer, access: Credentials) -> LockObject:
    """The lock object of that election."""
    return LockObject(real_api_server, access.namespace)


@pytest.fixture
def measured(request: pytest.FixtureRequest) -> Callable[[str, float], None]:
    """Put a figure, by its name, into the report of the tests."""

    def report(name: str, value: float) -> None:
        request.node.user_properties.append((name, round(value, 2)))

    return report
