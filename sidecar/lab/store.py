"""What an API server keeps: objects, one growing resourceVersion, and the history that watches are served from.

Pure and synchronous: no I/O, no clock and no randomness of its own, so that a simulation can run it under virtual
time and any transport can sit on it. Behaves as kube-apiserver over etcd does, for what a leader elector relies on.

What comes out of the store is shared with it: read it, never change it. What goes in is copied.

Left out, because nothing here needs it: managedFields, finalizers, defaults and validation of `spec`, and the
controllers - a deleted namespace is gone at once with all it held, and a pod marked for deletion stays marked until it
is deleted with a grace period of 0.
"""

import base64
import binascii
import json
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from http import HTTPStatus
from random import Random
from typing import Final, Literal, TypeAlias

from sidecar.lab.decoding import decoded, ordered, require_same_name
from sidecar.lab.resources import NAMESPACES, RESOURCES, Object, Resource
from sidecar.lab.selectors import FieldSelector, LabelSelector
from sidecar.lab.status import (
    ApiError,
    Cause,
    already_exists,
    bad_request,
    conflict,
    deletion_conflict,
    details,
    expired,
    forbidden,
    invalid,
    not_found,
    version_in_future,
)
from sidecar.lab.validation import causes_against, quoted

EventType: TypeAlias = Literal["ADDED", "MODIFIED", "DELETED", "BOOKMARK"]

HISTORY: Final = 10_000
"""Changes of one resource that are remembered by default; a watch cannot start further back."""

BACKLOG: Final = 1_000
"""Events that one watch may be behind by default, before it is ended."""

_EVERYTHING: Final = (LabelSelector(), FieldSelector())
_INDESTRUCTIBLE: Final = frozenset({"default", "kube-system", "kube-public"})
_DEFAULT_GRACE_SECONDS: Final = 30
_GENERATED_SUFFIX: Final = "bcdfghjklmnpqrstvwxz2456789"  # the real server's alphabet: no vowels, so no words
_CONTINUE_EXPIRED: Final = (
    "The provided continue parameter is too old to display a consistent list result. You can start a new list without "
    "the continue parameter, or use the continue token in this response to retrieve the remainder of the results. "
    "Continuing with the provided token results in an inconsistent list - objects that were created, modified, or "
    "deleted between the time the first chunk was returned and now may show up in the list."
)


@dataclass(frozen=True, slots=True)
class WatchEvent:
    """One line of a watch."""

    type: EventType
    object: Object


@dataclass(frozen=True, slots=True)
class Listing:
    """One page of a list: the objects, the version they were listed at, and how to go on."""

    items: list[Object]
    version: int
    continue_token: str = ""
    remaining: int | None = None


@dataclass(frozen=True, slots=True)
class _Change:
    version: int
    key: str
    before: Object | None
    after: Object | None
    gone: Object | None
    """For a deletion: the object's last state, at the version of the deletion."""


@dataclass(slots=True)
class _Table:
    """One resource: its objects by key, the changes remembered, and who watches."""

    objects: dict[str, Object] = field(default_factory=dict)
    history: deque[_Change] = field(default_factory=deque)
    floor: int = 0
    """The version up to which changes are forgotten."""
    watches: dict[tuple[str | None, str | None], dict["Watch", None]] = field(default_factory=dict)
    """By namespace and name, None for any, so that a change is offered to no more watches than it concerns."""


