"""`electionctl leaders`, as an operator runs it: against an API server with lock objects, and with real sidecars."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import json
import os
import pty
import re
import signal
import struct
import sys
import termios
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web

from sidecar.lab.resources import ENDPOINTS, LEASES, NAMESPACES, PODS
from sidecar.lab.status import ApiError
from sidecar.record import CLAIM_ANNOTATION, GROUP_LABEL, RECORD_ANNOTATION, Claim, Record, format_time
from tests.testbed import electionctl as testbed
from tests.testbed.electionctl import Done, electionctl
from tests.testbed.sidecar import PATIENCE, Sidecars, environment, leader_of, until

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import AbstractAsyncContextManager

    from tests.testbed.apiserver import PolicyRule
    from tests.testbed.embedded import APIServer, EmbeddedForTests

ELECTIONCTL = Path(sys.executable).with_name("electionctl")

LISTED = (("list", "endpoints"), ("list", "leases"))
WATCHED = (*LISTED, ("watch", "endpoints"), ("watch", "leases"))
"""What it takes to see all elections, and to see them change."""

API_GROUPS = {"leases": "coordination.k8s.io"}

ACQUIRED = int(time.time()) - 3 * 3600
"""When everybody who leads here began to, in seconds since 1970."""


async def leaders(kubeconfig: Path, *arguments: str) -> Done:
    """Run the command to its end."""
    return await electionctl(kubeconfig, "leaders", *arguments, seconds=PATIENCE)


def running(kubeconfig: Path, *arguments: str) -> AbstractAsyncContextManager[asyncio.subprocess.Process]:
    """Run the command in pipes as long as the block runs."""
    return testbed.running(kubeconfig, "leaders", *arguments)


async def line(stream: asyncio.StreamReader | None) -> str:
    """Return the next line that a running command prints."""
    assert stream is not None
    async with asyncio.timeout(PATIENCE):
        return (await stream.readline()).decode().rstrip("\n")


async def event(program: asyncio.subprocess.Process) -> dict[str, Any]:
    """Return the next JSON object that it prints."""
    told: dict[str, Any] = json.loads(await line(program.stdout))
    return told


def record(holder: str, *, lease_seconds: int = 3600, renewed_ago: int = 0) -> str:
    """Return a record renewed so many seconds ago, for a lease that no test outlives."""
    return Record(
        holder=holder,
        lease_seconds=lease_seconds,
        acquire_time=format_time(ACQUIRED),
        renew_time=format_time(int(time.time()) - renewed_ago),
        transitions=1,
    ).encode()


class Locks:
    """Lock objects in the embedded server's store."""

    def __init__(self, embedded: EmbeddedForTests) -> None:
        self.store = embedded.server.store
        for name in ("shop", "web"):
            self.store.create(NAMESPACES, "", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})

    def put(
        self, name: str, text: str | None, *, claim: Claim | None = None, group: str = "", namespace: str = "shop"
    ) -> None:
        """Write a lock object, whether there is one or not."""
        claimed = None
        if text is not None and claim is not None:
            claimed = replace(claim, renewed=json.loads(text)["renewTime"]).encode()
        annotations = {RECORD_ANNOTATION: text, CLAIM_ANNOTATION: claimed}
        metadata = {
            "name": name,
            "annotations": {key: value for key, value in annotations.items() if value is not None},
            "labels": {GROUP_LABEL: group} if group else {},
        }
        self.store.update(ENDPOINTS, namespace, name, {"apiVersion": "v1", "kind": "Endpoints", "metadata": metadata})

    def lead(self, name: str, holder: str, node: str, **more: Any) -> None:  # noqa: ANN401 - fields of a claim
        """Let `holder` lead, with a claim, in the group `default` of the namespace `shop`."""
        self.put(name, record(holder), claim=Claim(holder=holder, node=node, pod_uid="u", **more), group="default")

    def pod(self, name: str, node: str, *, namespace: str = "shop") -> None:
        """Let a pod run on a node."""
        spec = {"nodeName": node, "containers": [{"name": "main", "image": "main"}]}
        self.store.create(
            PODS, namespace, {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}
        )

    def lease(
        self,
        name: str,
        holder: str,
        *,
        claim: Claim | None = None,
        group: str = "",
        namespace: str = "shop",
        lease_seconds: int = 3600,
    ) -> None:
        """Write a Lease, whether there is one or not."""
        known = json.loads(record(holder, lease_seconds=lease_seconds))
        claimed = {CLAIM_ANNOTATION: replace(claim, renewed=known["renewTime"]).encode()} if claim else {}
        metadata: dict[str, Any] = {
            "name": name,
            "annotations": claimed,
            "labels": {GROUP_LABEL: group} if group else {},
        }
        spec = {
            "holderIdentity": holder,
            "leaseDurationSeconds": known["leaseDurationSeconds"],
            "acquireTime": known["acquireTime"].replace("Z", ".000000Z"),
            "renewTime": known["renewTime"].replace("Z", ".000000Z"),
            "leaseTransitions": 1,
        }
        body = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata, "spec": spec}
        with suppress(ApiError):
            metadata["resourceVersion"] = self.store.get(LEASES, namespace, name)["metadata"]["resourceVersion"]
        self.store.update(LEASES, namespace, name, body)

    def delete(self, name: str) -> None:
        """Delete a lock object."""
        self.store.delete(ENDPOINTS, "shop", name, uid=None, version=None, grace_seconds=None)


