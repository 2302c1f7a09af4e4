"""etcd and kube-apiserver for the tests: found, or built from their published Go modules.

`python -m tests.testbed.binaries` prints the folder that holds both.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

from tests.testbed import golang

MODULE = Path(__file__).with_name("kubernetes")
NAMES = ("etcd", "kube-apiserver")


def ensure() -> Path:
    """Return the folder with both: `KUBEBUILDER_ASSETS`, else the cache, into which missing ones are built.

    A build takes about ten minutes with nothing cached; progress goes to stderr. Raises golang.BuildError.
    """
    given = os.environ.get("KUBEBUILDER_ASSETS")
    if given:
        missing = [name for name in NAMES if not os.access(Path(given, name), os.X_OK)]
        if missing:
            raise golang.BuildError(f"KUBEBUILDER_ASSETS={given}: no {' and no '.join(missing)} in that folder")
        return Path(given).absolute()
    try:
        return _build()
    except golang.BuildError as error:
        raise golang.BuildError(f"{error}; or set KUBEBUILDER_ASSETS to a folder with {' and '.join(NAMES)}") from error


def _build() -> Path:
    kubernetes, etcd = _version("k8s.io/kubernetes"), _version("go.etcd.io/etcd/server/v3")
    folder = golang.cache() / "bin" / f"v{kubernetes}-{golang.digest(MODULE)}"
    minor = kubernetes.split(".")[1]
    stamp = "k8s.io/component-base/version"
    ldflags = f"-X {stamp}.gitVersion=v{kubernetes} -X {stamp}.gitMajor=1 -X {stamp}.gitMinor={minor}"
    server = golang.Program(name="etcd", package="go.etcd.io/etcd/server/v3", ldflags=ldflags)
    golang.ensure([server], module=MODULE, folder=folder, announce=f"{etcd} (about a minute with nothing cached) ...")
    apiserver = golang.Program(name="kube-apiserver", package="k8s.io/kubernetes/cmd/kube-apiserver", ldflags=ldflags)
    golang.ensure(
        [apiserver],
        module=MODULE,
        folder=folder,
        announce=f"{kubernetes} (about 10 minutes on 2 cores with nothing cached) ...",
    )
    return folder


def _version(module: str) -> str:
    found = re.search(rf"^\s*{re.escape(module)} v(\S+)", (MODULE / "go.mod").read_text(), re.MULTILINE)
    if found is None:
        raise golang.BuildError(f"{MODULE / 'go.mod'} does not require {module}")
    return found[1]


def main() -> int:
    """Print the folder; status 1 and one line on stderr when it cannot be had."""
    try:
        folder = ensure()
    except golang.BuildError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    sys.stdout.write(f"{folder}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