class Watch:
    """The events of one watch, waiting to be taken.

    `wake` is called whenever there is something to take or the watch has ended; it must not call back into the store.
    """

    def __init__(
        self,
        table: _Table,
        scope: tuple[str | None, str | None],
        selectors: tuple[LabelSelector, FieldSelector],
        *,
        since: int,
        backlog: int,
        wake: Callable[[], None],
    ) -> None:
        self._table = table
        self._scope = scope
        self._since = since
        self._labels, self._fields = selectors
        self._backlog = backlog
        self._wake = wake
        self._pending: deque[WatchEvent] = deque()
        self.ended = False
        """True once it was stopped, or fell too far behind. Nothing follows then."""

    def take(self) -> list[WatchEvent]:
        """Return the events that have come since the last call, oldest first."""
        taken = list(self._pending)
        self._pending.clear()
        return taken

    def stop(self) -> None:
        """End the watch; what is pending is forgotten."""
        if self.ended:
            return
        self.ended = True
        self._pending.clear()
        watches = self._table.watches[self._scope]
        del watches[self]
        if not watches:
            del self._table.watches[self._scope]
        self._wake()

    def _prime(self, events: list[WatchEvent]) -> None:
        """Put what happened before the watch began first. It is no lag, so it does not count against the backlog."""
        self._pending.extend(events)
        self._backlog += len(events)

    def _offer(self, change: _Change) -> None:
        event = self._translate(change) if change.version > self._since else None
        if event is None:
            return
        if len(self._pending) >= self._backlog:
            self.stop()
            return
        self._pending.append(event)
        self._wake()

    def _translate(self, change: _Change) -> WatchEvent | None:
        """Turn a change into what this watch sees of it: an object that starts to match is added, and so on."""
        was = change.before is not None and self._matches(change.before)
        if change.after is not None and self._matches(change.after):
            return WatchEvent("MODIFIED" if was else "ADDED", change.after)
        if not was or change.before is None:
            return None
        return WatchEvent("DELETED", change.gone or _at_version(change.before, change.version))

    def _matches(self, stored: Object) -> bool:
        return self._labels.matches(stored) and self._fields.matches(stored)


