"""The leader's label: what is done next, and in virtual time that no two pods ever have it."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from random import Random
from typing import TYPE_CHECKING, Any

import pytest

from sidecar.kube import DENIAL_SECONDS, ApiError
from sidecar.lab.network import Network
from sidecar.lab.resources import PODS
from sidecar.podlabel import (
    Labels,
    Look,
    Pod,
    PodLabel,
    PutOn,
    Rest,
    Step,
    Strip,
    TakeOff,
    begun,
    leads_key,
    looked,
    next_step,
    stripped,
)
from sidecar.record import RECORD_ANNOTATION, Record, parse_record
from tests.unit.arena import ELECTION, TIMEOUT, TTL, Arena
from tests.unit.beside import accompany, play

if TYPE_CHECKING:
    from sidecar.lab.network import LabClient, Request
    from tests.unit.arena import Process

KEY, VALUE = "role", "leader"
LEADS = leads_key(ELECTION)
OTHER = Pod(name="b", uid="2", version="7")
ME = Pod(name="a", uid="1")
NEVER = float("inf")


# -- What is done next -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("labels", "leads", "step"),
    [
        (Labels(), False, Look()),
        (Labels(own=True), False, TakeOff()),
        (Labels(own=True, others=(OTHER,)), False, TakeOff()),
        (Labels(own=False), False, Rest(NEVER)),
        (Labels(own=False, is_unsure=True), False, TakeOff()),
        (Labels(own=False, is_unsure=True, others=()), True, PutOn()),
        (Labels(own=False, others=(OTHER,)), False, Rest(NEVER)),
        (Labels(), True, Look()),
        (Labels(own=True), True, Look()),
        (Labels(own=False, others=(OTHER,)), True, Strip(OTHER)),
        (Labels(own=True, others=(OTHER,)), True, Strip(OTHER)),
        (Labels(own=False, others=()), True, PutOn()),
        (Labels(own=True, others=(), look_at=60.0), True, Rest(60.0)),
        (Labels(own=True, others=(), look_at=50.0), True, Look()),
        (Labels(own=True, others=()), True, Rest(NEVER)),
    ],
)
def test_next_step(labels: Labels, leads: bool, step: Step) -> None:  # noqa: FBT001 - a case of the table
    """Whoever leads looks, then clears the others, then labels itself; whoever does not takes its own label off."""
    assert next_step(labels, leads=leads, now=50.0) == step


def test_what_a_look_finds() -> None:
    """A pod of this name with another UID is another pod."""
    again = Pod(name="a", uid="3")
    mine = Pod(name="a", uid="1", version="5")
    first = looked(Labels(), [mine, OTHER], ME, again_at=9.0)
    assert first == Labels(own=True, others=(OTHER,), look_at=9.0), "what is under way may arrive yet"
    assert looked(first, [again], ME, again_at=19.0) == Labels(own=False, others=(again,)), "once is enough"


def test_a_new_leadership_looks_afresh() -> None:
    """What was found before a leadership began, or cleared before, counts for nothing in it."""
    known = Labels(own=True, others=(), look_at=9.0)
    assert begun(known) == Labels(own=True)
    assert stripped(begun(known), OTHER) == Labels(own=True), "a patch of an earlier leadership clears nothing"
    assert stripped(Labels(others=(OTHER, ME)), OTHER) == Labels(others=(ME,))


@pytest.mark.parametrize("election", ["example", "a" * 57, "a" * 58, "with.dots", "b" * 253])
def test_the_annotation_of_any_election_is_valid(election: str) -> None:
    """Its key has at most 63 characters behind the slash, and differs from that of any other election."""
    key = leads_key(election)
    assert key.startswith("leader-elector/leads.")
    assert len(key.partition("/")[2]) <= 63
    assert key != leads_key(f"{election}x")


# -- In virtual time ---------------------------------------------------------------------------------------------------


class Pods:
    """The pods of candidates, and everybody who ever had the label, as the store saw it."""

    def __init__(self, arena: Arena) -> None:
        self.arena = arena
        self.most = 0
        self.log: list[tuple[float, list[str]]] = []
        self._commits = arena.store.watch(PODS, wake=self._see)

    def _see(self) -> None:
        self._commits.take()
        now = self.labelled()
        self.most = max(self.most, len(now))
        self.log.append((self.arena.loop.time(), now))

    def labelled(self) -> list[str]:
        """Return who has the label."""
        found = self.arena.store.list_objects(PODS, "default").items
        return [one["metadata"]["name"] for one in found if one["metadata"].get("labels", {}).get(KEY) == VALUE]

    def create(self, name: str, metadata: dict[str, Any] | None = None) -> str:
        """Create a pod, and return its UID."""
        body = {"metadata": {"name": name, **(metadata or {})}, "spec": {}}
        return str(self.arena.store.create(PODS, "default", body)["metadata"]["uid"])

    def start(
        self, name: str, *, uid: str = "", network: Network | None = None, apart: Network | None = None
    ) -> tuple[Process, list[Request]]:
        """Start a candidate in a pod, and return it with the requests for the label; `apart` is their own network."""
        uid = uid or self.create(name)
        process = self.arena.start(name, pod_uid=uid, network=network)

        def make(client: LabClient, log: Any) -> PodLabel:  # noqa: ANN401 - structlog's own type for a bound logger
            return PodLabel(
                process.candidate,
                client,
                label=(KEY, VALUE),
                election=("default", ELECTION),
                namespace="default",
                pod=name,
                uid=uid,
                settle_seconds=TTL,
                now=process.clock.now,
                random=Random(1),  # noqa: S311 - plays, protects nothing
                log=log,
            )

        return process, accompany(self.arena, process, make, network=apart)


def is_released(arena: Arena) -> bool:
    """Tell whether the record says that nobody holds the lock."""
    lock = arena.lock()
    assert lock is not None
    record = parse_record(lock["metadata"]["annotations"][RECORD_ANNOTATION])
    return isinstance(record, Record) and not record.holder


def test_a_slow_patch_holds_the_release_up() -> None:
    """The lock is not released before the label is off, though the release would be faster."""

    async def scene(arena: Arena) -> None:
        pods = Pods(arena)
        leader, _ = pods.start("a", apart=Network(latency=(0.2, 0.3)))
        await arena.until(lambda: pods.labelled() == ["a"])
        await asyncio.sleep(TTL)
        leader.candidate.leave()
        await arena.until(lambda: not pods.labelled(), every=0.0001)
        assert not is_released(arena)
        assert await arena.until(lambda: is_released(arena)) < 1.0

    play(scene)


def test_a_look_from_before_a_leadership_does_not_count() -> None:
    """A list that was asked before the leadership began may miss what was labelled since: there is another one."""

    async def scene(arena: Arena) -> None:
        pods = Pods(arena)
        _, sent = pods.start("a", apart=Network(latency=(0.9, 0.9)))
        await arena.until(lambda: pods.labelled() == ["a"])
        assert [request.verb for request in sent] == ["list", "list", "patch"]

    play(scene)


def test_a_label_that_is_on_already_is_looked_at_again() -> None:
    """Who finds its pod labelled as it begins to lead may have sent a patch that takes it off: it looks once more."""

    async def scene(arena: Arena) -> None:
        pods = Pods(arena)
        uid = pods.create("a", {"labels": {KEY: VALUE}, "annotations": {LEADS: f"default/{ELECTION}"}})
        _, sent = pods.start("a", uid=uid, apart=Network(latency=(0.9, 0.9)))
        await asyncio.sleep(TTL / 2)
        arena.store.patch(PODS, "default", "a", {"metadata": {"labels": {KEY: None}, "annotations": {LEADS: None}}})
        await arena.until(lambda: pods.labelled() == ["a"], within=2 * TTL)
        assert [request.verb for request in sent] == ["list", "list", "list", "patch"]

    play(scene)


def test_a_pod_that_changed_is_looked_at_again() -> None:
    """A pod that changes between the look and the patch may lead by now: its label is not taken off unseen."""

    async def scene(arena: Arena) -> None:
        pods = Pods(arena)
        left = {"labels": {KEY: VALUE}, "annotations": {LEADS: f"default/{ELECTION}"}}
        pods.create("b", left)
        _, sent = pods.start("a", apart=Network(latency=(0.1, 0.1)))
        await arena.until(lambda: any(request.verb == "patch" for request in sent), every=0.001)
        arena.store.patch(PODS, "default", "b", {"metadata": {"labels": {"app": "x"}}})
        await arena.until(lambda: pods.labelled() == ["a"])
        assert [request.verb for request in sent][-5:] == ["list", "patch", "list", "patch", "patch"]
        assert pods.most == 1

    play(scene)


def test_a_label_whose_answer_was_lost_is_taken_off() -> None:
    """Who may have labelled its pod takes the label off when it leads no more, though nobody answered."""

    async def scene(arena: Arena) -> None:
        pods = Pods(arena)
        network = Network()
        leader, sent = pods.start("a", apart=network)
        await arena.until(lambda: any(request.verb == "patch" for request in sent), every=0.0001)
        network.lost_answers = 1.0
        await arena.until(lambda: pods.labelled() == ["a"], every=0.0001)
        await asyncio.sleep(TIMEOUT + 0.01)
        assert [request.verb for request in sent].count("patch") == 1
        leader.candidate.abstain("test")
        network.heal()
        await arena.until(lambda: not pods.labelled(), within=1.0)

    play(scene)


def test_the_label_is_off_before_the_lock_is_released() -> None:
    """When a leader leaves, its pod is without the label before the record is; when it leads, nothing is sent."""

    async def scene(arena: Arena) -> None:
        pods = Pods(arena)
        leader, sent = pods.start("a")
        await arena.leader()
        follower, idle = pods.start("b")
        await asyncio.sleep(3 * TTL)
        assert pods.labelled() == ["a"]
        assert [request.verb for request in sent] == ["list", "list", "patch", "list"], "at start, to begin, to settle"
        assert [request.verb for request in idle] == ["list"]
        before = len(sent), len(idle)
        await asyncio.sleep(3600)
        assert (len(sent), len(idle)) == before, "nothing is sent as long as nothing changes"
        leader.candidate.leave()
        assert await arena.until(lambda: is_released(arena), every=0.0001) < 1.0
        assert pods.labelled() == []
        await arena.until(lambda: arena.leaders() == [follower])
        await arena.until(lambda: pods.labelled() == ["b"])
        assert pods.most == 1

    play(scene)


def test_the_label_is_off_at_the_end_without_a_release() -> None:
    """A candidate that does not release the lock as it ends still takes the label off."""

    async def scene(arena: Arena) -> None:
        pods = Pods(arena)
        leader, _ = pods.start("a")
        state = leader.candidate._state
        leader.candidate._state = replace(state, candidacy=replace(state.candidacy, releases_on_exit=False))
        await arena.until(lambda: pods.labelled() == ["a"])
        leader.candidate.leave()
        await arena.until(lambda: leader.ended)
        await arena.until(lambda: pods.labelled() == [], within=1.0)
        assert not is_released(arena)

    play(scene)


def test_a_successor_clears_the_pod_of_a_leader_that_died() -> None:
    """Who takes over from a leader that was killed takes the label off that one's pod first."""

    async def scene(arena: Arena) -> None:
        pods = Pods(arena)
        leader, _ = pods.start("a")
        await arena.until(lambda: pods.labelled() == ["a"])
        pods.start("b")
        await asyncio.sleep(1)
        arena.kill(leader)
        await arena.until(lambda: pods.labelled() == ["b"])
        assert pods.most == 1

    play(scene)


