"""The manifests in k8s/: a real API server accepts them, the sidecar takes what they say, and no copy differs."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import tomllib
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from sidecar import settings
from tests.testbed import processes
from tests.testbed.connection import write_kubeconfig
from tests.testbed.ports import free_port
from tests.testbed.sidecar import PROGRAM, Sidecars, environment, leader_of, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from tests.testbed.apiserver import RealAPIServer
    from tests.testbed.embedded import APIServer

ROOT = Path(__file__).parents[2]
K8S = ROOT / "k8s"
SIDECAR = K8S / "sidecar" / "sidecar.yaml"
EXAMPLE = K8S / "example"
PLAIN = K8S / "example.yaml"
MIGRATING = ROOT / "docs" / "migrating.md"

COMPLETE = sorted(
    [PLAIN, *K8S.glob("rbac/*/rbac.yaml"), *EXAMPLE.glob("example.yaml"), *K8S.glob("services/services.yaml")]
)
"""What is applied with `kubectl apply -f`."""

KUSTOMIZATIONS = sorted(
    path.parent
    for path in [EXAMPLE / "kustomization.yaml", *K8S.glob("rbac/*/kustomization.yaml"), *K8S.glob("services/kust*")]
)
"""What is applied with `kubectl apply -k`."""

Document = dict[str, Any]

COLLECTIONS = {
    "Service": "/api/v1/namespaces/{}/services",
    "ServiceAccount": "/api/v1/namespaces/{}/serviceaccounts",
    "Pod": "/api/v1/namespaces/{}/pods",
    "Deployment": "/apis/apps/v1/namespaces/{}/deployments",
    "StatefulSet": "/apis/apps/v1/namespaces/{}/statefulsets",
    "Role": "/apis/rbac.authorization.k8s.io/v1/namespaces/{}/roles",
    "RoleBinding": "/apis/rbac.authorization.k8s.io/v1/namespaces/{}/rolebindings",
    "ClusterRole": "/apis/rbac.authorization.k8s.io/v1/clusterroles",
    "ClusterRoleBinding": "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
}

WORKLOADS = """\
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {leader-elector/election: web-leader}}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      initContainers:
        - {name: migrate, image: web, volumeMounts: [{name: data, mountPath: /data}]}
        - {name: proxy, image: proxy, restartPolicy: Always}
      containers:
        - {name: main, image: web, env: [{name: COLOUR, value: red}]}
      volumes: [{name: data, emptyDir: {}}]
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: store, labels: {leader-elector/election: store-leader}}
spec:
  serviceName: store
  selector: {matchLabels: {app: store}}
  template:
    metadata: {labels: {app: store}}
    spec: {containers: [{name: main, image: store}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: other}
spec:
  selector: {matchLabels: {app: other}}
  template:
    metadata: {labels: {app: other}}
    spec: {containers: [{name: main, image: other}]}
---
apiVersion: v1
kind: Service
metadata: {name: store, labels: {leader-elector/election: store-leader}}
spec: {clusterIP: None, selector: {app: store}}
"""
"""Two workloads that take part in elections, one that does not, and a Service with the label all the same."""


def documents(text: str) -> list[Document]:
    """Return what YAML has in it."""
    return list(yaml.safe_load_all(text))


def by_name(found: Sequence[Document]) -> dict[tuple[str, str], Document]:
    """Return the objects by kind and name."""
    return {(one["kind"], one["metadata"]["name"]): one for one in found}


def pod(workload: Document) -> Document:
    """Return the spec of a workload's pods."""
    spec: Document = workload["spec"]["template"]["spec"]
    return spec


def sidecar_container() -> Document:
    """Return what the Component adds."""
    (container,) = pod(yaml.safe_load(SIDECAR.read_text(encoding="utf-8")))["initContainers"]
    return dict(container)


def yaml_blocks(document: Path) -> list[str]:
    """Return the YAML blocks of a page."""
    return re.findall(r"^```yaml\n(.*?)^```$", document.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


@pytest.fixture
def kustomize(kubectl: Path) -> Callable[[Path], list[Document]]:
    """Render a kustomization."""

    def rendered(folder: Path) -> list[Document]:
        done = subprocess.run([kubectl, "kustomize", folder], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        return documents(done.stdout)

    return rendered


def kustomization(folder: Path, content: Document, **files: str) -> Path:
    """Write a kustomization that uses the Component, with other files beside it, and return its folder."""
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
    # kustomize wants relative paths, and takes no link for a folder.
    content = {"components": [os.path.relpath(SIDECAR.parent, folder.resolve())], **content}
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    return folder


def accepted(server: RealAPIServer, document: Document, namespace: str) -> Document:
    """Ask the API server to create an object, as a dry run and minding every field; return what it would be."""
    moved = json.loads(json.dumps(document).replace('"default"', json.dumps(namespace)))
    path = COLLECTIONS[document["kind"]].format(namespace)
    created: Document = server.request("POST", f"{path}?dryRun=All&fieldValidation=Strict", moved)
    return created


# -- What an API server says of them -----------------------------------------------------------------------------------


@pytest.mark.parametrize("path", COMPLETE, ids=lambda path: str(path.relative_to(K8S)))
def test_a_file_is_accepted(real_api_server: RealAPIServer, path: Path) -> None:
    """The API server would create everything that is in a file, and knows every field of it."""
    namespace = real_api_server.namespace()
    found = documents(path.read_text(encoding="utf-8"))
    assert found
    for document in found:
        accepted(real_api_server, document, namespace)


@pytest.mark.parametrize("folder", KUSTOMIZATIONS, ids=lambda path: str(path.relative_to(K8S)))
def test_a_kustomization_is_accepted(
    real_api_server: RealAPIServer, kustomize: Callable[[Path], list[Document]], folder: Path
) -> None:
    """The API server would create everything that a kustomization renders, and knows every field of it."""
    namespace = real_api_server.namespace()
    rendered = kustomize(folder)
    assert rendered
    for document in rendered:
        accepted(real_api_server, document, namespace)


def test_pods_are_admitted_under_the_strictest_standard(real_api_server: RealAPIServer) -> None:
    """A namespace that enforces the Pod Security Standard `restricted` takes the example's pods as they stand."""
    namespace = real_api_server.namespace()
    labels = {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}}
    path = f"/api/v1/namespaces/{namespace}"
    real_api_server.request("PATCH", path, labels, content_type="application/merge-patch+json")
    found = by_name(documents(PLAIN.read_text(encoding="utf-8")))
    account = {**found["ServiceAccount", "leader-elector"], "metadata": {"name": "leader-elector"}}
    real_api_server.request("POST", COLLECTIONS["ServiceAccount"].format(namespace), account)

    template = found["StatefulSet", "example"]["spec"]["template"]
    metadata = {"name": "example-0", "labels": template["metadata"]["labels"]}
    created = accepted(
        real_api_server,
        {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]},
        namespace,
    )
    assert [one["name"] for one in created["spec"]["initContainers"]] == ["leader-elector"]


# -- The Component -----------------------------------------------------------------------------------------------------


def test_the_component_adds_the_sidecar(
    real_api_server: RealAPIServer, kustomize: Callable[[Path], list[Document]], tmp_path: Path
) -> None:
    """A Deployment and a StatefulSet with the label get the sidecar, each for its own election; nothing else changes.

    It comes behind the init containers that are there, so that a pod which still prepares itself is no candidate.
    """
    before = by_name(documents(WORKLOADS))
    folder = kustomization(tmp_path / "overlay", {"resources": ["workloads.yaml"]}, workloads=WORKLOADS)
    after = by_name(kustomize(folder))

    for key, others in ((("Deployment", "web"), ["migrate", "proxy"]), (("StatefulSet", "store"), [])):
        template = after[key]["spec"]["template"]
        assert template["metadata"]["labels"].pop("leader-elector/election") == f"{key[1]}-leader"
        added = pod(after[key])["initContainers"].pop()
        assert added == sidecar_container()
        assert [one["name"] for one in pod(after[key])["initContainers"]] == others
        if not others:
            del pod(after[key])["initContainers"]
    assert after == before
    for document in kustomize(folder):
        accepted(real_api_server, document, "default")


def test_the_component_leaves_room_for_ones_own(kustomize: Callable[[Path], list[Document]], tmp_path: Path) -> None:
    """In the same kustomization, options can be set by a patch, the image be named, and everything be renamed.

    The sidecar stays behind the other init containers where the patch names them before it.
    """
    options = """\
kind: Deployment
metadata: {name: web}
spec:
  template:
    spec:
      initContainers:
        - {name: migrate}
        - {name: proxy}
        - {name: leader-elector, env: [{name: ELECTION_TTL, value: 15s}]}
"""
    content = {
        "resources": ["workloads.yaml"],
        "namespace": "shop",
        "namePrefix": "blue-",
        "images": [{"name": "leader-elector", "newName": "registry.example.com/leader-elector", "newTag": "9.9.9"}],
        "patches": [{"path": "options.yaml", "target": {"kind": "Deployment", "name": "web"}}],
    }
    after = by_name(kustomize(kustomization(tmp_path / "overlay", content, workloads=WORKLOADS, options=options)))

    web, store = (
        pod(after[key])["initContainers"][-1] for key in (("Deployment", "blue-web"), ("StatefulSet", "blue-store"))
    )
    assert web["image"] == store["image"] == "registry.example.com/leader-elector:9.9.9"
    assert [one for one in web["env"] if one not in store["env"]] == [{"name": "ELECTION_TTL", "value": "15s"}]
    assert after["Deployment", "blue-web"]["spec"]["template"]["metadata"]["labels"] == {
        "app": "web",
        "leader-elector/election": "web-leader",
    }


def test_a_chart_gets_the_sidecar_in_place_of_its_own(
    real_api_server: RealAPIServer, kustomize: Callable[[Path], list[Document]], tmp_path: Path
) -> None:
    """The two kustomizations for what a chart renders: its container goes, the sidecar comes, with its name and ttl."""
    base, overlay = (yaml.safe_load(block) for block in yaml_blocks(MIGRATING) if block.startswith("resources:"))
    chart = yaml.safe_load(
        WORKLOADS.partition("---")[0].replace("web", "vault-agent-injector").replace(", labels: {leader", ", none: {no")
    )
    del chart["metadata"]["none"], pod(chart)["initContainers"]
    pod(chart)["containers"].append(next(iter(charts_containers())))
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "kustomization.yaml").write_text(yaml.safe_dump(base))
    (tmp_path / "base" / "rendered.yaml").write_text(yaml.safe_dump(chart))
    assert overlay["components"] == ["sidecar"]
    overlay["components"] = [os.path.relpath(SIDECAR.parent, tmp_path.resolve())]
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(overlay))

    (rendered,) = kustomize(tmp_path)

    assert [one["name"] for one in pod(rendered)["containers"]] == ["main"]
    (sidecar,) = pod(rendered)["initContainers"]
    assert {"name": "ELECTION_TTL", "value": "60s"} in sidecar["env"]
    assert (
        rendered["spec"]["template"]["metadata"]["labels"]["leader-elector/election"] == "vault-agent-injector-leader"
    )
    accepted(real_api_server, rendered, "default")


