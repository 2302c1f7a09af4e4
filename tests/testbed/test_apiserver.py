"""What other tests rely on in the real API server of the test bed."""

from __future__ import annotations

import json
import os
import time
import unittest
from typing import TYPE_CHECKING

import aiohttp
import pytest

from tests.testbed.apiserver import (
    ENVIRONMENT_KUBECONFIG,
    STOCK_RULES,
    LocalAPIServer,
    RealAPIServer,
    StartError,
    open_api_server,
)
from tests.testbed.connection import APIError, Connection, connect

if TYPE_CHECKING:
    from pathlib import Path

    from tests.testbed.embedded import APIServer


def endpoints(namespace: str, name: str = "") -> str:
    """Return the path of Endpoints."""
    return f"/api/v1/namespaces/{namespace}/endpoints" + (f"/{name}" if name else "")


def lock_object(name: str) -> dict[str, object]:
    """Return Endpoints with nothing in them."""
    return {"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": name}}


def refusal(connection: Connection, path: str) -> int:
    """Return the code with which a GET is refused; 0 when it is not."""
    try:
        connection.request("GET", path)
    except APIError as error:
        return error.code
    return 0


async def test_a_user_may_do_what_the_rules_say_and_nothing_else(api_server: APIServer) -> None:
    """On either server, the stock image's rules allow to create and read Endpoints at once, and not to list them."""
    namespace = api_server.namespace()
    kubeconfig = json.loads(api_server.kubeconfig_for("candidate", STOCK_RULES, namespace=namespace).read_text())
    headers = {"Authorization": f"Bearer {kubeconfig['users'][0]['user']['token']}"}
    connector = aiohttp.TCPConnector(ssl=api_server.ssl_context or True)

    async with aiohttp.ClientSession(api_server.url, headers=headers, connector=connector) as user:
        created = await user.post(endpoints(namespace), json=lock_object("example"))
        read = await user.get(endpoints(namespace, "example"))
        listed = await user.get(endpoints(namespace))
        message = (await listed.json())["message"]

    assert (created.status, read.status, listed.status) == (201, 200, 403)
    assert f'User "system:serviceaccount:{namespace}:candidate" cannot list resource "endpoints"' in message


def test_revoked_tokens_are_refused_and_new_ones_are_not(real_api_server: RealAPIServer, tmp_path: Path) -> None:
    """After `revoke_tokens` the old token gets 401 within the server's memory of it; a new one has the same rights."""
    namespace = real_api_server.namespace()
    token_file = tmp_path / "token"
    kubeconfig = real_api_server.kubeconfig_for("candidate", STOCK_RULES, namespace=namespace, token_file=token_file)
    old = connect(kubeconfig, folder=tmp_path)
    old.request("POST", endpoints(namespace), lock_object("example"))

    real_api_server.revoke_tokens("candidate", namespace=namespace)
    token_file.write_text(real_api_server.issue_token("candidate", namespace=namespace))

    assert refusal(connect(kubeconfig, folder=tmp_path), endpoints(namespace, "example")) == 0
    deadline = time.monotonic() + 30
    while refusal(old, endpoints(namespace, "example")) != 401:
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_requests_are_counted(real_api_server: RealAPIServer) -> None:
    """The counters show what was asked, by verb and resource, so that measurements can be made of them."""
    namespace = real_api_server.namespace()
    real_api_server.request("POST", endpoints(namespace), lock_object("example"))
    before = real_api_server.metrics()

    for _ in range(3):
        real_api_server.request("GET", endpoints(namespace, "example"))
    after = real_api_server.metrics()

    counted = after.requests["GET", "endpoints"] - before.requests["GET", "endpoints"]
    # Others may ask a given cluster meanwhile.
    assert counted == 3 or (counted > 3 and not isinstance(real_api_server, LocalAPIServer))
    assert after.cpu_seconds > before.cpu_seconds > 0


@pytest.mark.usefixtures("real_api_server")
def test_a_server_of_our_own_can_hang_and_go_and_leaves_nothing(tmp_path: Path) -> None:
    """Pause, resume, kill, restart and `restore` keep address and data; after `close` its processes are gone."""
    if os.environ.get(ENVIRONMENT_KUBECONFIG):
        pytest.skip(f"{ENVIRONMENT_KUBECONFIG} is set, so no server of our own is wanted")
    with LocalAPIServer(tmp_path) as server:
        namespace = server.namespace()
        server.request("POST", endpoints(namespace), lock_object("example"))
        pids = [server.apiserver_pid, server.etcd_pid]

        server.pause()
        with pytest.raises(TimeoutError):
            server.connection.request("GET", endpoints(namespace, "example"), seconds=0.5)
        server.resume()
        assert refusal(server.connection, endpoints(namespace, "example")) == 0

        server.stop_apiserver()
        with pytest.raises(ConnectionRefusedError):
            server.request("GET", endpoints(namespace, "example"))
        server.start_apiserver()
        assert refusal(server.connection, endpoints(namespace, "example")) == 0
        pids.append(server.apiserver_pid)

        server.pause()
        server.stop_etcd()
        server.restore()
        assert refusal(server.connection, endpoints(namespace, "example")) == 0
        server.stop_apiserver()
        server.restore()
        assert refusal(server.connection, endpoints(namespace, "example")) == 0
        pids += [server.apiserver_pid, server.etcd_pid]

    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_the_cluster_of_the_environment_is_used(
    real_api_server: RealAPIServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A named kubeconfig is used instead of a server of our own; a test that would stop its processes is skipped."""
    monkeypatch.setenv(ENVIRONMENT_KUBECONFIG, str(real_api_server.admin_kubeconfig))

    with open_api_server(tmp_path) as server:
        assert server.url == real_api_server.url
        assert refusal(server.connection, endpoints(server.namespace())) == 0
        with pytest.raises(unittest.SkipTest, match=ENVIRONMENT_KUBECONFIG):
            server.pause()


def test_a_kubeconfig_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where the named kubeconfig does not exist, the one-line error names the variable, the file and the reason."""
    missing = tmp_path / "missing"
    monkeypatch.setenv(ENVIRONMENT_KUBECONFIG, str(missing))

    with pytest.raises(StartError) as caught:
        open_api_server(tmp_path)

    assert str(caught.value) == f"{ENVIRONMENT_KUBECONFIG}: {missing}: No such file or directory"
