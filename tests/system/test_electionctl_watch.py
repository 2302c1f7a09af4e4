"""`electionctl watch`, as an operator runs it: a line for what happens to real candidates, and for nothing else."""

from __future__ import annotations

import asyncio
import json
import re
import signal
from typing import TYPE_CHECKING, Any

from tests.testbed.electionctl import electionctl, next_line, running
from tests.testbed.sidecar import PATIENCE, Sidecars, leader_of

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import Callable

    from tests.testbed.embedded import APIServer, EmbeddedForTests

TTL = "10s"


async def entry(program: Process, wanted: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    """Return the next object printed that is wanted."""
    while True:
        told: dict[str, Any] = json.loads(await next_line(program))
        if wanted(told):
            return told


async def test_what_happens_to_an_election(sidecars: Sidecars, api_server: APIServer) -> None:
    """Of an election that begins: that there is none yet, who leads with which token, who leads after a step-down."""
    namespace = api_server.namespace()
    async with running(api_server.admin_kubeconfig, "watch", "example", "-n", namespace, "--json") as program:
        told: dict[str, Any] = json.loads(await next_line(program))
        assert (told["namespace"], told["election"], told["event"]) == (namespace, "example", "absent")
        candidates = [
            sidecars.start(
                election=election,
                identity=identity,
                namespace=namespace,
                ttl=TTL,
                kubeconfig=api_server.admin_kubeconfig,
                env={"NODE_NAME": f"node-of-{identity}", "POD_UID": identity},
            )
            for election, identity in (("other", "x"), ("example", "a"), ("example", "b"))
        ][1:]
        old = await leader_of(candidates)

        told = await entry(program, lambda one: one["event"] == "leading" and one["fencing_token"])

        assert (told["election"], told["leader"], told["node"]) == ("example", old.identity, f"node-of-{old.identity}")
        assert told["fencing_token"] == (await old.status())["fencing_token"]
        assert told["since"]

        done = await electionctl(api_server.admin_kubeconfig, "step-down", "example", "-n", namespace)
        assert done.status == 0, done
        new = await leader_of(candidates)
        assert (await entry(program, lambda one: one["event"] == "vacant"))["before"] == old.identity
        told = await entry(program, lambda one: one["event"] == "leading" and one["fencing_token"])
        assert (told["leader"], told["before"]) == (new.identity, old.identity)
        assert told["fencing_token"] == (await new.status())["fencing_token"]


async def test_lines_for_people(sidecars: Sidecars, embedded: EmbeddedForTests) -> None:
    """Without a name all elections of the namespace are followed, a line for each change, until Ctrl-C: status 130."""
    namespace = embedded.namespace()
    only = sidecars.start(
        election="example",
        identity="a",
        namespace=namespace,
        ttl=TTL,
        kubeconfig=embedded.admin_kubeconfig,
        env={"ELECTION_BALANCE": "off", "NODE_NAME": "n1"},
    )
    await only.leading()
    async with running(embedded.admin_kubeconfig, "watch", "-n", namespace) as program:
        line = await next_line(program)
        assert re.fullmatch(rf"\d{{4}}-\S+Z  {namespace}/example  a on n1 leads since \S+Z(, fencing token \d+)?", line)
        if "fencing" not in line:
            # It is not known before the first renewal.
            assert re.search(r"leads since \S+Z, fencing token \d+$", await next_line(program))
        await only.terminate()
        assert (await next_line(program)).endswith(f"{namespace}/example  vacant: a gave it up")

        program.send_signal(signal.SIGINT)
        async with asyncio.timeout(PATIENCE):
            assert await program.communicate() == (b"", b"")
        assert program.returncode == 130


async def test_not_allowed(embedded: EmbeddedForTests) -> None:
    """Who may not list lock objects is told so in one line; status 1."""
    namespace = embedded.namespace()
    operator = embedded.kubeconfig_for("operator", (), namespace=namespace)
    done = await electionctl(operator, "watch", "example")
    assert (done.status, done.out) == (1, "")
    assert re.fullmatch(r"electionctl: not allowed to list [^\n]+\n", done.err)
