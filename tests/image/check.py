"""Proves, as the last step of the image's build, that the sidecar works without what was left out of the image.

Everything that it takes from its libraries is used once: each kind of credentials that a kubeconfig can have, a pod's
service account, every kind of request, and the program itself, which has to lead, answer, and end when it is told to.
What is missing ends the build with an error that names it. Run by the Python that the image will run.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import ssl
import sys
import sysconfig
import tempfile
import urllib.request
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from sidecar import imports

imports.make_lazy()

from aiohttp import web  # noqa: E402 - as late as in the program, as all that follows
from kubernetes_asyncio.config import incluster_config  # noqa: E402

from sidecar import kubeconfig  # noqa: E402
from sidecar.kube import KubeClient  # noqa: E402
from sidecar.lab.access import ADMIN  # noqa: E402
from sidecar.lab.apiserver import EmbeddedAPIServer  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

TOKEN = "known"
SECONDS = 60.0
"""Within which everything must be done."""
REQUEST_SECONDS = 5.0
ENDPOINTS = "/api/v1/namespaces/default/endpoints"


async def main() -> None:
    """Carry out everything, within a deadline."""
    with tempfile.TemporaryDirectory() as folder:
        async with asyncio.timeout(SECONDS), EmbeddedAPIServer() as server, _identity_provider() as issuer:
            server.users = {TOKEN: ADMIN}
            paths = _write_kubeconfigs(Path(folder), server.url, issuer)
            for path in paths:
                await _ask_everything(path)
            await _run_program(paths[0])
            await _load_service_account(Path(folder))
    sys.stdout.write("the sidecar works with what the image holds\n")


def _write_kubeconfigs(folder: Path, url: str, issuer: str) -> list[Path]:
    """Write a kubeconfig for each way to a token, called like it."""
    token_file = folder / "token.txt"
    token_file.write_text(TOKEN)
    version = "client.authentication.k8s.io/v1"
    printed = json.dumps({"apiVersion": version, "kind": "ExecCredential", "status": {"token": TOKEN}})
    client = {"client-id": "check", "client-secret": "check", "refresh-token": "check", "idp-issuer-url": issuer}
    users: dict[str, dict[str, object]] = {
        "token": {"token": TOKEN},
        "token-file": {"tokenFile": str(token_file)},
        "exec": {"exec": {"apiVersion": version, "command": "echo", "args": [printed], "interactiveMode": "Never"}},
        "oidc": {"auth-provider": {"name": "oidc", "config": client}},
    }
    for name, user in users.items():
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "check", "cluster": {"server": url}}],
            "users": [{"name": "check", "user": user}],
            "contexts": [{"name": "check", "context": {"cluster": "check", "user": "check"}}],
            "current-context": "check",
        }
        Path(folder, name).write_text(json.dumps(content))  # JSON is YAML
    return [folder / name for name in users]


@asynccontextmanager
async def _identity_provider() -> AsyncIterator[str]:
    """Serve what hands out a token for a refresh token (OpenID Connect Discovery, section 4); yields its URL."""

    async def configuration(request: web.Request) -> web.Response:
        return web.json_response({"token_endpoint": str(request.url.origin() / "token")})

    async def token(_request: web.Request) -> web.Response:
        return web.json_response({"id_token": TOKEN, "refresh_token": "check"})

    app = web.Application()
    app.add_routes([web.get("/.well-known/openid-configuration", configuration), web.post("/token", token)])
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def _client(path: Path | None) -> KubeClient:
    load = kubeconfig.choose(
        kubeconfig=str(path) if path else None,
        use_cluster_credentials=path is None,
        environ=os.environ,
        home=Path("~"),
    )
    return KubeClient(load, timeout=REQUEST_SECONDS, user_agent="check")


async def _ask_everything(path: Path) -> None:
    """Send every kind of request with one kubeconfig."""
    client, name = _client(path), path.name
    made = await client.create(ENDPOINTS, {"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": name}})
    await client.patch(f"{ENDPOINTS}/{name}", {"metadata": {"labels": {"check": name}}})
    held = await client.get(f"{ENDPOINTS}/{name}")
    await client.update(f"{ENDPOINTS}/{name}", held)
    listed = await client.list_metadata(ENDPOINTS, label=f"check={name}", cached=False)
    version = int(made["metadata"]["resourceVersion"])
    async with client.watch(ENDPOINTS, name=name, version=version, seconds=5) as events:
        changed = await anext(events)
    await client.close()
    if [one["metadata"]["name"] for one in listed] != [name] or changed.body["metadata"]["name"] != name:
        raise SystemExit(f"{path.name}: {name} was listed as {listed}, and seen as {changed}")


async def _load_service_account(folder: Path) -> None:
    """Load a pod's configuration, up to the first connection."""
    token, authority = folder / "token", folder / "ca.crt"
    token.write_text(TOKEN)
    # Any will do: none of them is asked.
    authority.write_text(ssl.DER_cert_to_PEM_cert(_context().get_ca_certs(binary_form=True)[0]))
    incluster_config.SERVICE_TOKEN_FILENAME, incluster_config.SERVICE_CERT_FILENAME = str(token), str(authority)
    os.environ.update(KUBERNETES_SERVICE_HOST="127.0.0.1", KUBERNETES_SERVICE_PORT="443")
    client = _client(None)
    await client.connect()
    await client.close()


def _context() -> ssl.SSLContext:
    """Return a context with the system's authorities, on which a kubeconfig that names none relies."""
    context = ssl.create_default_context()
    if not context.get_ca_certs():
        raise SystemExit("the base has no certificate authorities; on Debian: ca-certificates")
    return context


async def _run_program(path: Path) -> None:
    """Run the sidecar until it says that it leads; then it has to end well."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    program = Path(sysconfig.get_path("scripts"), "leader-elector")
    flags = ["--election=program", "--id=check", f"--kubeconfig={path}", f"--http=127.0.0.1:{port}"]
    process = await asyncio.create_subprocess_exec(program, *flags)
    try:
        while await asyncio.to_thread(_answer, port) != b'{"name":"check"}':
            if process.returncode is not None:
                raise SystemExit(f"{program} ended with status {process.returncode}")
            await asyncio.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        if await process.wait() != 0:
            raise SystemExit(f"{program} ended with status {process.returncode} on SIGTERM")
    finally:
        if process.returncode is None:
            process.kill()


def _answer(port: int) -> bytes:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=REQUEST_SECONDS) as answer:
            return bytes(answer.read())
    except OSError:
        return b""


if __name__ == "__main__":
    asyncio.run(main())
