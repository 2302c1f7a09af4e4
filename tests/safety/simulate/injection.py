"""What each kind of fault does to a stage, and how it is put right."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextvars import Context
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from sidecar.lab import resources
from sidecar.lab.resources import ENDPOINTS
from sidecar.record import CLAIM_ANNOTATION, RECORD_ANNOTATION, STEP_DOWN_ANNOTATION, step_down_request
from sidecar.registration import REGISTRATION_PREFIX
from tests.safety.simulate.connections import LATENCY
from tests.safety.simulate.faultyserver import Treatment
from tests.safety.simulate.plan import LEASES, NODES, STOCK
from tests.safety.simulate.stage import NAMESPACE, Forbidden, LinkFault

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.safety.simulate.connections import Link, Way
    from tests.safety.simulate.plan import Fault, Participant
    from tests.safety.simulate.stage import Process, Stage

RESOURCES_BY_KIND: Final = {resource.kind: resource for resource in (ENDPOINTS, resources.LEASES)}

Undo: TypeAlias = Callable[[], None]
"""Puts a fault right."""

STRANGER: Final = "somebody-else"
"""Whom a hand names as the holder, and who does not exist."""


def begin(stage: Stage, fault: Fault) -> Undo:
    """Let a fault begin; return what puts it right."""
    meets = _meets(stage, fault)
    hit = [process for process in stage.living() if meets(process)]
    whom = ", ".join(process.name for process in hit) or "nobody"
    stage.tell(f"FAULT {fault}: hits {whom}")
    undo = _KINDS[fault.kind](stage, fault, meets, hit)

    def put_right() -> None:
        undo()
        if fault.lasts:
            stage.tell(f"END of {fault}")

    return put_right


def _meets(stage: Stage, fault: Fault) -> Callable[[Process], bool]:
    """Return whether a process is a target: by its identity, its node, or because it leads at this instant."""
    targets = fault.targets
    leaders = {leader.name for target in targets if target.startswith("@") and (leader := _leader(stage, target[1:]))}
    return lambda process: (
        not targets or process.name in leaders or process.identity in targets or process.node in targets
    )


def _leader(stage: Stage, election: str) -> Process | None:
    """Return whoever leads; else whoever holds the lock, or anybody."""
    living = [process for process in stage.living() if process.election == election]
    leading = [process for process in living if process.candidate is not None and process.candidate.is_leading()]
    record = stage.record(election)
    holding = [process for process in living if record is not None and process.identity == record.holder]
    return next(iter([*leading, *holding, *living]), None)


def _nothing() -> None:
    """Put nothing right."""


# -- Processes ---------------------------------------------------------------------------------------------------------


def _crash(stage: Stage, fault: Fault, _meets: object, hit: list[Process]) -> Undo:
    for process in hit:
        stage.kill(process, power_cut=fault.how["power_cut"])
        match fault.how["again"]:
            case "same pod":
                stage.start_later(fault.how["after"], process.participant, pod_uid=process.pod_uid, node=process.node)
            case "other pod":
                stage.start_later(fault.how["after"], process.participant, node=stage.random.choice(NODES))
            case "stock":
                stage.start_later(fault.how["after"], _as_stock(stage, process))
    return _nothing


def _pause(stage: Stage, fault: Fault, _meets: object, hit: list[Process]) -> Undo:
    for process in hit:
        stage.stop(process, fault.lasts)
    return _nothing


def _leave(stage: Stage, fault: Fault, _meets: object, hit: list[Process]) -> Undo:
    for process in hit:
        if fault.how["again"] == "other pod":
            # A StatefulSet makes it again once it has gone.
            process.when_gone.append(partial(stage.start_later, fault.how["after"], process.participant))
        stage.leave(process)
    return _nothing


def _abstain(stage: Stage, fault: Fault, _meets: object, hit: list[Process]) -> Undo:
    why = f"the order of {fault.at:.3f} s"
    told = [process for process in hit if process.candidate is not None]
    for process in told:
        stage.order(process, lambda candidate: candidate.abstain(why, patience=fault.how["patience"]))

    def put_right() -> None:
        for process in told:
            if process.is_alive:
                stage.order(process, lambda candidate: candidate.stand(why))

    return put_right


def _step_down(stage: Stage, fault: Fault, _meets: object, hit: list[Process]) -> Undo:
    if not fault.how["asked"]:
        for process in hit:
            stage.order(process, lambda candidate: candidate.step_down("told to step down"))
        return _nothing
    for election in dict.fromkeys(process.election for process in hit):
        lock, record = stage.lock(election), stage.record(election)
        if lock is not None and record is not None:
            annotations = lock["metadata"].get("annotations") or {}
            _put(stage, lock, {"annotations": {**annotations, STEP_DOWN_ANNOTATION: step_down_request(record)}})
    return _nothing


def _twin(stage: Stage, fault: Fault, _meets: object, hit: list[Process]) -> Undo:
    if not hit:
        return _nothing
    old = hit[0]
    undo = _cut(stage, fault, lambda process: process.pod_uid == old.pod_uid, None)
    elsewhere = stage.random.choice([node for node in NODES if node != old.node])
    other = _as_stock(stage, old) if fault.how["as_stock"] else old.participant
    stage.start_later(fault.how["after"], other, node=elsewhere)
    if fault.how["restarts"]:
        stage.kill(old)
        stage.start_later(fault.lasts / 2, old.participant, pod_uid=old.pod_uid, node=old.node)

    def heal() -> None:
        undo()
        _end_pod_later(stage, old.pod_uid, fault.how["lingers"])

    return heal


def _impostor(stage: Stage, fault: Fault, _meets: object, hit: list[Process]) -> Undo:
    if not hit:
        return _nothing
    old, how = hit[0], fault.how
    stage.kill(old, power_cut=True)
    stage.start_later(how["after"], _as_stock(stage, old))
    stage.start_later(how["back_after"], old.participant, pod_uid=old.pod_uid, node=old.node)
    _end_pod_later(stage, old.pod_uid, how["back_after"] + how["lingers"])
    return _nothing


def _as_stock(stage: Stage, process: Process) -> Participant:
    """Return a stock peer in the place of a process; it waits its own ttl, so that has to be the election's longest."""
    rivals = [each for each in stage.plan.participants if each.election == process.election]
    if any(LEASES in each.locks for each in rivals):
        # Where it would elect beside those who know nothing but Leases.
        return process.participant
    return replace(process.participant, kind=STOCK, ttl=max(each.ttl for each in rivals))


