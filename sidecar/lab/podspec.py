"""How a pod calls its sidecar: its arguments and environment, as Kubernetes works them out from the pod. Pure.

References to variables are resolved as the kubelet does, the downward API and ConfigMaps included. Secrets are not
read: what comes from one is not known, nor is what refers to it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

PROGRAMS = {"leader-elector", "run.sh", "server"}
"""What the sidecar is started as, in its own image and in the stock one."""

ENDED = {"Succeeded", "Failed"}
"""Phases of a pod in which nothing runs any more."""

LONGEST_HOST_NAME = 63

DEFAULT_GRACE_SECONDS = 30
"""What a pod has that does not say how long its containers may take to end."""

ALL_OF = "what is in"
"""What is not known begins so where it may have variables of any name."""

ConfigMaps = dict[str, "Mapping[str, str] | None"]
"""By name; `None` for one that could not be read."""

_REFERENCE = re.compile(r"\$\$|\$\(([^)]*)\)")
_OF_MAP = re.compile(r"metadata\.(labels|annotations)\['([^']*)'\]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """How one container of one pod is called."""

    namespace: str
    pod: str
    pod_uid: str
    node: str
    account: str
    """The service account of the pod."""
    container: str
    argv: tuple[str, ...]
    environ: dict[str, str]
    host_name: str
    grace_seconds: int
    is_opaque: bool = False
    """Whether something else than the sidecar's program is called, a shell perhaps, and with what is not known."""
    unknown: tuple[str, ...] = ()
    """What is not known, and why, a text each."""

    @property
    def where(self) -> str:
        """Which container of which pod."""
        return f"pod {self.pod}, container {self.container}"


def config_maps_of(pod: Mapping[str, Any]) -> set[str]:
    """Return the names of the ConfigMaps that its sidecar's variables come from."""
    found = set()
    for container in _sidecars(pod):
        for source in _dicts(container.get("envFrom")):
            found.add(_text(_dict(source.get("configMapRef")).get("name")))
        for variable in _dicts(container.get("env")):
            found.add(_text(_dict(_dict(variable.get("valueFrom")).get("configMapKeyRef")).get("name")))
    return found - {""}


def calls_of(pod: Mapping[str, Any], config_maps: ConfigMaps) -> list[Call]:
    """Return how a pod calls what is a candidate in it; nothing for a pod that has ended, or has none."""
    if _text(_dict(pod.get("status")).get("phase")) in ENDED:
        return []
    return [_call(pod, container, config_maps) for container in _sidecars(pod)]


def _call(pod: Mapping[str, Any], container: Mapping[str, Any], config_maps: ConfigMaps) -> Call:
    metadata, spec = _dict(pod.get("metadata")), _dict(pod.get("spec"))
    name, node = _text(metadata.get("name")), _text(spec.get("nodeName"))
    host_name = node if spec.get("hostNetwork") is True else _text(spec.get("hostname")) or name
    grace = spec.get("terminationGracePeriodSeconds")
    environ, unknown = _environment(pod, container, config_maps)
    command, arguments = ([str(one) for one in _list(container.get(key))] for key in ("command", "args"))
    is_opaque = bool(command) and command[0].rpartition("/")[2] not in PROGRAMS
    argv = []
    for text in (*command[1:], *arguments):
        known = _expanded(text, environ, unknown)
        if known is None:
            unknown[f"argument {text}"] = "refers to a variable that is not known"
        else:
            argv.append(known)
    return Call(
        namespace=_text(metadata.get("namespace")),
        pod=name,
        pod_uid=_text(metadata.get("uid")),
        node=node,
        account=_text(spec.get("serviceAccountName")) or "default",
        container=_text(container.get("name")),
        argv=tuple(argv),
        environ=environ,
        host_name=host_name[:LONGEST_HOST_NAME],
        grace_seconds=grace if isinstance(grace, int) else DEFAULT_GRACE_SECONDS,
        is_opaque=is_opaque,
        unknown=tuple(f"{what} {why}" for what, why in unknown.items()),
    )


