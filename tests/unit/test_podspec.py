"""How a pod calls its sidecar: variables and arguments are worked out as the kubelet does it."""

from __future__ import annotations

from typing import Any

import pytest

from sidecar.lab.podspec import Call, ConfigMaps, calls_of, config_maps_of


def pod(container: dict[str, Any], **spec: Any) -> dict[str, Any]:  # noqa: ANN401 - a pod's
    """Return a pod with this container as its sidecar."""
    return {
        "metadata": {
            "name": "store-0",
            "namespace": "shop",
            "uid": "u-1",
            "labels": {"leader-elector/election": "store"},
            "annotations": {"a": "b"},
        },
        "spec": {"nodeName": "n1", "containers": [{"name": "leader-elector", **container}], **spec},
        "status": {"phase": "Running", "podIP": "10.0.0.7", "hostIP": "192.0.2.1"},
    }


def call(container: dict[str, Any], config_maps: ConfigMaps | None = None, **spec: Any) -> Call:  # noqa: ANN401 - a pod's
    """Return how that pod calls it."""
    (found,) = calls_of(pod(container, **spec), config_maps or {})
    return found


def env(**variables: Any) -> dict[str, Any]:  # noqa: ANN401 - texts, and where they come from
    """Return a container with these variables, in this order."""
    return {
        "env": [
            {"name": name, "value": value} if isinstance(value, str) else {"name": name, "valueFrom": value}
            for name, value in variables.items()
        ]
    }


def field(path: str) -> dict[str, Any]:
    """Return a reference to a field of the pod."""
    return {"fieldRef": {"fieldPath": path}}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("metadata.name", "store-0"),
        ("metadata.namespace", "shop"),
        ("metadata.uid", "u-1"),
        ("metadata.labels['leader-elector/election']", "store"),
        ("metadata.labels['none']", ""),
        ("metadata.annotations['a']", "b"),
        ("spec.nodeName", "n1"),
        ("status.podIP", "10.0.0.7"),
        ("status.hostIP", "192.0.2.1"),
    ],
)
def test_fields(path: str, value: str) -> None:
    """The downward API gives what is in the pod."""
    assert call(env(X=field(path))).environ == {"X": value}


def test_what_is_not_known() -> None:
    """What comes from a Secret, a resource or a field that is not known has no value, and neither has what uses it."""
    found = call(
        {
            **env(
                A={"secretKeyRef": {"name": "s", "key": "k"}},
                B="x-$(A)",
                C={"resourceFieldRef": {"resource": "limits.cpu"}},
                D=field("status.podIPs"),
                E={"configMapKeyRef": {"name": "denied", "key": "k"}},
                F="known",
            ),
            "args": ["--id=$(A)", "--ttl=5s"],
        },
        {"denied": None},
    )
    assert found.environ == {"F": "known"}
    assert found.argv == ("--ttl=5s",)
    assert found.unknown == (
        "A comes from Secret s",
        "B refers to a variable that is not known",
        "C comes from a resource field",
        "D comes from the field status.podIPs, which is empty or not known",
        "E comes from ConfigMap denied, which cannot be read",
        "argument --id=$(A) refers to a variable that is not known",
    )


def test_a_pod_without_a_node() -> None:
    """As long as it is not scheduled, its node is not known: that is nobody's mistake."""
    found = call(env(NODE_NAME=field("spec.nodeName")), nodeName=None)
    assert found.unknown == ("NODE_NAME comes from the field spec.nodeName, which is empty or not known",)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("$(A)", "1"),
        ("x$(A)y$(B)", "x1y2"),
        ("$(C)", "$(C)"),
        ("$$(A)", "$(A)"),
        ("$$$(A)", "$1"),
        ("$A ${A} $(", "$A ${A} $("),
        ("$()", "$()"),
        ("$(LATER)", "$(LATER)"),
    ],
)
def test_references(text: str, value: str) -> None:
    """`$(NAME)` stands for a variable that was named before; anything else stays as it is, and `$$` is a dollar."""
    found = call({**env(A="1", B="2", X=text, LATER="3")})
    assert found.environ["X"] == value