def _end_pod_later(stage: Stage, pod_uid: str, seconds: float) -> None:
    """End a pod after a while: its kubelet hears that it is no more."""

    def end() -> None:
        for process in stage.living():
            if process.pod_uid == pod_uid and not process.leaving:
                stage.leave(process)

    stage.loop.call_later(seconds, end, context=Context())


# -- Links -------------------------------------------------------------------------------------------------------------


def _on_links(stage: Stage, fault: LinkFault) -> Undo:
    stage.link_faults[fault] = None
    hit = [process.link for process in stage.living() if fault.meets(process)]
    begin_at, links = fault.begin, dict.fromkeys(hit)

    def begun(link: Link) -> None:
        links[link] = None
        begin_at(link)

    fault.begin = begun
    for link in hit:
        begin_at(link)

    def heal() -> None:
        del stage.link_faults[fault]
        for link in links:
            fault.end(link)

    return heal


def _ways(link: Link, which: str) -> list[Way]:
    return {"up": [link.up], "down": [link.down], "both": [link.up, link.down]}[which]


def _cut(stage: Stage, fault: Fault, meets: Callable[[Process], bool], _hit: object) -> Undo:
    def shut(link: Link) -> None:
        for way in _ways(link, fault.how["ways"]):
            way.shut()

    def heal(link: Link) -> None:
        for way in _ways(link, fault.how["ways"]):
            way.open(deliver=fault.how["deliver"])

    return _on_links(stage, LinkFault(meets=meets, begin=shut, end=heal))


def _slow(stage: Stage, fault: Fault, meets: Callable[[Process], bool], _hit: object) -> Undo:
    def slow(link: Link) -> None:
        for way in _ways(link, fault.how["ways"]):
            way.latency = (LATENCY[0], fault.how["slowest"])

    def heal(link: Link) -> None:
        for way in _ways(link, fault.how["ways"]):
            way.latency = LATENCY

    return _on_links(stage, LinkFault(meets=meets, begin=slow, end=heal))


def _watch_lag(stage: Stage, fault: Fault, meets: Callable[[Process], bool], _hit: object) -> Undo:
    def lag(link: Link) -> None:
        link.down.watch_lag = (0.0, fault.how["seconds"])

    def heal(link: Link) -> None:
        link.down.watch_lag = (0.0, 0.0)

    return _on_links(stage, LinkFault(meets=meets, begin=lag, end=heal))


def _half_open(_stage: Stage, fault: Fault, _meets: object, hit: list[Process]) -> Undo:
    for process in hit:
        process.link.silence(watches_only=fault.how["watches_only"])
    return _nothing


def _reset(_stage: Stage, _fault: Fault, _meets: object, hit: list[Process]) -> Undo:
    for process in hit:
        process.link.reset()
    return _nothing


# -- The API server ----------------------------------------------------------------------------------------------------


def _treated(stage: Stage, meets: Callable[[Process], bool], **how: Any) -> Undo:  # noqa: ANN401 - as `Treatment` has them
    treatment = Treatment(meets=lambda name: meets(stage.processes[name]), **how)
    stage.server.treatments[treatment] = None

    def heal() -> None:
        del stage.server.treatments[treatment]

    return heal


def _storm(stage: Stage, fault: Fault, meets: Callable[[Process], bool], _hit: object) -> Undo:
    return _treated(stage, meets, **fault.how)


def _lost_answers(stage: Stage, fault: Fault, meets: Callable[[Process], bool], _hit: object) -> Undo:
    return _treated(stage, meets, applied=fault.how["answer"], share=fault.how["share"])


def _stall(stage: Stage, fault: Fault, meets: Callable[[Process], bool], _hit: object) -> Undo:
    return _treated(stage, meets, delay=(0.0, fault.how["latest"]), share=fault.how["share"])