class Store:
    """Objects by resource, namespace and name.

    `now` gives the time for timestamps, in UTC; `random` makes uids and generated names. Every failure is an ApiError.
    """

    def __init__(
        self,
        *,
        now: Callable[[], datetime],
        random: Random,
        history: int = HISTORY,
        namespaces: tuple[str, ...] = ("default", "kube-system", "kube-public", "kube-node-lease"),
    ) -> None:
        self._now = now
        self._random = random
        self._history = history
        self._tables = {resource: _Table() for resource in RESOURCES}
        self.version = 1
        """The resourceVersion of the last change to anything. The first write makes 2, as in a fresh etcd."""
        for name in namespaces:
            self.create(NAMESPACES, "", {"metadata": {"name": name}})

    # -- reading ------------------------------------------------------------------------------------------------------

    def get(self, resource: Resource, namespace: str, name: str) -> Object:
        """Return one object. Raises ApiError 404."""
        stored = self._tables[resource].objects.get(_key(namespace, name))
        if stored is None:
            raise not_found(resource, name)
        return stored

    def list_objects(
        self,
        resource: Resource,
        namespace: str = "",
        *,
        selectors: tuple[LabelSelector, FieldSelector] = _EVERYTHING,
        limit: int = 0,
        continue_token: str = "",
        at: int | None = None,
        not_older_than: int = 0,
    ) -> Listing:
        """Return a page of the objects in one namespace, or in all of them (`""`), in the order of their keys.

        `at` asks for the state at exactly that version; a continued list stays at the version of its first page.
        Raises ApiError: 504 for a version not reached yet, 410 for one that is forgotten, 400 for a bad token.
        """
        if max(at or 0, not_older_than) > self.version:
            raise version_in_future(max(at or 0, not_older_than), self.version)
        start = ""
        if continue_token:
            at, start = self._resumed(resource, continue_token)
        objects = self._tables[resource].objects if at is None else self._state_at(resource, at)
        version = self.version if at is None else at
        keys = sorted(_select(objects, namespace, selectors))
        if start:
            keys = [key for key in keys if key >= start]
        if not 0 < limit < len(keys):
            return Listing([objects[key] for key in keys], version)
        page = keys[:limit]
        return Listing(
            [objects[key] for key in page],
            version,
            _token(version, f"{page[-1]}\0"),
            None if any(selectors) else len(keys) - limit,
        )

    def _resumed(self, resource: Resource, token: str) -> tuple[int | None, str]:
        version, start = _read_token(token)
        if version < 0:
            return None, start
        if version < self._tables[resource].floor:
            raise expired(_CONTINUE_EXPIRED, _token(-1, start))
        return version, start

    def _state_at(self, resource: Resource, version: int) -> Mapping[str, Object]:
        table = self._tables[resource]
        if version < table.floor:
            raise expired("The resourceVersion for the provided list is too old.")
        objects = dict(table.objects)
        for change in reversed(table.history):
            if change.version <= version:
                break
            if change.before is None:
                del objects[change.key]
            else:
                objects[change.key] = change.before
        return objects

    def watch(
        self,
        resource: Resource,
        namespace: str = "",
        *,
        selectors: tuple[LabelSelector, FieldSelector] = _EVERYTHING,
        since: int = 0,
        initial: bool | None = None,
        mark_initial_end: bool = False,
        backlog: int = BACKLOG,
        wake: Callable[[], None] = lambda: None,
    ) -> Watch:
        """Start a watch after version `since`; from 0, with the present objects as ADDED and what follows.

        `initial` True asks for the present objects whatever `since` is (which then must have been reached), False for
        none, as `sendInitialEvents` does; `mark_initial_end` adds the bookmark that ends them. A version that is still
        to come is no error: nothing is seen until it has passed. Raises ApiError 410 when `since` is forgotten, 504
        when initial events of a version still to come are asked for.
        """
        table = self._tables[resource]
        fields = selectors[1]
        within = namespace or fields.required("metadata.namespace") or None
        scope = (within, fields.required("metadata.name"))
        watch = Watch(table, scope, selectors, since=since, backlog=backlog, wake=wake)
        first: list[WatchEvent] = []
        if initial is None and since == 0:
            initial = True
        if initial:
            present = self.list_objects(resource, namespace, selectors=selectors, not_older_than=since)
            first = [WatchEvent("ADDED", stored) for stored in present.items]
            if mark_initial_end:
                first.append(self.bookmark(resource, initial_end=True))
        elif since:
            first = list(self._replayed(table, watch, namespace, since))
        watch._prime(first)  # noqa: SLF001 - the store and its watches are two halves of one thing
        table.watches.setdefault(scope, {})[watch] = None
        if first:
            wake()
        return watch

    @staticmethod
    def _replayed(table: _Table, watch: Watch, namespace: str, since: int) -> Iterator[WatchEvent]:
        if since < table.floor:
            raise expired(f"too old resource version: {since} ({table.floor})")
        missed: deque[_Change] = deque()
        for change in reversed(table.history):
            if change.version <= since:
                break
            missed.appendleft(change)
        for change in missed:
            if not namespace or change.key.startswith(f"{namespace}/"):
                event = watch._translate(change)  # noqa: SLF001 - two halves of one thing
                if event is not None:
                    yield event

    def bookmark(self, resource: Resource, *, initial_end: bool = False) -> WatchEvent:
        """Return the event that tells a watcher how far it has seen, to be sent once its pending events are sent."""
        metadata: Object = {"resourceVersion": str(self.version)}
        if initial_end:
            metadata["annotations"] = {"k8s.io/initial-events-end": "true"}
        return WatchEvent("BOOKMARK", {"kind": resource.kind, "apiVersion": resource.api_version, "metadata": metadata})

    def compact(self, version: int | None = None) -> None:
        """Forget the history up to `version` (all of it by default), as etcd's compaction does."""
        up_to = self.version if version is None else min(version, self.version)
        for table in self._tables.values():
            table.floor = max(table.floor, up_to)
            while table.history and table.history[0].version <= up_to:
                table.history.popleft()

    # -- writing ------------------------------------------------------------------------------------------------------

    def create(self, resource: Resource, namespace: str, body: object) -> Object:
        """Create an object and return it.

        Raises ApiError: 400 for what is no such object, 404 without the namespace, 409 AlreadyExists, 422 Invalid.
        """
        new = decoded(resource, namespace, body)
        if new["metadata"].pop("resourceVersion", None):
            message = "resourceVersion should not be set on objects to be created"
            raise ApiError(HTTPStatus.INTERNAL_SERVER_ERROR, "", message)
        self._require_namespace(resource, namespace)
        return self._insert(resource, namespace, new)

    def _insert(self, resource: Resource, namespace: str, new: Object) -> Object:
        metadata = new["metadata"]
        if not metadata.get("name") and metadata.get("generateName"):
            metadata["name"] = metadata["generateName"] + "".join(self._random.choices(_GENERATED_SUFFIX, k=5))
        name = metadata.get("name", "")
        _require_valid(resource, name, new)
        key = _key(namespace, name)
        if key in self._tables[resource].objects:
            raise already_exists(resource, name)
        metadata["uid"] = str(uuid.UUID(int=self._random.getrandbits(128), version=4))
        metadata["creationTimestamp"] = _timestamp(self._now())
        for unset in ("deletionTimestamp", "deletionGracePeriodSeconds", "generation"):
            metadata.pop(unset, None)
        if resource.generation:
            metadata["generation"] = 1
        if resource is NAMESPACES:
            metadata["labels"] = {**metadata.get("labels", {}), "kubernetes.io/metadata.name": name}
            new["spec"] = {"finalizers": ["kubernetes"]}
            new["status"] = {"phase": "Active"}
        if resource.kind == "Pod":
            new["status"] = {"phase": "Pending", **new.get("status", {})}
        if resource.kind == "Lease":
            new.setdefault("spec", {})
        return self._commit(resource, key, None, new)

    def update(self, resource: Resource, namespace: str, name: str, body: object) -> tuple[Object, bool]:
        """Replace an object; return it, and whether it was created instead. A change of nothing keeps the version.

        Without a resourceVersion it overwrites, where the resource allows that. As in the real server, a missing object
        is *created* where the resource allows that, even if the update names a resourceVersion: only a uid tells an
        object from its successor. Raises ApiError 400, 404, 409 Conflict, 422.
        """
        new = decoded(resource, namespace, body)
        require_same_name(name, new)
        self._require_namespace(resource, namespace)
        old = self._tables[resource].objects.get(_key(namespace, name))
        expected_uid = new["metadata"].get("uid")
        actual_uid = old["metadata"]["uid"] if old else ""
        if old is None and not resource.create_on_update:
            raise not_found(resource, name)
        if expected_uid and expected_uid != actual_uid:
            raise conflict(resource, name, _uid_mismatch(resource, namespace, name, expected_uid, actual_uid))
        if old is None:
            new["metadata"].pop("resourceVersion", None)
            return self._insert(resource, namespace, new), True
        return self._replace(resource, namespace, old, new), False

    def patch(self, resource: Resource, namespace: str, name: str, patch: object) -> Object:
        """Apply a JSON merge patch (RFC 7386) to an object and return it. A change of nothing keeps the version.

        A resourceVersion in the patch makes it conditional. Raises ApiError 400, 404, 409 Conflict, 422.
        """
        if not isinstance(patch, dict):
            what = "array" if isinstance(patch, list) else "value"
            raise bad_request(
                f"error decoding patch: json: cannot unmarshal {what} into Go value of type map[string]interface {{}}"
            )
        old = self.get(resource, namespace, name)
        patched = merge_patch(old, patch)
        try:
            new = decoded(resource, namespace, patched)
        except ApiError as error:
            if error.message.startswith(f"{resource.kind} in version"):
                text = f"Invalid value: {quoted(json.dumps(patched, separators=(',', ':')))}: {error.message}"
                raise invalid("", "", "", [Cause("FieldValueInvalid", "patch", text)]) from error
            raise
        require_same_name(name, new)
        return self._replace(resource, namespace, old, new)

    def _replace(self, resource: Resource, namespace: str, old: Object, new: Object) -> Object:
        had, metadata = old["metadata"], new["metadata"]
        name = had["name"]
        expected = metadata.get("resourceVersion") or "0"
        if not expected.isdecimal():
            message = f"strconv.ParseUint: parsing {quoted(expected)}: invalid syntax"
            raise ApiError(HTTPStatus.INTERNAL_SERVER_ERROR, "", message)
        if int(expected) == 0 and not resource.unconditional_update:
            missing = "Invalid value: 0: must be specified for an update"
            causes = [Cause("FieldValueInvalid", "metadata.resourceVersion", missing)]
            raise invalid(resource.plural, resource.group, name, causes)
        if int(expected) not in {0, int(had["resourceVersion"])}:
            raise conflict(resource, name)
        _require_valid(resource, name, new)
        uid = metadata.get("uid")
        if uid and uid != had["uid"]:
            message = f"Invalid value: {quoted(uid)}: field is immutable"
            raise _invalid(resource, name, [Cause("FieldValueInvalid", "metadata.uid", message)])
        for kept in (
            "generateName",
            "uid",
            "resourceVersion",
            "creationTimestamp",
            "deletionTimestamp",
            "deletionGracePeriodSeconds",
            "generation",
        ):
            metadata.pop(kept, None)
            if kept in had:
                metadata[kept] = had[kept]
        if new == old:
            return old
        if resource.generation and new.get("spec") != old.get("spec"):
            metadata["generation"] += 1
        return self._commit(resource, _key(namespace, name), old, new)

    def delete(
        self,
        resource: Resource,
        namespace: str,
        name: str,
        *,
        uid: str | None = None,
        version: str | None = None,
        grace_seconds: int | None = None,
    ) -> Object:
        """Delete an object, provided it has `uid` and `version` where they are given; return its last state.

        An object of a resource with graceful deletion that is bound to a node is marked first, unless `grace_seconds`
        is 0. Raises ApiError 403 for a namespace that must stay, 404, 409.
        """
        old = self.get(resource, namespace, name)
        metadata = old["metadata"]
        if uid is not None and uid != metadata["uid"]:
            why = (
                f"the UID in the precondition ({uid}) does not match the UID in record ({metadata['uid']}). "
                "The object might have been deleted and then recreated"
            )
            raise deletion_conflict(resource, name, why)
        if version is not None and version != metadata["resourceVersion"]:
            why = (
                f"the ResourceVersion in the precondition ({version}) does not match the ResourceVersion in record "
                f"({metadata['resourceVersion']}). The object might have been modified"
            )
            raise deletion_conflict(resource, name, why)
        if resource is NAMESPACES:
            self._empty(name)
        elif resource.graceful_deletion and old.get("spec", {}).get("nodeName"):
            grace = old["spec"].get("terminationGracePeriodSeconds", _DEFAULT_GRACE_SECONDS)
            grace = grace if grace_seconds is None else grace_seconds
            if grace > 0:
                return self._mark_deleted(resource, namespace, old, grace)
        return self._commit(resource, _key(namespace, name), old, None)

    def _mark_deleted(self, resource: Resource, namespace: str, old: Object, grace_seconds: int) -> Object:
        had = old["metadata"]
        if "deletionTimestamp" in had:
            return old
        marked = {
            **had,
            "generation": had["generation"] + 1,
            "deletionTimestamp": _timestamp(self._now() + timedelta(seconds=grace_seconds)),
            "deletionGracePeriodSeconds": grace_seconds,
        }
        return self._commit(resource, _key(namespace, had["name"]), old, {**old, "metadata": marked})

    def _empty(self, namespace: str) -> None:
        """Delete everything in a namespace, as the namespace controller does."""
        if namespace in _INDESTRUCTIBLE:
            message = f'namespaces "{namespace}" is forbidden: this namespace may not be deleted'
            raise forbidden(message, details(NAMESPACES, namespace))
        for resource, table in self._tables.items():
            if resource.namespaced:
                for key in _select(table.objects, namespace, _EVERYTHING):
                    self._commit(resource, key, table.objects[key], None)

    def _commit(self, resource: Resource, key: str, before: Object | None, after: Object | None) -> Object:
        """Make one change happen: new version, history, watches. Returns the object as it is (or was) then."""
        table = self._tables[resource]
        self.version += 1
        gone = None
        if after is not None:
            after["metadata"] = ordered({**after["metadata"], "resourceVersion": str(self.version)})
            table.objects[key] = after
        elif before is not None:
            gone = _at_version(before, self.version)
            del table.objects[key]
        change = _Change(self.version, key, before, after, gone)
        table.history.append(change)
        if len(table.history) > self._history:
            table.floor = table.history.popleft().version
        namespace, _, name = key.rpartition("/")
        for scope in ((namespace, name), (namespace, None), (None, name), (None, None)):
            for watch in tuple(table.watches.get(scope, ())):
                watch._offer(change)  # noqa: SLF001 - the store and its watches are two halves of one thing
        final = after or gone
        assert final is not None  # noqa: S101 - a change is from something or to something
        return final

    def _require_namespace(self, resource: Resource, namespace: str) -> None:
        if resource.namespaced:
            self.get(NAMESPACES, "", namespace)