# -- What the sidecar makes of them ------------------------------------------------------------------------------------


def resolved(container: Mapping[str, Any], fields: Mapping[str, str]) -> dict[str, str]:
    """Return the environment that a kubelet gives the container of a pod with these fields."""
    return {
        one["name"]: one["value"] if "value" in one else fields[one["valueFrom"]["fieldRef"]["fieldPath"]]
        for one in container.get("env", [])
    }


def fields_of(name: str, namespace: str, election: str) -> dict[str, str]:
    """Return the fields of a pod that are asked for."""
    return {
        "metadata.name": name,
        "metadata.namespace": namespace,
        "metadata.uid": f"uid-of-{name}",
        "metadata.labels['leader-elector/election']": election,
        "spec.nodeName": "node-1",
    }


async def test_the_sidecar_takes_part_with_what_the_manifest_gives_it(
    sidecars: Sidecars, api_server: APIServer
) -> None:
    """With the variables of the manifest alone it takes part, under the pod's name, in the election of the label.

    All probes succeed, with a leader as with a follower.
    """
    namespace = api_server.namespace()
    rules = [
        {"apiGroups": [""], "resources": ["endpoints"], "verbs": ["get", "create", "update", "watch", "list", "patch"]}
    ]
    kubeconfig = api_server.kubeconfig_for("candidate", rules, namespace=namespace)
    container = sidecar_container()
    candidates = []
    for name in ("store-0", "store-1"):
        port = free_port()
        variables = resolved(container, fields_of(name, namespace, "store-leader"))
        assert set(variables) <= {option.variable for option in settings.TABLE}
        candidate = sidecars.start(
            http=None, port=port, kubeconfig=kubeconfig, env={**variables, "ELECTION_HTTP": f":{port}"}
        )
        candidate.identity = name
        candidates.append(candidate)
    await leader_of(candidates)

    for candidate in candidates:
        status = await candidate.status()
        assert (status["election"], status["namespace"]) == ("store-leader", namespace)
        assert (status["identity"], status["node"]) == (candidate.identity, "node-1")
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            assert (await candidate.ask(container[probe]["httpGet"]["path"])).status == 200
    for candidate in candidates:
        assert f"uid-of-{candidate.identity}" in candidate.output()


