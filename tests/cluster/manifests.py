"""What the tests apply: the manifests in k8s/ as users apply them, with other names and in a namespace of their own."""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.testbed.cluster import Cluster

K8S = Path(__file__).parents[2] / "k8s"
EXAMPLE = K8S / "example"
SIDECAR = "leader-elector"
"""What the manifests call the sidecar's container, and its image without the tag."""
MAIN = "main"
APPLICATION = "app.kubernetes.io/name"
"""The label that says of which application a pod is."""

Document = dict[str, Any]

IDLE = """\
trap 'exit 0' TERM
while true; do sleep 3600 & wait $!; done
"""
"""A main container that does nothing, and ends when it is told to."""


@dataclass(frozen=True, kw_only=True)
class Image:
    """The image under test, by the name that the nodes know it by, and that of the main containers."""

    name: str
    pull_policy: str
    curl: str


@dataclass(frozen=True, kw_only=True)
class Application:
    """One StatefulSet, made of the example's, whose sidecars hold one election."""

    name: str
    replicas: int = 3
    parallel: bool = False
    """Whether its pods start at once, not one after the other."""
    script: str = ""
    """What the main container does; the example's where nothing is said."""
    ttl: int = 0
    """Seconds of the lease; the program's own where nothing is said."""
    stock_args: Sequence[str] = ()
    """The arguments of a plain second container, as users of the stock image have it, in place of the Component's."""

    @property
    def election(self) -> str:
        """The name of its election."""
        return f"{self.name}-leader"

    def patches(self) -> list[Document]:
        """Return what its users add to their kustomization beside the Component."""
        if not self.ttl:
            return []
        variables = [{"name": "ELECTION_TTL", "value": f"{self.ttl}s"}]
        patch = {
            "apiVersion": "apps/v1",
            "kind": "StatefulSet",
            "metadata": {"name": self.name},
            "spec": {"template": {"spec": {"initContainers": [{"name": SIDECAR, "env": variables}]}}},
        }
        return [{"target": {"kind": "StatefulSet", "name": self.name}, "patch": json.dumps(patch)}]

    def documents(self) -> list[Document]:
        """Return its manifests, as they are before the Component adds the sidecar, unless that is a plain one."""
        text = (EXAMPLE / "example.yaml").read_text().replace("example", self.name)
        found: list[Document] = list(yaml.safe_load_all(text))
        for document in found:
            del document["metadata"]["namespace"]
            if document["kind"] == "StatefulSet":
                self._fill(document)
        return found

    def _fill(self, stateful_set: Document) -> None:
        stateful_set["spec"]["replicas"] = self.replicas
        stateful_set["spec"]["podManagementPolicy"] = "Parallel" if self.parallel else "OrderedReady"
        containers = stateful_set["spec"]["template"]["spec"]["containers"]
        if self.script:
            containers[0]["args"] = [self.script]
        if self.stock_args:
            del stateful_set["metadata"]["labels"]
            containers.append({"name": SIDECAR, "image": SIDECAR, "args": list(self.stock_args)})


def example(cluster: Cluster, image: Image, *, namespace: str) -> list[Document]:
    """Render the example as it stands, but for its namespace."""
    return _under_test(kustomized(cluster, namespace=namespace, resources=[EXAMPLE]), image)


def applications(
    cluster: Cluster, image: Image, given: Sequence[Application], *, namespace: str, rbac: str = "recommended"
) -> list[Document]:
    """Render applications with the sidecar that the Component adds, and one of the three steps of permissions."""
    documents = [document for application in given for document in application.documents()]
    rendered = kustomized(
        cluster,
        namespace=namespace,
        resources=[K8S / "rbac" / rbac],
        components=[K8S / "sidecar"],
        documents=documents,
        patches=[patch for application in given for patch in application.patches()],
    )
    return _under_test(rendered, image)


def apply(cluster: Cluster, documents: Sequence[Document]) -> None:
    """Apply them all at once."""
    listed = {"apiVersion": "v1", "kind": "List", "items": list(documents)}
    cluster.kubectl("apply", "--filename=-", stdin=json.dumps(listed))


def kustomized(
    cluster: Cluster,
    *,
    namespace: str,
    resources: Sequence[Path],
    components: Sequence[Path] = (),
    documents: Sequence[Document] = (),
    patches: Sequence[Document] = (),
) -> list[Document]:
    """Render a kustomization of these parts in a namespace. Raises ClusterError."""
    with tempfile.TemporaryDirectory(prefix="leader-elector-kustomization-") as temporary:
        folder = Path(temporary).resolve()
        # JSON is YAML.
        (folder / "documents.yaml").write_text("\n---\n".join(map(json.dumps, documents)))
        kustomization = {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "namespace": namespace,
            "resources": [*_relative(resources, folder), *(["documents.yaml"] if documents else [])],
            "components": _relative(components, folder),
            "patches": list(patches),
        }
        (folder / "kustomization.yaml").write_text(json.dumps(kustomization))
        return list(yaml.safe_load_all(cluster.kubectl("kustomize", str(folder))))


def _relative(paths: Sequence[Path], folder: Path) -> list[str]:
    # Kustomize takes no absolute path.
    return [os.path.relpath(path, folder) for path in paths]


def _under_test(documents: list[Document], image: Image) -> list[Document]:
    for container in _containers(documents):
        if container["name"] == SIDECAR:
            container["image"], container["imagePullPolicy"] = image.name, image.pull_policy
        else:
            container["image"] = image.curl
    return documents


def _containers(documents: Sequence[Document]) -> Iterator[Document]:
    for document in documents:
        pod = document.get("spec", {}).get("template", {}).get("spec", {})
        yield from pod.get("initContainers", ())
        yield from pod.get("containers", ())