def test_a_restarted_process_takes_off_what_the_one_before_left() -> None:
    """A pod that is labelled though its candidate does not lead is without the label soon after the start."""

    async def scene(arena: Arena) -> None:
        pods = Pods(arena)
        arena.start("b")
        await arena.leader()
        left = {"labels": {KEY: VALUE, "app": "x"}, "annotations": {LEADS: f"default/{ELECTION}"}}
        uid = pods.create("a", left)
        pods.start("a", uid=uid)
        await arena.until(lambda: pods.labelled() == [], within=1.0)
        assert arena.store.get(PODS, "default", "a")["metadata"]["labels"] == {"app": "x"}

    play(scene)


def test_what_others_labelled_stays() -> None:
    """Pods that carry the label without this election's annotation, or with another's, are none of its business."""

    async def scene(arena: Arena) -> None:
        pods = Pods(arena)
        labels = {KEY: VALUE}
        pods.create("by-hand", {"labels": labels})
        pods.create("other", {"labels": labels, "annotations": {leads_key("other"): "default/other"}})
        pods.create("same-name", {"labels": labels, "annotations": {LEADS: f"elsewhere/{ELECTION}"}})
        leader, _ = pods.start("a")
        await arena.until(lambda: "a" in pods.labelled())
        leader.candidate.leave()
        await arena.until(lambda: leader.ended)
        assert pods.labelled() == ["by-hand", "other", "same-name"]

    play(scene)