def test_arguments_see_every_variable() -> None:
    """Command and arguments are expanded with all of the container's variables; the program's name is left out."""
    found = call({**env(A="1"), "command": ["/app/server", "--id=$(A)"], "args": ["--ttl=$(B)"]})
    assert found.argv == ("--id=1", "--ttl=$(B)")
    assert not found.is_opaque


@pytest.mark.parametrize("command", [["/bin/sh", "-c"], ["python", "-m", "sidecar"]])
def test_another_program(command: list[str]) -> None:
    """What a shell, or any other program, makes of its arguments is not known."""
    assert call({"command": command, "args": ["exec leader-elector --election=x"]}).is_opaque


def test_config_maps() -> None:
    """Values come from ConfigMaps, whole or by key, and a variable of its own wins over them."""
    container = {
        **env(
            B={"configMapKeyRef": {"name": "m", "key": "b"}},
            C={"configMapKeyRef": {"name": "m", "key": "none"}},
            D="own",
        ),
        "envFrom": [
            {"configMapRef": {"name": "whole"}, "prefix": "ELECTION_"},
            {"configMapRef": {"name": "denied"}},
            {"secretRef": {"name": "s"}},
        ],
    }
    assert config_maps_of(pod(container)) == {"m", "whole", "denied"}
    found = call(container, {"m": {"b": "2"}, "whole": {"TTL": "5s"}, "denied": None})
    assert found.environ == {"ELECTION_TTL": "5s", "B": "2", "D": "own"}
    assert set(found.unknown) == {"what is in Secret s is not known", "what is in ConfigMap denied cannot be read"}


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        ({}, "store-0"),
        ({"hostname": "other"}, "other"),
        ({"hostNetwork": True}, "n1"),
        ({"hostname": "x" * 70}, "x" * 63),
    ],
)
def test_host_names(spec: dict[str, Any], name: str) -> None:
    """A pod's host name is its own name, unless it has another one or the node's network."""
    assert call({}, **spec).host_name == name


@pytest.mark.parametrize(
    ("container", "is_one"),
    [
        ({"name": "main", "image": "registry.example.com/leader-elector:0.5"}, True),
        ({"name": "main", "image": "leader-elector.example.com/main"}, False),
        ({"name": "main", "image": "x", "env": [{"name": "ELECTION_NAME", "value": "x"}]}, True),
        ({"name": "main", "image": "x", "args": ["--election=x"]}, True),
        ({"name": "main", "image": "x", "args": ["-election", "x"]}, True),
        ({"name": "main", "image": "x", "args": ["--elections=x"]}, False),
        ({"name": "leader-elector", "image": "x"}, True),
        ({"name": None, "image": None, "env": None, "args": None}, False),
    ],
)
def test_which_container_it_is(container: dict[str, Any], is_one: bool) -> None:  # noqa: FBT001 - a column of a table
    """The sidecar is known by its image, its name, its variable or its flag."""
    assert bool(calls_of(pod(container), {})) is is_one


@pytest.mark.parametrize("phase", ["Succeeded", "Failed"])
def test_a_pod_that_has_ended(phase: str) -> None:
    """Nothing runs in it any more."""
    assert calls_of({**pod({}), "status": {"phase": phase}}, {}) == []


def test_what_else_is_told() -> None:
    """Account, UID, node and how long it may take to end are the pod's; without them the usual ones hold."""
    found = call({}, serviceAccountName="store", terminationGracePeriodSeconds=5)
    assert (found.account, found.pod_uid, found.node, found.grace_seconds) == ("store", "u-1", "n1", 5)
    found = call({}, terminationGracePeriodSeconds=None)
    assert (found.account, found.grace_seconds) == ("default", 30)


@pytest.mark.parametrize("body", [{}, {"spec": None}, {"spec": {"containers": "x", "initContainers": [1, None]}}])
def test_what_is_no_pod(body: dict[str, Any]) -> None:
    """It has no sidecar."""
    assert calls_of(body, {}) == []
    assert config_maps_of(body) == set()