async def test_the_main_container_starts_without_an_api_server(sidecars: Sidecars, tmp_path: Path) -> None:
    """Where no API server can be reached, the sidecar has started and lives; the pod is not ready, and that is all."""
    nowhere = write_kubeconfig(tmp_path / "nowhere", url="http://127.0.0.1:1", ca_file=None, token="none")
    container = sidecar_container()
    port = free_port()
    variables = {**resolved(container, fields_of("store-0", "shop", "store-leader")), "ELECTION_HTTP": f":{port}"}
    sidecar = sidecars.start(http=None, port=port, kubeconfig=nowhere, env=variables)
    await sidecar.logging("get failed")

    statuses = {}
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        statuses[probe] = (await sidecar.ask(container[probe]["httpGet"]["path"])).status
    assert statuses == {"startupProbe": 200, "livenessProbe": 200, "readinessProbe": 503}


def test_a_missing_label_is_told(tmp_path: Path) -> None:
    """Without the label the variable is empty: the sidecar does not start, and says that the election has no name."""
    variables = resolved(sidecar_container(), fields_of("store-0", "shop", ""))
    done = subprocess.run(
        [PROGRAM], env=environment(tmp_path, variables), capture_output=True, text=True, timeout=20, check=False
    )
    assert done.returncode == 2
    assert "ELECTION_NAME" in done.stderr