def _sidecars(pod: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    spec = _dict(pod.get("spec"))
    containers = [*_dicts(spec.get("initContainers")), *_dicts(spec.get("containers"))]
    return [container for container in containers if _is_sidecar(container)]


def _is_sidecar(container: Mapping[str, Any]) -> bool:
    image = _text(container.get("image")).rpartition("/")[2]
    return (
        "leader-elector" in image
        or container.get("name") == "leader-elector"
        or any(variable.get("name") == "ELECTION_NAME" for variable in _dicts(container.get("env")))
        or any(re.match(r"--?election(=|$)", str(text)) for text in _list(container.get("args")))
    )


# -- The environment ---------------------------------------------------------------------------------------------------


def _environment(
    pod: Mapping[str, Any], container: Mapping[str, Any], config_maps: ConfigMaps
) -> tuple[dict[str, str], dict[str, str]]:
    """Return the variables, and those whose value is not known, with the reason."""
    environ: dict[str, str] = {}
    unknown: dict[str, str] = {}
    for source in _dicts(container.get("envFrom")):
        prefix = _text(source.get("prefix"))
        if secret := _text(_dict(source.get("secretRef")).get("name")):
            unknown[f"{ALL_OF} Secret {secret}"] = "is not known"
        if name := _text(_dict(source.get("configMapRef")).get("name")):
            values = config_maps.get(name)
            if values is None:
                unknown[f"{ALL_OF} ConfigMap {name}"] = "cannot be read"
            environ |= {f"{prefix}{key}": value for key, value in (values or {}).items()}
    for variable in _dicts(container.get("env")):
        name = _text(variable.get("name"))
        value, why = _value(pod, variable, config_maps, environ, unknown)
        environ.pop(name, None)
        unknown.pop(name, None)
        if value is not None:
            environ[name] = value
        elif why:
            unknown[name] = why
    return environ, unknown


def _value(
    pod: Mapping[str, Any],
    variable: Mapping[str, Any],
    config_maps: ConfigMaps,
    environ: Mapping[str, str],
    unknown: Mapping[str, str],
) -> tuple[str | None, str]:
    """Return a variable's value; `None` where it has none, with the reason where that is not known."""
    source = _dict(variable.get("valueFrom"))
    if not source:
        value = _expanded(_text(variable.get("value")), environ, unknown)
        return value, "refers to a variable that is not known"
    if field := _dict(source.get("fieldRef")):
        path = _text(field.get("fieldPath"))
        value = _field(pod, path)
        return value, f"comes from the field {path}, which is empty or not known"
    if reference := _dict(source.get("configMapKeyRef")):
        name = _text(reference.get("name"))
        values = config_maps.get(name)
        if values is None:
            return None, f"comes from ConfigMap {name}, which cannot be read"
        return values.get(_text(reference.get("key"))), ""
    if reference := _dict(source.get("secretKeyRef")):
        return None, f"comes from Secret {_text(reference.get('name'))}"
    return None, "comes from a resource field"


def _field(pod: Mapping[str, Any], path: str) -> str | None:
    """Return what the downward API gives for a field; `None` for one that is not known here."""
    metadata, spec, status = (_dict(pod.get(key)) for key in ("metadata", "spec", "status"))
    if path in ("metadata.name", "metadata.namespace", "metadata.uid"):
        return _text(metadata.get(path.partition(".")[2]))
    if found := _OF_MAP.fullmatch(path):
        return _text(_dict(metadata.get(found[1])).get(found[2]))
    # These are empty until the pod has a node.
    if path in ("spec.nodeName", "spec.serviceAccountName"):
        return _text(spec.get(path.partition(".")[2])) or None
    if path in ("status.hostIP", "status.podIP"):
        return _text(status.get(path.partition(".")[2])) or None
    return None


def _expanded(text: str, environ: Mapping[str, str], unknown: Mapping[str, str]) -> str | None:
    """Resolve `$(NAME)` as the kubelet does: what is not there stays as it is; `None` when it is not known."""
    if any(name in unknown for name in _REFERENCE.findall(text)):
        return None
    return _REFERENCE.sub(lambda found: "$" if found[0] == "$$" else environ.get(found[1], found[0]), text)


# -- Objects that somebody else made -----------------------------------------------------------------------------------


def _dict(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _dicts(value: object) -> Iterator[Mapping[str, Any]]:
    return (one for one in _list(value) if isinstance(one, dict))


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