@pytest.fixture
def locks(embedded: EmbeddedForTests) -> Locks:
    """Make two namespaces for lock objects."""
    return Locks(embedded)


def may(embedded: EmbeddedForTests, *rules: tuple[str, str]) -> Path:
    """Return the kubeconfig of somebody who may do this, each a verb and a resource, in the namespace `shop`."""
    granted: list[PolicyRule] = [
        {"apiGroups": [API_GROUPS.get(what, "")], "resources": [what], "verbs": [verb]} for verb, what in rules
    ]
    return embedded.kubeconfig_for("operator", granted, namespace="shop")


# -- One look ----------------------------------------------------------------------------------------------------------


async def test_who_leads_what(embedded: EmbeddedForTests, locks: Locks) -> None:
    """Of the context's namespace, with ours and stock candidates: a table for each group, and a bar for each node.

    A Service's own Endpoints are left out; a stock holder's node is its pod's.
    """
    locks.lead("cart", "cart-0", "n1")
    locks.lead("mail", "mail-0", "n2", state="checking")
    locks.put("service", None)
    locks.put("vault", record("vault-0"))
    locks.pod("vault-0", "n3")
    locks.put("elsewhere", record("x"), namespace="web")

    done = await leaders(may(embedded, *LISTED, ("get", "pods")))

    assert (done.status, done.err) == (0, "")
    rows = [re.sub(r" {2,}", "  ", row) for row in done.out.splitlines()]
    assert rows[:2] == ["group default, namespace shop", "ELECTION  HOLDER  NODE  STATE  SINCE  FOR  RENEWED"]
    assert re.fullmatch(r"cart  cart-0  n1  leading  \S+Z  3h\S*  \d+s ago", rows[2])
    assert re.fullmatch(r"mail  mail-0  n2  checking  \S+Z  3h\S*  \d+s ago", rows[3])
    assert rows[4:7] == ["", "n1  ███ 1", "n2  ░░░ 0 + 1 arriving"]
    assert rows[8] == "no group, namespace shop"
    assert rows[10].startswith("vault  vault-0  n3  leading, no claim  ")
    assert rows[12] == "n3  ███ 1"
    assert "clock of this machine" in rows[-1]
    assert "\x1b" not in done.out


async def test_all_namespaces_and_one_group(embedded: EmbeddedForTests, locks: Locks) -> None:
    """`-A` reads every namespace, `-n` one, `--group` the elections of a group; `--json` prints one document."""
    locks.lead("cart", "cart-0", "n1")
    locks.put("front", record("front-0"), namespace="web")

    async def told(*arguments: str) -> list[tuple[str, str]]:
        done = await leaders(embedded.admin_kubeconfig, "--json", *arguments)
        assert (done.status, done.err) == (0, "")
        return [(one["namespace"], one["election"]) for one in json.loads(done.out)["elections"]]

    assert await told("-A") == [("shop", "cart"), ("web", "front")]
    assert await told("-n", "web") == [("web", "front")]
    assert await told("--all-namespaces", "--group", "default") == [("shop", "cart")]
    assert await told() == []
    assert (await leaders(embedded.admin_kubeconfig)).out == "no elections in namespace default\n"


