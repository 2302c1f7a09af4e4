"""What Prometheus reads from running programs: the truth about who leads, and about what the API server was asked."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from typing import TYPE_CHECKING

from prometheus_client.parser import text_string_to_metric_families

from sidecar.metrics import CONTENT_TYPE
from tests.testbed.sidecar import Answer, leader_of, until

if TYPE_CHECKING:
    from tests.testbed.embedded import APIServer, EmbeddedForTests
    from tests.testbed.sidecar import Sidecar, Sidecars

MASTER = "leader_election_master_status"


def start(sidecars: Sidecars, server: APIServer, *identities: str, ttl: str = "10s") -> list[Sidecar]:
    """Start candidates of one election."""
    namespace = server.namespace()
    return [
        sidecars.start(
            election="example",
            identity=identity,
            namespace=namespace,
            ttl=ttl,
            kubeconfig=server.admin_kubeconfig,
            env={"NODE_NAME": f"node-{identity}"},
        )
        for identity in identities
    ]


def read(answer: Answer) -> Counter[str]:
    """Return the values in an exposition: of a family the sum, and of requests those by verb as well."""
    assert answer.status == 200
    assert answer.headers["content-type"] == CONTENT_TYPE
    found: Counter[str] = Counter()
    for family in text_string_to_metric_families(answer.body.decode()):
        for sample in family.samples:
            assert sample.labels["name"] == "example"
            found[sample.name] += sample.value  # type: ignore[assignment]
            if "verb" in sample.labels:
                found[sample.labels["verb"]] += int(sample.value)
    return found


async def scrape(candidate: Sidecar) -> Counter[str]:
    """Ask a candidate for its series."""
    return read(await candidate.ask("/metrics"))


async def test_exactly_one_says_that_it_leads(sidecars: Sidecars, api_server: APIServer) -> None:
    """The one that `/` names, and after its end another one, which everybody else has seen to begin."""
    candidates = start(sidecars, api_server, "a", "b", "c")
    leader = await leader_of(candidates)
    told = {candidate.identity: await scrape(candidate) for candidate in candidates}
    assert {identity: series[MASTER] for identity, series in told.items()} == {
        identity: int(identity == leader.identity) for identity in told
    }
    assert [series["leader_election_leader_known"] for series in told.values()] == [1, 1, 1]
    assert told[leader.identity]["leader_election_terms_total"] == 1
    assert told[leader.identity]["leader_election_renewal_age_seconds"] < 10
    before = {identity: series["leader_election_transitions_total"] for identity, series in told.items()}

    await leader.terminate()
    others = [candidate for candidate in candidates if candidate is not leader]
    heir = await leader_of(others)

    assert (await scrape(heir))[MASTER] == 1
    for candidate in others:
        seen = (await scrape(candidate))["leader_election_transitions_total"]
        assert seen >= before[candidate.identity] + 1


async def test_requests_are_counted_as_the_server_counts_them(sidecars: Sidecars, embedded: EmbeddedForTests) -> None:
    """By verb, those of all candidates together are those that arrived."""
    candidates = start(sidecars, embedded, "a", "b")
    await leader_of(candidates)

    async def agree() -> bool:
        arrived: Counter[str] = Counter()
        before = embedded.server.requests.copy()
        told = [await scrape(candidate) for candidate in candidates]
        if embedded.server.requests != before:
            return False
        for (verb, _), count in before.items():
            arrived[verb] += count
        counted = Counter({verb: sum(series[verb] for series in told) for verb in arrived})
        return arrived == counted and arrived["update"] >= 2

    await until(agree, "both count the same", every=0.05)


async def test_to_be_scraped_costs_no_request(sidecars: Sidecars, embedded: EmbeddedForTests) -> None:
    """A follower that answers thirty scrapes sends nothing meanwhile."""
    candidates = start(sidecars, embedded, "a", "b")
    leader = await leader_of(candidates)
    (follower,) = [candidate for candidate in candidates if candidate is not leader]

    async def silent() -> bool:
        # At first it registers and says what it sees; what scrapes cost would be there every time.
        before = (await scrape(follower))["leader_election_api_requests_total"]
        for _ in range(30):
            after = (await scrape(follower))["leader_election_api_requests_total"]
        return after == before

    await until(silent, "thirty scrapes without a request")


async def test_a_process_that_was_stopped_does_not_call_itself_leader(
    sidecars: Sidecars, embedded: EmbeddedForTests
) -> None:
    """Stopped for longer than its lease, a leader answers the scrape that waited for it with 0: another one leads."""
    candidates = start(sidecars, embedded, "a", "b", ttl="4s")
    leader = await leader_of(candidates)
    (other,) = [candidate for candidate in candidates if candidate is not leader]
    assert (await scrape(leader))[MASTER] == 1

    leader.signal(signal.SIGSTOP)
    reader, writer = await asyncio.open_connection("127.0.0.1", leader.port)
    writer.write(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    await writer.drain()
    await other.leading()
    leader.signal(signal.SIGCONT)
    async with asyncio.timeout(20):
        answer = Answer.parse(await reader.read(-1))
    writer.close()

    told = read(answer)
    assert told[MASTER] == 0
    assert "leader_election_renewal_age_seconds" not in told
    await until(lambda: lapsed(leader), "the lapse is counted")


async def lapsed(candidate: Sidecar) -> bool:
    """Tell whether a candidate has counted a term that lapsed."""
    return (
        b'leader_election_terms_ended_total{name="example",reason="lapse"} 1.0'
        in (await candidate.ask("/metrics")).body
    )