def charts_containers() -> Iterator[Document]:
    """Yield the containers of charts that the page on migrating shows, whole ones."""
    for block in yaml_blocks(MIGRATING):
        found = yaml.safe_load(block)
        if isinstance(found, list) and "name" in found[0]:
            yield from found


CHARTS = list(charts_containers())


@pytest.mark.parametrize("container", CHARTS, ids=[" ".join(one.get("command", ["run.sh"]))[:20] for one in CHARTS])
async def test_a_charts_container_starts_as_it_stands(
    sidecars: Sidecars, api_server: APIServer, container: Document
) -> None:
    """What the page shows of charts is enough to lead, with the stock image's permissions; its probe succeeds."""
    namespace = api_server.namespace()
    rules = [{"apiGroups": [""], "resources": ["endpoints"], "verbs": ["get", "create", "update"]}]
    kubeconfig = api_server.kubeconfig_for("candidate", rules, namespace=namespace)
    variables = resolved(container, fields_of("pod-0", namespace, ""))
    command: list[str] = container.get("command", ["/run.sh"]) + container.get("args", [])
    entry, *arguments = command
    assert entry in {"/run.sh", "/server", "/app/server"}
    port = free_port()
    given = []
    for argument in arguments:
        expanded = re.sub(r"\$\((\w+)\)", lambda found: variables[found[1]], argument)
        address, found = re.subn(r"^(--http=.*):\d+$", rf"\1:{port}", expanded)
        given.append(address if found else expanded)
    # Not everybody says where: the stock image's default, and other namespaces, are not for a test to write to.
    given = [one for one in given if not one.startswith("--election-namespace=")]
    sidecar = sidecars.start(
        namespace=namespace, kubeconfig=kubeconfig, flags=given, http=None, port=port, env=variables
    )
    sidecar.identity = "pod-0" if "POD_NAME" in variables else socket.gethostname()

    await sidecar.leading()

    path = container.get("livenessProbe", {}).get("httpGet", {}).get("path", "/")
    assert (await sidecar.ask(path)).status == 200
    election = next(one.partition("=")[2] for one in given if one.startswith("--election="))
    assert (await sidecar.status())["election"] == election


# -- The example's main container --------------------------------------------------------------------------------------