async def test_nodes_that_may_not_be_known(embedded: EmbeddedForTests, locks: Locks) -> None:
    """Without the permission to read pods the nodes of stock holders are unknown, which is said once; status 0."""
    for number in range(12):
        locks.put(f"vault-{number}", record(f"pod-{number}"))

    done = await leaders(may(embedded, *LISTED))

    assert done.status == 0
    assert "unknown node  ████" in done.out
    assert re.fullmatch(r"electionctl: not allowed to get pods in shop: [^\n]+\n", done.err)
    # Pods that are asked for at once may all have been refused.
    assert embedded.server.requests["get", "pods"] <= 8


@pytest.mark.parametrize("holder", ["gone", "../secrets/x", "A name", "x" * 1000])
async def test_holders_that_are_no_pods(embedded: EmbeddedForTests, locks: Locks, holder: str) -> None:
    """A holder that no pod is named after, or could be, is on an unknown node, and nothing else is asked for."""
    locks.put("vault", record(holder))

    done = await leaders(embedded.admin_kubeconfig, "-n", "shop", "--json")

    (told,) = json.loads(done.out)["elections"]
    assert (told["holder"], told["node"], done.err) == (holder, None, "")
    asked = {asked: times for asked, times in embedded.server.requests.items() if asked not in LISTED}
    assert asked == ({("get", "pods"): 1} if holder == "gone" else {})


async def test_elections_on_leases(embedded: EmbeddedForTests, locks: Locks) -> None:
    """Elections on Leases stand beside the others, once each, with the kind of their lock.

    A Lease that is no candidate's of ours is shown where a namespace is named, and only if somebody holds it.
    """
    claim = Claim(holder="cart-0", node="n1", pod_uid="u")
    locks.lead("cart", "cart-0", "n1")
    locks.lease("cart", "cart-0", claim=claim, group="default")
    locks.lease("mail", "mail-0", claim=replace(claim, holder="mail-0"), group="default")
    locks.lease("operator", "operator-0")
    locks.lease("unheld", "")
    locks.lead("vault", "vault-0", "n2")
    locks.lease("node-1", "node-1", namespace="kube-node-lease")
    locks.lease("kube-scheduler", "node-1", namespace="kube-system")

    async def told(*arguments: str) -> list[tuple[str, str, str]]:
        done = await leaders(embedded.admin_kubeconfig, "--json", *arguments)
        assert (done.status, done.err) == (0, "")
        return [(one["election"], one["lock"], one["holder"]) for one in json.loads(done.out)["elections"]]

    marked = [
        ("cart", "endpointsleases", "cart-0"),
        ("mail", "leases", "mail-0"),
        ("vault", "endpoints", "vault-0"),
    ]
    assert await told("-A") == await told("-n", "shop", "--group", "default") == marked
    assert await told("-n", "shop") == [*marked, ("operator", "leases", "operator-0")]
    assert await told("-n", "kube-system") == [("kube-scheduler", "leases", "node-1")]
    table = (await leaders(embedded.admin_kubeconfig, "-n", "shop")).out
    assert re.search(r"^cart +cart-0 +n1 +endpointsleases +leading ", table, re.MULTILINE)
    assert re.search(r"^n1  █+ 2$", table, re.MULTILINE)


# -- What goes wrong ---------------------------------------------------------------------------------------------------


def refusal(done: Done) -> str:
    """Return the one line that a command ended with, having seen that it is all there is."""
    assert (done.status, done.out) == (1, "")
    assert re.fullmatch(r"electionctl: [^\n]+\n", done.err), done.err
    return done.err


@pytest.mark.usefixtures("locks")
async def test_not_allowed(embedded: EmbeddedForTests) -> None:
    """Who may not list, or not watch, is told verb, resource and namespace in one line; status 1."""
    assert "not allowed to list endpoints in namespace shop" in refusal(await leaders(may(embedded)))
    lists = may(embedded, *LISTED)
    assert "not allowed to list endpoints in all namespaces" in refusal(await leaders(lists, "-A"))
    assert "not allowed to watch endpoints in namespace shop" in refusal(await leaders(lists, "--watch"))