def test_a_pod_made_anew_is_not_labelled() -> None:
    """A leader whose pod was made again under its name says once that it cannot label it, and asks no more."""

    async def scene(arena: Arena) -> None:
        pods = Pods(arena)
        pods.create("a")
        leader, sent = pods.start("a", uid="the-one-before")
        await arena.leader()
        await asyncio.sleep(DENIAL_SECONDS / 2)
        assert pods.labelled() == []
        assert [line for line in arena.said(leader) if "cannot be labelled" in line] != []
        assert len(sent) == 3
        began = arena.loop.time()
        leader.candidate.leave()
        await arena.until(lambda: leader.ended)
        assert arena.loop.time() - began < 0.5, "nobody waits for a label that is not there"

    play(scene)


@pytest.mark.parametrize("verb", ["list", "patch"])
def test_without_permission_nobody_is_labelled(verb: str) -> None:
    """Without one of the two permissions it is said once, nothing is labelled, and the lock is released at once."""

    async def scene(arena: Arena) -> None:
        pods = Pods(arena)
        leader, sent = pods.start("a", apart=Network(forbidden=frozenset({verb})))
        await arena.leader()
        await asyncio.sleep(DENIAL_SECONDS / 2)
        assert pods.labelled() == []
        assert sum("is not labelled" in line for line in arena.said(leader)) == 1
        assert len(sent) <= 3
        began = arena.loop.time()
        leader.candidate.leave()
        await arena.until(lambda: leader.ended)
        assert arena.loop.time() - began < 0.5

    play(scene)