async def test_the_main_container_says_what_it_sees(tmp_path: Path) -> None:
    """It prints each new answer, says when it leads itself, outlives a silent sidecar, and ends on SIGTERM."""
    (main,) = pod(by_name(documents(PLAIN.read_text(encoding="utf-8")))["StatefulSet", "example"])["containers"]
    answer, log = tmp_path / "answer", tmp_path / "log"
    # A curl that answers what the test says: the machine need not have one.
    curl = tmp_path / "curl"
    curl.write_text(f'#!/bin/sh\n[ "$*" = "-s -m 1 localhost:4040" ] && cat {answer}\n')
    curl.chmod(0o755)
    env = environment(tmp_path, {"PATH": f"{tmp_path}:{os.environ['PATH']}"})
    name = socket.gethostname()
    process = processes.start([*main["command"], *main["args"]], log=log, env=env)
    try:
        for told, seen in (
            (None, "no answer"),
            ('{"name":""}', '{"name":""}'),
            (f'{{"name":"{name}"}}', f'{{"name":"{name}"}}: I lead'),
            (f'{{"name":"{name}0"}}', f'{{"name":"{name}0"}}'),
        ):
            if told is not None:
                written = tmp_path / "written"
                written.write_text(told)
                written.rename(answer)
            await until(partial(_last_is, log, seen), f"{seen} is said", every=0.05)
        assert len(_lines(log)) == 4
        process.send_signal(signal.SIGTERM)
        await until(lambda: process.poll() is not None, "it ends")
        assert process.poll() == 0
    finally:
        process.kill()
        process.wait()


def _last_is(log: Path, line: str) -> bool:
    return _lines(log)[-1:] == [line]


def _lines(log: Path) -> list[str]:
    return [line for line in log.read_text().splitlines() if not line.startswith("cat:")]


# -- Nothing differs from what it is a copy of -------------------------------------------------------------------------


def test_the_plain_example_is_what_kustomize_renders(kustomize: Callable[[Path], list[Document]]) -> None:
    """The example in one file holds the very objects that its kustomization renders."""
    assert by_name(documents(PLAIN.read_text(encoding="utf-8"))) == by_name(kustomize(EXAMPLE))


def test_the_plain_example_has_the_components_text() -> None:
    """What there is to copy is the Component's text, comments and all."""
    _, found, block = SIDECAR.read_text(encoding="utf-8").partition("      initContainers:\n")
    assert found
    assert found + block in PLAIN.read_text(encoding="utf-8")


def test_every_manifest_names_this_version() -> None:
    """The image's tag is the version of the package, wherever a manifest or a page names the image with one."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    pages = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
    named = {
        path.name: re.findall(r"\bleader-elector:(\d+\.\d+\.\d+)", path.read_text(encoding="utf-8"))
        for path in (*sorted(K8S.rglob("*.yaml")), ROOT / "docker-compose.yml", *pages)
    }
    assert {SIDECAR.name, PLAIN.name, MIGRATING.name, "docker-compose.yml"} <= {name for name in named if named[name]}
    assert {tag for tags in named.values() for tag in tags} == {version}


def test_namespaces_of_one_group_are_allowed_beside_each_other(
    kustomize: Callable[[Path], list[Document]], tmp_path: Path
) -> None:
    """What the cluster's step says of further namespaces gives each a binding of its own, under another name."""
    header = (K8S / "rbac/cluster/rbac.yaml").read_text(encoding="utf-8").partition("apiVersion:")[0]
    shown = "\n".join(line[4:] for line in header.splitlines() if line.startswith("#   "))
    folder = tmp_path / "shop"
    folder.mkdir()
    content = {**yaml.safe_load(shown), "resources": [os.path.relpath(K8S / "rbac/cluster", folder)]}
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(content))

    bindings = [
        one
        for source in (kustomize(K8S / "rbac/cluster"), kustomize(folder))
        for one in source
        if one["kind"] == "ClusterRoleBinding"
    ]
    assert [(one["metadata"]["name"], one["subjects"][0]["namespace"]) for one in bindings] == [
        ("leader-elector-default", "default"),
        ("leader-elector-shop", "shop"),
    ]


def test_the_pages_variables_are_the_components() -> None:
    """The variables that the page on migrating shows are those of the Component."""
    (shown,) = (yaml.safe_load(block)["env"] for block in yaml_blocks(MIGRATING) if block.startswith("env:"))
    assert shown
    assert all(one in sidecar_container()["env"] for one in shown)


def test_readiness_does_not_depend_on_who_leads() -> None:
    """No probe asks for a role: one pod in all would be ready, and no StatefulSet would get to its second."""
    paths = {probe["httpGet"]["path"] for key, probe in sidecar_container().items() if key.endswith("Probe")}
    assert paths == {"/healthz", "/readyz"}