@pytest.mark.parametrize(("allowed", "left_out"), [("endpoints", "Leases"), ("leases", "Endpoints")])
async def test_one_kind_of_locks_may_be_read(
    embedded: EmbeddedForTests, locks: Locks, allowed: str, left_out: str
) -> None:
    """Who may read one kind of lock objects is shown the elections on it, and told that there may be others."""
    locks.lead("cart", "cart-0", "n1")
    locks.lease("operator", "operator-0")
    kubeconfig = may(embedded, ("list", allowed), ("watch", allowed))
    seen = {"endpoints": "cart", "leases": "operator"}[allowed]
    remark = (
        rf"electionctl: not allowed to list {left_out.lower()} in namespace shop: elections on {left_out} are left out"
    )

    done = await leaders(kubeconfig, "--json")
    assert [one["election"] for one in json.loads(done.out)["elections"]] == [seen]
    assert done.status == 0
    assert remark in done.err.splitlines()

    async with running(kubeconfig, "--watch") as program:
        assert await line(program.stderr) == remark
        assert f"shop/{seen}  leading: {seen}-0" in await line(program.stdout)
        await until(lambda: embedded.server.open_watches == 1, "it watches")
        locks.lead("cart", "cart-1", "n1")
        locks.lease("operator", "operator-1")
        assert f"shop/{seen}  leading: {seen}-1" in await line(program.stdout)


@pytest.mark.parametrize("watch", [(), ("--watch",)])
async def test_no_api_server(embedded: EmbeddedForTests, watch: tuple[str, ...]) -> None:
    """Where no API server answers, one line says which; status 1, also with `--watch`."""
    await embedded.server.stop()
    assert f"127.0.0.1:{embedded.server.port}" in refusal(await leaders(embedded.admin_kubeconfig, *watch))


async def test_no_kubeconfig(tmp_path: Path) -> None:
    """A kubeconfig that is missing or damaged is named in one line; `--kubeconfig` wins over the variable."""
    damaged = tmp_path / "damaged"
    damaged.write_text("clusters: [")
    assert f"kubeconfig {damaged}: " in refusal(await leaders(damaged))
    missing = tmp_path / "missing"
    assert f"kubeconfig {missing}: no such file" in refusal(await leaders(damaged, "--kubeconfig", str(missing)))