def merge_patch(target: object, patch: object) -> object:
    """Apply a JSON merge patch (RFC 7386, section 2) and return the result; neither argument is changed."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = merge_patch(merged.get(key), value)
    return merged


# -- keys, versions, tokens -------------------------------------------------------------------------------------------


def _key(namespace: str, name: str) -> str:
    # One string, as in etcd, so that lists come in the real server's order: "a-b/x" stands before "a/x".
    return f"{namespace}/{name}" if namespace else name


def _select(objects: Mapping[str, Object], namespace: str, selectors: tuple[LabelSelector, FieldSelector]) -> list[str]:
    labels, fields = selectors
    name = fields.required("metadata.name")
    if namespace and name is not None:
        candidates = [key] if (key := _key(namespace, name)) in objects else []
    elif namespace:
        prefix = f"{namespace}/"
        candidates = [key for key in objects if key.startswith(prefix)]
    else:
        candidates = list(objects)
    if not labels and not fields:
        return candidates
    return [key for key in candidates if labels.matches(objects[key]) and fields.matches(objects[key])]


def _at_version(stored: Object, version: int) -> Object:
    return {**stored, "metadata": {**stored["metadata"], "resourceVersion": str(version)}}


def _timestamp(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _token(version: int, start: str) -> str:
    text = json.dumps({"v": "meta.k8s.io/v1", "rv": version, "start": start})
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _read_token(token: str) -> tuple[int, str]:
    try:
        decoded = json.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
        return int(decoded["rv"]), str(decoded["start"])
    except (binascii.Error, ValueError, TypeError, KeyError) as error:
        raise bad_request(f"invalid continue token: continue key is not valid: {error}") from error


def _require_valid(resource: Resource, name: str, candidate: Object) -> None:
    causes = causes_against(resource, candidate)
    if causes:
        raise _invalid(resource, name, causes)


def _invalid(resource: Resource, name: str, causes: list[Cause]) -> ApiError:
    return invalid(resource.kind, resource.group, name, causes)


def _uid_mismatch(resource: Resource, namespace: str, name: str, expected: str, actual: str) -> str:
    # Endpoints live beside Services in etcd, everything else under the name of its resource.
    place = "services/endpoints" if resource.kind == "Endpoints" else resource.plural
    return (
        f"StorageError: invalid object, Code: 4, Key: /registry/{place}/{_key(namespace, name)}, ResourceVersion: 0, "
        f"AdditionalErrorMsg: Precondition failed: UID in precondition: {expected}, UID in object meta: {actual}"
    )
