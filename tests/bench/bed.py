"""Where cold starts take place: one API server for all of them, and a fresh namespace for each."""

from __future__ import annotations

import time
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.bench.candidates import Candidate, elections_of
from tests.bench.lockwatch import KINDS, LockWatch
from tests.testbed.apiserver import StartError
from tests.testbed.connection import APIError, write_kubeconfig
from tests.testbed.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from sidecar.lab.placement import Pod
    from tests.bench.candidates import Command, Election
    from tests.bench.forking import ForkServer
    from tests.bench.server import AuditedAPIServer

RBAC = "rbac.authorization.k8s.io"
GRANTED_SECONDS = 10.0
"""Within which the API server has to honour what was granted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One namespace, its candidates, not started yet, and the watch on their locks."""

    namespace: str
    candidates: dict[str, Candidate]
    """By identity."""
    elections: dict[str, Election]
    watch: LockWatch
    folder: Path


@dataclass(kw_only=True)
class Bed:
    """An API server with users: a service account for each identity, so that its requests are told from the others'."""

    server: AuditedAPIServer
    folder: Path
    command: Command
    ttl: str
    fork_server: ForkServer | None
    _users: str = ""
    _known: set[str] = field(default_factory=set)
    _ports: list[int] = field(default_factory=list)

    @contextmanager
    def stage(self, pods: Sequence[Pod], name: str) -> Iterator[Stage]:
        """Make a fresh namespace and a candidate for each pod; kill what was started, and remove its locks, afterwards.

        Raises TemplateError, WatchError, and what a request raises.
        """
        namespace = self._namespace()
        folder = self.folder / name
        folder.mkdir()
        ports = [self._ports.pop() if self._ports else free_port() for _ in pods]
        candidates = {
            pod.identity: self._candidate(pod, namespace=namespace, folder=folder, port=port)
            for pod, port in zip(pods, ports, strict=True)
        }
        with ExitStack() as stack:
            stack.callback(self._ports.extend, ports)
            # So that no later run has to share the server with what is left of this one.
            stack.callback(self._clear, namespace)
            watch = stack.enter_context(LockWatch(self.server.connection, namespace))
            for reap in (Candidate.bury, Candidate.kill):  # the last callback runs first
                for candidate in candidates.values():
                    stack.callback(reap, candidate)
            yield Stage(
                namespace=namespace,
                candidates=candidates,
                elections=elections_of(pods, candidates),
                watch=watch,
                folder=folder,
            )

    def _candidate(self, pod: Pod, *, namespace: str, folder: Path, port: int) -> Candidate:
        kubeconfig = write_kubeconfig(
            folder / f"{pod.identity}.kubeconfig",
            url=self.server.url,
            ca_file=self.server.connection.ca_file,
            # A new one for each run, because a token lasts an hour and a series may take longer.
            token=self._token(pod.identity),
            namespace=namespace,
        )
        return self.command.candidate(
            pod,
            namespace=namespace,
            port=port,
            kubeconfig=kubeconfig,
            ttl=self.ttl,
            folder=folder,
            fork_server=self.fork_server,
        )

    def _token(self, user: str) -> str:
        self._users = self._users or self.server.namespace()
        if user not in self._known:
            self.server.kubeconfig_for(user, (), namespace=self._users)
            self._known.add(user)
        return self.server.issue_token(user, namespace=self._users)

    def _namespace(self) -> str:
        """Make a namespace in which the users may do everything, so that no command is held up."""
        self._users = self._users or self.server.namespace()
        namespace = self.server.namespace()
        group = f"system:serviceaccounts:{self._users}"
        binding = {
            "apiVersion": f"{RBAC}/v1",
            "kind": "RoleBinding",
            "metadata": {"name": "candidates"},
            "subjects": [{"kind": "Group", "apiGroup": RBAC, "name": group}],
            "roleRef": {"apiGroup": RBAC, "kind": "ClusterRole", "name": "cluster-admin"},
        }
        self.server.request("POST", f"/apis/{RBAC}/v1/namespaces/{namespace}/rolebindings", binding)
        deadline = time.monotonic() + GRANTED_SECONDS
        while not self._is_granted(namespace, group):
            if time.monotonic() > deadline:
                raise StartError(f"{self.server.url}: nobody may use {namespace} after {GRANTED_SECONDS:g} s")
            time.sleep(0.02)
        return namespace

    def _is_granted(self, namespace: str, group: str) -> bool:
        attributes = {"namespace": namespace, "verb": "create", "group": "", "resource": "endpoints"}
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": {"user": "anybody", "groups": [group], "resourceAttributes": attributes},
        }
        answer = self.server.request("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", review)
        return bool(answer["status"]["allowed"])

    def _clear(self, namespace: str) -> None:
        for kind in KINDS:
            with suppress(APIError):
                self.server.request("DELETE", f"/{kind.format(namespace)}")