@pytest.mark.parametrize(
    "arguments", [("-A", "-n", "shop"), ("-n", "a/b"), ("--group", ""), ("--group", "a=b"), ("cart",)]
)
async def test_called_wrongly(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    """What cannot be meant is refused in one line, which names what was wrong; status 2."""
    done = await leaders(tmp_path / "none", *arguments)
    assert (done.status, done.out) == (2, "")
    assert re.fullmatch(r"electionctl[^\n]*: [^\n]+\n", done.err)
    assert next(one for one in arguments if one.startswith(("-n", "--group", "cart"))) in done.err


# -- Looking on --------------------------------------------------------------------------------------------------------


async def test_a_line_for_each_change(embedded: EmbeddedForTests, locks: Locks) -> None:
    """In a pipe `--watch` prints what there is, then a line for what changes, but none for renewals, until Ctrl-C."""
    claim = Claim(holder="cart-0", node="n1", pod_uid="u")
    locks.put("cart", record("cart-0", renewed_ago=5), claim=claim, group="default")
    async with running(may(embedded, *WATCHED, ("get", "pods")), "-w") as program:
        assert re.fullmatch(r"\d{4}-\S+Z  shop/cart  leading: cart-0 on n1", await line(program.stdout))
        await until(lambda: embedded.server.open_watches == 2, "it watches")
        locks.put("cart", record("cart-0"), claim=claim, group="default")
        locks.lead("cart", "cart-0", "n1", successor="cart-1")
        assert (await line(program.stdout)).endswith("shop/cart  leading: cart-0 on n1, nominates cart-1")
        locks.put("cart", record(""), claim=Claim(holder="", node="n2", pod_uid="u", successor="cart-1"))
        assert (await line(program.stdout)).endswith("shop/cart  handing over to cart-1 on n2")
        locks.pod("vault-0", "n3")
        locks.put("vault", record("vault-0"))
        assert (await line(program.stdout)).endswith("shop/vault  leading: vault-0 on n3, no claim")
        locks.put("cart", None)
        assert (await line(program.stdout)).endswith("shop/cart  no lock object any more")
        locks.delete("vault")
        assert (await line(program.stdout)).endswith("shop/vault  no lock object any more")
        assert embedded.server.requests["list", "endpoints"] == 1

        program.send_signal(signal.SIGINT)
        async with asyncio.timeout(PATIENCE):
            assert await program.communicate() == (b"", b"")
        assert program.returncode == 130


async def test_an_object_for_each_change(embedded: EmbeddedForTests, locks: Locks) -> None:
    """With `--json` each change is an object on a line of its own: what kind of change, and the election."""
    locks.lead("cart", "cart-0", "n1")
    async with running(embedded.admin_kubeconfig, "-A", "--watch", "--json") as program:
        told = await event(program)
        assert (told["change"], told["state"], told["holder"], told["node"]) == ("added", "leading", "cart-0", "n1")
        await until(lambda: embedded.server.open_watches == 2, "it watches")
        locks.lead("cart", "cart-1", "n2", state="checking")
        told = await event(program)
        assert (told["change"], told["state"], told["holder"], told["node"]) == ("changed", "checking", "cart-1", "n2")
        locks.delete("cart")
        assert (await event(program))["change"] == "removed"


async def test_an_update_to_leases(embedded: EmbeddedForTests, locks: Locks) -> None:
    """An election that moves from Endpoints to a Lease stays one: each step is a line, and no second write is one."""
    claim = Claim(holder="cart-0", node="n1", pod_uid="u")
    locks.lead("cart", "cart-0", "n1")
    async with running(embedded.admin_kubeconfig, "-A", "--watch") as program:
        assert (await line(program.stdout)).endswith("shop/cart  leading: cart-0 on n1")
        await until(lambda: embedded.server.open_watches == 2, "it watches")
        locks.lease("cart", "cart-0", claim=claim)
        assert (await line(program.stdout)).endswith("shop/cart  leading: cart-0 on n1 (endpointsleases)")
        locks.lead("cart", "cart-0", "n1")
        locks.delete("cart")
        assert (await line(program.stdout)).endswith("shop/cart  leading: cart-0 on n1 (leases)")
        # It is known as an election's, whoever holds it from now on.
        locks.lease("cart", "")
        assert (await line(program.stdout)).endswith("shop/cart  vacant (leases)")
        locks.lease("cart", "other")
        assert (await line(program.stdout)).endswith("shop/cart  leading: other, node unknown, no claim (leases)")


async def test_who_may_not_watch_leases(embedded: EmbeddedForTests, locks: Locks) -> None:
    """Elections on Leases that may only be listed are told late: once their leases seem to have run out."""
    locks.lease("operator", "operator-0", lease_seconds=1)
    async with running(may(embedded, *LISTED, ("watch", "endpoints"), ("get", "pods")), "--watch") as program:
        assert "leading: operator-0" in await line(program.stdout)
        remark = "electionctl: not allowed to watch leases in namespace shop: changes on Leases are seen late"
        assert await line(program.stderr) == remark
        locks.lease("operator", "operator-1")
        assert "leading: operator-1" in await line(program.stdout)


async def test_a_lease_that_runs_out(embedded: EmbeddedForTests, locks: Locks) -> None:
    """A holder that does not renew within its lease is marked, after a fresh look; when it renews it leads again."""
    locks.put("vault", record("vault-0", lease_seconds=1))
    async with running(embedded.admin_kubeconfig, "-A", "--watch", "--json") as program:
        assert (await event(program))["state"] == "leading"
        told = await event(program)
        assert (told["change"], told["state"], told["holder"]) == ("changed", "ran out", "vault-0")
        assert embedded.server.requests["list", "endpoints"] == 2
        locks.put("vault", record("vault-0", lease_seconds=3600))
        assert (await event(program))["state"] == "leading"


async def test_an_api_server_that_goes_and_comes_back(embedded: EmbeddedForTests, locks: Locks) -> None:
    """While no API server answers nothing is said to have run out; it is tried again, and what was missed is shown.

    On standard error one line says that it was gone, and one that it is back.
    """
    locks.put("cart", record("cart-0", lease_seconds=2))
    locks.put("old", record("old-0"))
    async with running(embedded.admin_kubeconfig, "-n", "shop", "--watch") as program:
        assert "shop/cart  leading: cart-0" in await line(program.stdout)
        assert "shop/old  leading: old-0" in await line(program.stdout)
        await until(lambda: embedded.server.open_watches == 2, "it watches")
        await embedded.server.stop()
        assert re.fullmatch(r"electionctl: GET \S+: .*; trying again", await line(program.stderr))
        locks.put("cart", record("cart-1"))
        locks.delete("old")
        await embedded.server.start()
        assert "shop/old  no lock object any more" in await line(program.stdout)
        assert "shop/cart  leading: cart-1" in await line(program.stdout)
        assert await line(program.stderr) == "electionctl: the API server answers again"


async def test_a_watch_that_fell_behind(embedded: EmbeddedForTests, locks: Locks) -> None:
    """A version that is too old to watch from is answered by a fresh list, and nobody is told of it."""
    locks.lead("cart", "cart-0", "n1")
    refused = 0

    async def gone(request: web.Request) -> web.StreamResponse | None:
        nonlocal refused
        if "watch" not in request.query or refused:
            return None
        refused += 1
        status = {"kind": "Status", "status": "Failure", "code": 410, "reason": "Expired", "message": "too old"}
        return web.json_response(status, status=410)

    embedded.server.before_request = gone
    async with running(embedded.admin_kubeconfig, "-n", "shop", "--watch") as program:
        assert "leading: cart-0" in await line(program.stdout)
        await until(lambda: embedded.server.open_watches == 2, "it watches")
        locks.lead("cart", "cart-1", "n2")
        assert "leading: cart-1" in await line(program.stdout)
        program.send_signal(signal.SIGINT)
        async with asyncio.timeout(PATIENCE):
            assert await program.communicate() == (b"", b"")
    assert (refused, embedded.server.requests["list", "endpoints"]) == (1, 2)


async def test_a_reader_that_has_read_enough(embedded: EmbeddedForTests, locks: Locks) -> None:
    """When nobody reads the pipe any more, the next line ends the command without a complaint."""
    locks.lead("cart", "cart-0", "n1")
    reading, writing = os.pipe()
    program = await asyncio.create_subprocess_exec(
        ELECTIONCTL,
        "leaders",
        "-A",
        "--watch",
        env=environment(embedded.admin_kubeconfig.parent, {"KUBECONFIG": str(embedded.admin_kubeconfig)}),
        stdout=writing,
        stderr=asyncio.subprocess.PIPE,
    )
    os.close(writing)
    try:
        await until(lambda: embedded.server.open_watches == 2, "it watches")
        os.close(reading)
        locks.lead("cart", "cart-1", "n1")
        async with asyncio.timeout(PATIENCE):
            _, told = await program.communicate()
        assert (program.returncode, told) == (1, b"")
    finally:
        with suppress(ProcessLookupError):
            program.kill()
        await program.wait()


@pytest.mark.parametrize(
    ("output", "told"),
    [(">&-", "standard output is closed"), (">/dev/full", "[Errno 28] No space left on device")],
    ids=["closed", "full"],
)
@pytest.mark.parametrize("arguments", [("-A",), ("-A", "--json"), ("-A", "--watch")], ids=" ".join)
async def test_nowhere_to_print_to(
    embedded: EmbeddedForTests, locks: Locks, arguments: tuple[str, ...], output: str, told: str
) -> None:
    """Where nothing can be printed, one line says so; status 1, also with `--watch`."""
    locks.lead("cart", "cart-0", "n1")
    program = await asyncio.create_subprocess_exec(
        "sh",
        *("-c", f'exec "$0" "$@" {output}', str(ELECTIONCTL), "leaders", *arguments),
        env=environment(embedded.admin_kubeconfig.parent, {"KUBECONFIG": str(embedded.admin_kubeconfig)}),
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(PATIENCE):
        _, errors = await program.communicate()
    assert (program.returncode, errors.decode()) == (1, f"electionctl: {told}\n")


class Terminal:
    """The other side of a terminal of 120 columns and 40 lines."""

    def __init__(self) -> None:
        self.ours, self.theirs = pty.openpty()
        fcntl.ioctl(self.theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
        os.set_blocking(self.ours, False)
        self.shown = ""

    def shows(self, *texts: str) -> Callable[[], bool]:
        """Return what tells whether the last picture shows all of these texts."""

        def shown() -> bool:
            try:
                while part := os.read(self.ours, 2**16):
                    self.shown += part.decode(errors="replace")
            except BlockingIOError:
                pass
            except OSError as error:
                # How Linux says that nobody has the other side open any more.
                if error.errno != errno.EIO:
                    raise
            # A picture begins when the cursor has gone up to where the one before it began.
            last = re.split(r"(?:\x1b\[1A\x1b\[2K)+", self.shown)[-1]
            plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", last)
            return all(text in plain for text in texts)

        return shown


async def test_a_live_table(embedded: EmbeddedForTests, locks: Locks) -> None:
    """On a terminal `--watch` keeps a table up to date, with its bars; Ctrl-C ends it, and the cursor is back."""
    locks.lead("cart", "cart-0", "n1")
    terminal = Terminal()
    variables: Mapping[str, str] = {"KUBECONFIG": str(embedded.admin_kubeconfig), "TERM": "xterm-256color"}
    program = await asyncio.create_subprocess_exec(
        ELECTIONCTL,
        *("leaders", "-n", "shop", "--watch"),
        env=environment(embedded.admin_kubeconfig.parent, variables),
        stdin=terminal.theirs,
        stdout=terminal.theirs,
        stderr=terminal.theirs,
    )
    os.close(terminal.theirs)
    try:
        await until(terminal.shows("cart-0", "n1", "leading", "not yet", "n1  ███ 1"), "the table is shown")
        await until(lambda: embedded.server.open_watches == 2, "it watches")
        locks.lead("cart", "cart-1", "n2", state="checking")
        await until(terminal.shows("cart-1", "checking", "n2  ░░░ 0 + 1 arriving", "s ago"), "it shows the next one")
        await embedded.server.stop()
        await until(terminal.shows("cart-1", "trying again"), "it says that nobody answers")
        program.send_signal(signal.SIGINT)
        async with asyncio.timeout(PATIENCE):
            assert await program.wait() == 130
        assert terminal.shows()()
        assert "\x1b[?25h" in terminal.shown[-200:]
        assert "Traceback" not in terminal.shown
    finally:
        with suppress(ProcessLookupError):
            program.kill()
        await program.wait()
        os.close(terminal.ours)


# -- With sidecars -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lock", ["endpoints", "leases"])
async def test_the_leaders_of_sidecars(sidecars: Sidecars, api_server: APIServer, lock: str) -> None:
    """What real candidates write is read: who leads, on which node, since when; and so is what they do after that.

    On Leases in the whole cluster, from where a real API server leaves out the nodes' own.
    """
    namespace = api_server.namespace()
    where = ("-n", namespace) if lock == "endpoints" else ("-A",)
    async with running(api_server.admin_kubeconfig, *where, "--watch", "--json") as program:

        async def leading() -> dict[str, Any]:
            while (told := await event(program))["state"] != "leading" or told["namespace"] != namespace:
                pass
            return told

        started = [
            sidecars.start(
                election="example",
                identity=identity,
                namespace=namespace,
                ttl="2s",
                kubeconfig=api_server.admin_kubeconfig,
                env={"NODE_NAME": f"node-of-{identity}", "POD_UID": identity, "ELECTION_LOCK": lock},
            )
            for identity in ("a", "b")
        ]
        leader = await leader_of(started)

        done = await leaders(api_server.admin_kubeconfig, *where, "--json")
        assert (done.status, done.err) == (0, "")
        (told,) = (one for one in json.loads(done.out)["elections"] if one["namespace"] == namespace)
        assert (told["election"], told["holder"], told["state"]) == ("example", leader.identity, "leading")
        assert (told["node"], told["claimed"], told["lease_seconds"]) == (f"node-of-{leader.identity}", True, 2)
        assert told["lock"] == lock

        await leading()
        await leader.terminate()
        (follower,) = (one for one in started if one is not leader)
        told = await leading()
        assert (told["holder"], told["node"]) == (follower.identity, f"node-of-{follower.identity}")
