"""docker-compose.yml as its users start it, with both kinds of compose.

A kind that the machine does not have is not collected where it has the other one. Without either, all of these tests
fail.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.testbed import golang, image, standins
from tests.testbed.containers import mark
from tests.testbed.engine import EngineError
from tests.testbed.ports import free_ports
from tests.testbed.sidecar import Sidecar, leader_of, until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.testbed.engine import Engine

FILE = Path(__file__).parents[2] / "docker-compose.yml"
CANDIDATES = [f"candidate-{number}" for number in range(5)]
LEADING, RELEASED = "leading", "the lock was released"
UP_SECONDS = 240.0
DOWN_SECONDS = 120.0
PATIENCE = 60.0
"""Seconds that a condition may take: more than the ten of a lease, on a machine that has other things to do."""

pytestmark = pytest.mark.timeout(600)


COMPOSES = ("docker-compose", "docker compose")
"""Debian's is a program of its own, today's a plug-in of docker."""

PLUG_INS = [
    Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker", "cli-plugins"),
    *(
        Path(root, "docker/cli-plugins")
        for root in ("/usr/local/lib", "/usr/local/libexec", "/usr/lib", "/usr/libexec")
    ),
]
"""Where docker looks for its plug-ins."""


def is_installed(compose: str) -> bool:
    """Tell whether the machine has a kind of compose, without running it."""
    program, _, plug_in = compose.partition(" ")
    if shutil.which(program) is None:
        return False
    return not plug_in or any(os.access(folder / f"docker-{plug_in}", os.X_OK) for folder in PLUG_INS)


INSTALLED = [compose for compose in COMPOSES if is_installed(compose)]


class Candidate(Sidecar):
    """A candidate of the project, asked on the port that it publishes."""

    def __init__(self, identity: str, port: int) -> None:
        self.identity = identity
        self.port = port


class Project:
    """The file's containers, networks and volumes, under a name of their own and on free ports."""

    def __init__(self, compose: str, engine: Engine, image_under_test: str, folder: Path) -> None:
        self.name = f"leader-elector-test-{secrets.token_hex(4)}"
        self.engine = engine
        self.candidates = [Candidate(*each) for each in zip(CANDIDATES, free_ports(len(CANDIDATES)), strict=True)]
        ports = {f"CANDIDATE_{number}_PORT": str(each.port) for number, each in enumerate(self.candidates)}
        self._environment = {**engine.environment, **ports, "LEADER_ELECTOR_IMAGE": image_under_test}
        declared = yaml.safe_load(FILE.read_text())
        # Labels, by which a later run finds what this one could not remove.
        marks = {
            kind: {name: {"labels": mark()} for name in declared[kind]} for kind in ("services", "networks", "volumes")
        }
        marks["networks"]["default"] = {"labels": mark()}
        (folder / "labels.yml").write_text(json.dumps(marks))
        options = ("--project-name", self.name, "--file", str(FILE), "--file", str(folder / "labels.yml"))
        self._command = [*compose.split(), *options]

    def run(self, *arguments: str, seconds: float = DOWN_SECONDS) -> subprocess.CompletedProcess[str]:
        """Run compose; fails the test, with all that it and the containers said, when it does."""
        done = subprocess.run(
            [*self._command, *arguments],
            env=self._environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
            # A session of its own, so that Ctrl-C reaches the tests alone, which then remove everything.
            start_new_session=True,
        )
        if done.returncode != 0:
            said = "".join(self._output(container) for container in self._containers())
            pytest.fail(f"compose {' '.join(arguments)}: {done.stdout}{done.stderr}{said}", pytrace=False)
        return done

    def up(self) -> None:
        """Start what does not run."""
        self.run("up", "--detach", seconds=UP_SECONDS)

    async def led(self) -> Sidecar:
        """Return the leader, whom all five candidates name; starts those that were left ended."""
        names = [await each.leader_name() for each in self.candidates]
        if None in names:
            self.up()
        return await leader_of(self.candidates, seconds=PATIENCE)

    def others(self, leader: Sidecar) -> list[Candidate]:
        """Return all candidates but one."""
        return [each for each in self.candidates if each.identity != leader.identity]

    def inspect(self, service: str) -> dict[str, Any]:
        """Return what the engine knows of a service's container."""
        found: list[dict[str, Any]] = json.loads(self.engine.run("inspect", self._containers(service)[0]))
        return found[0]

    async def healthy(self, service: str) -> None:
        """Wait until a service's health check has passed."""

        def passed() -> bool:
            return bool(self.inspect(service)["State"]["Health"]["Status"] == "healthy")

        await until(passed, f"{service} is healthy", seconds=PATIENCE, every=0.2)

    def exit_code(self, service: str) -> int:
        """Return with which status a service's container ended."""
        state = self.inspect(service)["State"]
        assert state["Status"] == "exited"
        return int(state["ExitCode"])

    def log(self, service: str) -> str:
        """Return all that a service's container wrote."""
        return self._output(self._containers(service)[0])

    def left(self) -> list[str]:
        """Return what the engine has of this project."""
        listings = (["ps", "--all"], ["network", "ls"], ["volume", "ls"])
        return [line for listing in listings for line in self._list(*listing)]

    def _containers(self, service: str = "") -> list[str]:
        named = [f"--filter=label=com.docker.compose.service={service}"] if service else []
        return self._list("ps", "--all", *named)

    def _list(self, *listing: str) -> list[str]:
        whose = f"--filter=label=com.docker.compose.project={self.name}"
        return self.engine.run(*listing, "--quiet", whose).split()

    def _output(self, container: str) -> str:
        logs = ["docker", "logs", container]
        done = subprocess.run(
            logs, env=self._environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
        return done.stdout


@pytest.fixture(scope="module", params=INSTALLED or COMPOSES)
def project(
    request: pytest.FixtureRequest, engine: Engine, image_under_test: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Project]:
    """Prepare a project, which the tests start; whatever became of them, it is removed."""
    if request.param not in INSTALLED:
        pytest.fail(f"no {request.param}: on Debian, apt-get install docker-compose", pytrace=False)
    try:
        standins.ensure(engine, standins.ETCD, standins.APISERVER)
    except (standins.StandInError, golang.BuildError, EngineError) as error:
        pytest.fail(f"an image is missing: {error}", pytrace=False)
    made = Project(request.param, engine, image_under_test, tmp_path_factory.mktemp("compose"))
    try:
        yield made
    finally:
        made.run("down", "--volumes")


def test_the_images_are_those_that_the_tests_know() -> None:
    """The file names etcd and kube-apiserver in the versions of the test bed, and what `make image` builds."""
    services = yaml.safe_load(FILE.read_text())["services"]
    images = {name: service["image"] for name, service in services.items()}

    assert images.pop("etcd") == standins.ETCD
    assert images.pop("kube-apiserver") == standins.APISERVER
    assert sorted(images) == [*CANDIDATES, "prepare"]
    assert set(images.values()) == {f"${{LEADER_ELECTOR_IMAGE:-{image.name()}}}"}


def test_4040_to_4044_are_published() -> None:
    """Unless a variable says otherwise, each candidate is reached on the port of its number, on loopback."""
    services = yaml.safe_load(FILE.read_text())["services"]
    published = [port for candidate in CANDIDATES for port in services[candidate]["ports"]]

    assert [re.sub(r"\$\{\w+:-(\d+)\}", r"\1", port) for port in published] == [
        f"127.0.0.1:{port}:4040" for port in range(4040, 4045)
    ]


def test_compose_has_nothing_to_say_against_the_file(project: Project) -> None:
    """Neither an error nor a warning: old ones know every key, and new ones find none that is out of date."""
    assert project.run("config", "--quiet").stderr == ""


async def test_five_ports_name_the_same_leader(project: Project) -> None:
    """After `up` every port belongs to the candidate of its name, and all five name one; they are on three nodes."""
    await project.led()

    told = [await each.status() for each in project.candidates]
    assert [each["identity"] for each in told] == CANDIDATES
    assert sorted(each["node"] for each in told) == ["node-1", "node-1", "node-2", "node-2", "node-3"]


async def test_everything_gets_healthy(project: Project) -> None:
    """Etcd and the candidates pass their health checks; what waits for the API server has ended well."""
    await project.led()

    for service in ("etcd", *CANDIDATES):
        await project.healthy(service)
    assert project.exit_code("prepare") == 0


async def test_candidates_have_the_recommended_permissions(project: Project) -> None:
    """All that they need is allowed: so the leader knows of the three nodes on which the election can be led."""
    leader = await project.led()

    async def counts_three() -> bool:
        census = (await leader.status())["balance"]["census"]
        return census is not None and sorted(census["nodes"]) == ["node-1", "node-2", "node-3"]

    await until(counts_three, "the leader's census has three nodes", seconds=PATIENCE, every=0.2)
    for candidate in CANDIDATES:
        refused = [line for line in project.log(candidate).splitlines() if "forbidden" in line.lower()]
        # The API server's word for it. Events and nodes are in k8s/rbac/optional, and there are no Leases in the group.
        assert [line for line in refused if not re.search("(Events|nodes|leases) may not be", line)] == []


async def test_candidates_are_confined_and_nothing_else_is_published(project: Project) -> None:
    """A candidate runs as nobody's user, without capabilities, and writes nowhere; only loopback reaches it."""
    await project.led()

    for candidate in project.candidates:
        found = project.inspect(candidate.identity)
        assert found["Config"]["User"] == "65532:65532"
        assert found["HostConfig"]["ReadonlyRootfs"]
        assert found["HostConfig"]["CapDrop"] == ["ALL"]
        assert found["HostConfig"]["SecurityOpt"] == ["no-new-privileges:true"]
        assert not any(mount["RW"] for mount in found["Mounts"])
        published = found["NetworkSettings"]["Ports"]
        assert published == {"4040/tcp": [{"HostIp": "127.0.0.1", "HostPort": str(candidate.port)}]}
    for service in ("etcd", "kube-apiserver"):
        assert not any(project.inspect(service)["NetworkSettings"]["Ports"].values())


async def test_when_the_leader_is_stopped_another_leads(project: Project) -> None:
    """`stop` gives the lock up: the leader ends with status 0, and the others name another one. `up` brings it back."""
    leader = await project.led()

    project.run("stop", leader.identity)
    assert project.exit_code(leader.identity) == 0
    assert last_word(project.log(leader.identity)) == RELEASED
    successor = await leader_of(project.others(leader), seconds=PATIENCE)

    project.up()
    await leader.naming(successor.identity, PATIENCE)


async def test_when_the_leader_is_killed_another_leads_after_its_lease(project: Project) -> None:
    """`kill` leaves the lock held, and nobody restarts the leader: another one takes over. `up` brings it back."""
    leader = await project.led()

    project.run("kill", leader.identity)
    successor = await leader_of(project.others(leader), seconds=PATIENCE)
    assert project.exit_code(leader.identity) == 137

    project.up()
    await leader.naming(successor.identity, PATIENCE)


async def test_down_ends_everything_in_order_and_leaves_nothing(project: Project) -> None:
    """`stop` ends candidates with status 0 while the API server still takes the release; `down` removes the rest."""
    leader = await project.led()
    before = {candidate: project.log(candidate) for candidate in CANDIDATES}

    project.run("stop")
    for candidate in CANDIDATES:
        assert project.exit_code(candidate) == 0
        # One that was not told to end yet may have followed the leader, for a moment.
        assert last_word(project.log(candidate).removeprefix(before[candidate])) != LEADING
    assert last_word(project.log(leader.identity)) == RELEASED

    project.run("down", "--volumes")
    assert project.left() == []


def last_word(log: str) -> str:
    """Return what a candidate last logged of these two: that it leads, or that it has given the lock up."""
    words: list[str] = re.findall(rf"\] ({LEADING}|{RELEASED})\s", log)
    return words[-1] if words else ""
