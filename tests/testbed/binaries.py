"""The programs of Kubernetes for the tests: found, or built from their published Go modules.

`python -m tests.testbed.binaries` prints the folder with etcd and kube-apiserver, with `cluster` the folder with all
that a cluster needs.
"""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.testbed import golang

MODULE = Path(__file__).with_name("kubernetes")
NAMES = ("etcd", "kube-apiserver")


@dataclass(frozen=True)
class _Source:
    package: str
    cost: str
    """What a build takes on 2 cores, with nothing cached but the programs that stand before it."""
    module: Path = MODULE


_ETCD = "go.etcd.io/etcd/server/v3"
_COMMANDS = "k8s.io/kubernetes/cmd"
_SOURCES = {
    "etcd": _Source(_ETCD, "about a minute"),
    "kube-apiserver": _Source(f"{_COMMANDS}/kube-apiserver", "about 10 minutes"),
    "etcdctl": _Source("go.etcd.io/etcd/etcdctl/v3", "half a minute"),
    "kube-controller-manager": _Source(f"{_COMMANDS}/kube-controller-manager", "about a minute"),
    "kube-scheduler": _Source(f"{_COMMANDS}/kube-scheduler", "half a minute"),
    "kubelet": _Source(f"{_COMMANDS}/kubelet", "about a minute"),
    "kube-proxy": _Source(f"{_COMMANDS}/kube-proxy", "half a minute"),
    "kubectl": _Source(f"{_COMMANDS}/kubectl", "about a minute"),
    "pause": _Source("./pause", "a second"),
    "coredns": _Source("github.com/coredns/coredns", "about 3 minutes", module=MODULE / "dns"),
}


def ensure() -> Path:
    """Return the folder with etcd and kube-apiserver: `KUBEBUILDER_ASSETS`, else what `ensure_programs` builds.

    A build takes about ten minutes with nothing cached; progress goes to stderr. Raises golang.BuildError.
    """
    given = os.environ.get("KUBEBUILDER_ASSETS")
    if given:
        missing = [name for name in NAMES if not os.access(Path(given, name), os.X_OK)]
        if missing:
            raise golang.BuildError(f"KUBEBUILDER_ASSETS={given}: no {' and no '.join(missing)} in that folder")
        return Path(given).absolute()
    try:
        return ensure_programs(*NAMES)
    except golang.BuildError as error:
        raise golang.BuildError(f"{error}; or set KUBEBUILDER_ASSETS to a folder with {' and '.join(NAMES)}") from error


def ensure_cluster() -> Path:
    """Return the folder with every program of a cluster, etcdctl and the pause program included.

    They are built together and fit each other, so `KUBEBUILDER_ASSETS` is not asked. With nothing cached that takes
    12 to 17 minutes on 2 cores; progress goes to stderr. Raises golang.BuildError.
    """
    return ensure_programs(*_SOURCES)


def ensure_programs(*names: str) -> Path:
    """Return the folder in the cache with these programs, after building those that it does not have.

    Raises golang.BuildError.
    """
    kubernetes = version("k8s.io/kubernetes")
    folder = golang.cache() / "bin" / f"v{kubernetes}-{golang.digest(MODULE)}"
    stamp = "k8s.io/component-base/version"
    # Kubernetes' programs say which version they are, and kubelets and API servers compare.
    ldflags = (
        f"-X {stamp}.gitVersion=v{kubernetes} -X {stamp}.gitMajor=1 -X {stamp}.gitMinor={kubernetes.split('.')[1]}"
    )
    for name in names:
        source = _SOURCES[name]
        of = kubernetes if source.package.startswith(_COMMANDS) else version(_ETCD) if name.startswith("etcd") else ""
        golang.ensure(
            [golang.Program(name=name, package=source.package, ldflags=ldflags)],
            module=source.module,
            folder=folder,
            announce=f"{of} ({source.cost} with nothing cached) ...".lstrip(),
        )
    return folder


def version(module: str) -> str:
    """Return the version of a Go module of which programs are built, as `1.37.2`. Raises golang.BuildError."""
    found = re.search(rf"^\s*{re.escape(module)} v(\S+)", (MODULE / "go.mod").read_text(), re.MULTILINE)
    if found is None:
        raise golang.BuildError(f"{MODULE / 'go.mod'} does not require {module}")
    return found[1]


if __name__ == "__main__":
    sys.exit(golang.command(ensure_cluster if sys.argv[1:] == ["cluster"] else ensure))