def _server_down(stage: Stage, fault: Fault, _meets: object, _hit: object) -> Undo:
    return stage.take_server_down(forgets=fault.how["forgets"])


def _compaction(stage: Stage, fault: Fault, _meets: object, _hit: object) -> Undo:
    stage.server.forget()
    if fault.how["cuts"]:
        stage.server.cut_watches()
    return _nothing


def _expiry(stage: Stage, fault: Fault, _meets: object, hit: list[Process]) -> Undo:
    for process in hit:
        if process.candidate is not None:
            process.load_takes = fault.how["load_takes"]
            process.token += "'"
    stage.grant()
    return _nothing


def _stale_lists(stage: Stage, fault: Fault, _meets: object, _hit: object) -> Undo:
    stage.server.lists_lag = fault.how["seconds"]

    def heal() -> None:
        stage.server.lists_lag = 0.0

    return heal


def _forbid(stage: Stage, fault: Fault, meets: Callable[[Process], bool], _hit: object) -> Undo:
    forbidden = Forbidden(meets=meets, verbs=fault.how["verbs"])
    stage.forbidden[forbidden] = None
    stage.grant()

    def heal() -> None:
        del stage.forbidden[forbidden]
        stage.grant()

    return heal


# -- Clocks, and the lock object ---------------------------------------------------------------------------------------


def _wall_jump(_stage: Stage, fault: Fault, _meets: object, hit: list[Process]) -> Undo:
    for process in hit:
        process.clock.wall_offset += fault.how["by"]
    return _nothing


def _edit(stage: Stage, fault: Fault, _meets: object, _hit: object) -> Undo:
    (election,) = fault.targets
    edit = fault.how["edit"]
    lock = stage.lock(election)
    if lock is None:
        return _nothing
    stage.checker.edit = edit
    if edit == "delete":
        stage.server.store.delete(ENDPOINTS, NAMESPACE, election)
    else:
        _put(stage, lock, {"annotations": _edited(stage, election, edit, lock["metadata"].get("annotations") or {})})
    return _nothing


def _edited(stage: Stage, election: str, edit: str, annotations: Mapping[str, str]) -> Mapping[str, str]:
    """Return the annotations as they are after an edit; what has no record cannot be given another holder."""
    match edit:
        case "strip":
            return {key: text for key, text in annotations.items() if key != RECORD_ANNOTATION}
        case "garble":
            return {**annotations, RECORD_ANNOTATION: '{"holderIdentity":'}
        case "strip claim":
            return {key: text for key, text in annotations.items() if key != CLAIM_ANNOTATION}
        case "strip registrations":
            return {key: text for key, text in annotations.items() if not key.startswith(REGISTRATION_PREFIX)}
    record = stage.record(election)
    if record is None:
        return annotations
    others = {process.identity for process in stage.living() if process.election == election} - {record.holder}
    holder = {
        "release": "",
        "rename": STRANGER,
        "impersonate": stage.random.choice(sorted(others) or [STRANGER]),
    }[edit]
    written = {**json.loads(annotations[RECORD_ANNOTATION]), "holderIdentity": holder}
    return {**annotations, RECORD_ANNOTATION: json.dumps(written, separators=(",", ":"))}


def _put(stage: Stage, lock: Mapping[str, Any], changed: Mapping[str, Any]) -> None:
    body = {**lock, "metadata": {**lock["metadata"], **changed}}
    kind = RESOURCES_BY_KIND[body["kind"]]
    stage.server.store.update(kind, NAMESPACE, lock["metadata"]["name"], body)


def _writers(stage: Stage, fault: Fault, _meets: object, _hit: object) -> Undo:
    """Somebody writes what is not the election's into the lock object, again and again."""
    (election,) = fault.targets
    going_on = True

    def write() -> None:
        if not going_on:
            return
        if (lock := stage.lock(election)) is not None:
            labels = {**(lock["metadata"].get("labels") or {}), "touched": str(stage.server.store.version)}
            _put(stage, lock, {"labels": labels})
        stage.loop.call_later(fault.how["every"] * stage.random.uniform(0.5, 1.5), write, context=Context())

    def heal() -> None:
        nonlocal going_on
        going_on = False

    write()
    return heal


_KINDS: Final[Mapping[str, Callable[[Stage, Fault, Callable[[Process], bool], list[Process]], Undo]]] = {
    "crash": _crash,
    "pause": _pause,
    "leave": _leave,
    "abstain": _abstain,
    "step down": _step_down,
    "twin": _twin,
    "impostor": _impostor,
    "cut": _cut,
    "slow": _slow,
    "watch lag": _watch_lag,
    "half-open": _half_open,
    "reset": _reset,
    "storm": _storm,
    "lost answers": _lost_answers,
    "stall": _stall,
    "API server down": _server_down,
    "compaction": _compaction,
    "token expires": _expiry,
    "stale lists": _stale_lists,
    "forbidden": _forbid,
    "wall clock set": _wall_jump,
    "hand edit": _edit,
    "other writers": _writers,
}