def test_it_is_tried_again_until_it_works() -> None:
    """An API server that fails is asked at growing intervals, and the pod is labelled once it works."""

    async def scene(arena: Arena) -> None:
        pods = Pods(arena)
        network = Network(errors=(ApiError("500", status=500),))
        leader, sent = pods.start("a", apart=network)
        await arena.leader()
        await asyncio.sleep(300)
        assert 10 < len(sent) < 60
        assert sum("tried again" in line for line in arena.said(leader)) <= 2
        network.heal()
        await arena.until(lambda: pods.labelled() == ["a"], within=20)

    play(scene)


def test_a_release_waits_a_second_at_most() -> None:
    """While pods cannot be patched, the lock is released all the same, and the label goes as soon as it can."""

    async def scene(arena: Arena) -> None:
        pods = Pods(arena)
        network = Network()
        leader, _ = pods.start("a", apart=network)
        await arena.until(lambda: pods.labelled() == ["a"])
        follower = arena.start("b")
        await asyncio.sleep(1)
        network.hangs = True
        leader.candidate.abstain("test")
        assert await arena.until(lambda: arena.leaders() == [follower]) < 1.5
        assert pods.labelled() == ["a"]
        network.heal()
        await arena.until(lambda: pods.labelled() == [], within=20)

    play(scene)


def test_a_label_that_was_taken_off_is_put_on_again() -> None:
    """The second look of a leadership finds that a late patch took the label off this pod, and puts it on again."""

    async def scene(arena: Arena) -> None:
        pods = Pods(arena)
        pods.start("a")
        await arena.until(lambda: pods.labelled() == ["a"])
        off = {"metadata": {"labels": {KEY: None}, "annotations": {LEADS: None}}}
        arena.store.patch(PODS, "default", "a", off)
        assert pods.labelled() == []
        await arena.until(lambda: pods.labelled() == ["a"], within=2 * TTL)

    play(scene)


@pytest.mark.parametrize("seed", range(12))
def test_never_two_whatever_happens(seed: int) -> None:
    """Under crashes, pauses, lost requests and lost answers never do two pods have the label at once.

    Once all is well, the leader's pod has it.
    """

    async def scene(arena: Arena) -> None:
        pods = Pods(arena)
        uids = {name: pods.create(name) for name in "abc"}
        networks = {name: Network(lost_requests=0.1, lost_answers=0.1) for name in uids}
        processes = {name: pods.start(name, uid=uid, network=networks[name])[0] for name, uid in uids.items()}
        for _ in range(12):
            await asyncio.sleep(arena.random.uniform(0, 1.5 * TTL))
            name = arena.random.choice("abc")
            match arena.random.choice(["kill", "stop", "leave", "abstain", "hang", "heal"]):
                case "kill":
                    arena.kill(processes[name])
                    processes[name] = pods.start(name, uid=uids[name], network=networks[name])[0]
                case "stop":
                    arena.stop(processes[name], arena.random.uniform(0, 3 * TTL))
                case "leave":
                    processes[name].candidate.leave()
                    await arena.until(lambda name=name: processes[name].ended, within=20 * TTL)  # type: ignore[misc]
                    processes[name] = pods.start(name, uid=uids[name], network=networks[name])[0]
                case "abstain":
                    processes[name].candidate.abstain("test", until=processes[name].clock.now() + TTL)
                case "hang":
                    networks[name].hangs = not networks[name].hangs
                case "heal":
                    networks[name].heal()
        for network in networks.values():
            network.heal()
        await asyncio.sleep(6 * TTL)
        (leader,) = arena.leaders()
        await arena.until(lambda: pods.labelled() == [leader.identity], within=3 * TTL)
        assert pods.most == 1

    play(scene, seed)
