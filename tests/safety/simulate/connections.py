"""TCP without a network: connections in memory, in virtual time, over links that delay, hold back, lose and reset.

aiohttp's connector ends in two calls of the event loop: `sock_connect`, and `create_connection` on the socket that was
connected. `ConnectedLoop` answers both: the bytes that the client's transport writes travel over the `Link` of the
process that runs, and arrive at a protocol of the server that listens. Everything above, on both sides, is the real
thing: connection pools, HTTP, time-outs.

What is left out of TCP: windows (whoever does not read is sent to all the same), acknowledgements, keep-alive probes.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextvars import Context, copy_context
from enum import Enum, auto
from random import Random
from typing import TYPE_CHECKING, Any, Final, cast

from sidecar.lab.virtualtime import PROCESS, VirtualTimeLoop

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterable

LATENCY: Final = (0.0005, 0.005)
"""Seconds of one way, when nothing is wrong."""

SPLIT: Final = 0.02
"""The part of what is written that arrives in two pieces."""

RETRANSMITTED: Final = (0.0, 1.0)
"""Seconds from the instant at which a way is open again until what was held back goes on: TCP backs off."""

ROUNDS: Final = 1_000_000
"""Of the event loop, after which it is given up; what is usual is a hundredth."""

_OUTSIDE: Final = Context()
"""Of what is under way, or at the server: it goes on when a process is stopped."""


class _Mark(Enum):
    """What goes over a connection beside bytes."""

    FIN = auto()
    RESET = auto()


class Way:
    """One direction between a process and the server."""

    def __init__(self) -> None:
        self.latency = LATENCY
        """Seconds that what is sent travels, drawn from this range: in order on one connection, not on several."""
        self.watch_lag = (0.0, 0.0)
        """Seconds more, on connections that carry a watch: the API server's watch cache is behind."""
        self.pipes: dict[_Pipe, None] = {}
        """Of the connections that are open."""
        self._shut = 0
        self._opened = asyncio.Event()

    @property
    def is_shut(self) -> bool:
        """Whether what arrives is held back."""
        return self._shut > 0

    def shut(self) -> None:
        """Hold back what is under way, and what is sent from now on, until `open` was called as often."""
        self._shut += 1
        self._opened.clear()

    def open(self, *, deliver: bool) -> None:
        """Let everything go on its way again; without `deliver`, connections that have missed something stay silent."""
        self._shut -= 1
        if not self._shut:
            self._opened.set()
            for pipe in self.pipes:
                pipe.go_on(deliver=deliver)

    async def travel(self, random: Random) -> None:
        """Go this way once, however long it takes."""
        await asyncio.sleep(random.uniform(*self.latency))
        while self._shut:
            await self._opened.wait()
            await asyncio.sleep(random.uniform(*RETRANSMITTED))


class Link:
    """What lies between one process and the server."""

    def __init__(self, name: str, seed: int) -> None:
        self.up = Way()
        self.down = Way()
        self._name = name
        self._seed = seed
        self._asked = 0
        self._open: dict[_Connection, None] = {}

    @property
    def ways(self) -> tuple[Way, Way]:
        """Both directions."""
        return self.up, self.down

    def next_random(self) -> Random:
        """Return what the next connection draws from: its own, so that none depends on what happens on another."""
        self._asked += 1
        return Random(f"{self._seed}/{self._name}/{self._asked}")  # noqa: S311 - plays, protects nothing

    def join(self, loop: ConnectedLoop, random: Random, client: asyncio.Protocol) -> asyncio.Transport:
        """Connect a client's protocol to the server; return the client's transport."""
        connection = _Connection(loop, self, random)
        self._open[connection] = None
        if loop.accept is None:
            # It has stopped listening since.
            connection.far.vanish(_Mark.RESET)
        else:
            loop.call_soon(connection.far.begin, _OUTSIDE.run(loop.accept), context=_OUTSIDE)
        connection.near.begin(client)
        return connection.near

    def silence(self, *, watches_only: bool) -> int:
        """Make open connections half-open: nothing arrives over them any more, and nobody is told. Return how many."""
        chosen = [connection for connection in self._open if connection.watching or not watches_only]
        for connection in chosen:
            for pipe in connection.pipes:
                pipe.die()
        return len(chosen)

    def reset(self) -> int:
        """Break the open connections off, at both ends; return how many there were."""
        chosen = list(self._open)
        for connection in chosen:
            for end in connection.ends:
                end.break_off()
        return len(chosen)

    def hang_up(self, random: Random) -> None:
        """Close the open connections on behalf of a process that was killed, as its kernel does."""
        for connection in list(self._open):
            connection.near.vanish(random.choice([_Mark.FIN, _Mark.RESET]))

    def forget(self, connection: _Connection) -> None:
        """Take note that both ends of a connection are closed."""
        self._open.pop(connection, None)
        for way, pipe in zip(self.ways, connection.pipes, strict=True):
            way.pipes.pop(pipe, None)


class BusyError(RuntimeError):
    """Something goes round and round, and hardly any time passes."""


class ConnectedLoop(VirtualTimeLoop):
    """An event loop in virtual time that connects: each process over its `Link`, to whatever `accept` makes.

    Raises BusyError from where it runs after `ROUNDS` rounds.
    """

    def __init__(self) -> None:
        super().__init__()
        self._rounds = 0
        self.links: dict[str, Link] = {}
        """By the name of the process, as `PROCESS` has it."""
        self.accept: Callable[[], asyncio.Protocol] | None = None
        """Makes the server's protocol for a connection; `None` while nobody listens."""
        self.went_on: Callable[[str], None] = lambda _: None
        """Told which process goes on after it was stopped, before anything of it runs."""
        self._connected: dict[socket.socket, Random] = {}

    def select(self, timeout: float | None) -> list[Any]:
        """See `VirtualTimeLoop`."""
        self._rounds += 1
        if self._rounds == ROUNDS:
            raise BusyError(f"{ROUNDS} rounds of the event loop took {self.time():.0f} s: somebody does not wait")
        return super().select(timeout)

    def continue_process(self, process: str) -> None:
        """See `VirtualTimeLoop`."""
        super().continue_process(process)
        self.went_on(process)

    async def sock_connect(self, sock: socket.socket, _address: Any) -> None:  # noqa: ANN401 - as asyncio types it
        """See `asyncio.AbstractEventLoop`. There is one server, whatever the address; refused while nobody listens."""
        link = self.links[PROCESS.get()]
        random = link.next_random()
        await link.up.travel(random)
        listening = self.accept is not None
        await link.down.travel(random)
        if not listening:
            raise ConnectionRefusedError(111, "Connection refused")
        self._connected[sock] = random

    async def create_connection(  # type: ignore[override]
        self, protocol_factory: Callable[[], asyncio.Protocol], *_: object, sock: socket.socket, **__: object
    ) -> tuple[asyncio.Transport, asyncio.Protocol]:
        """See `asyncio.AbstractEventLoop`; on a socket that `sock_connect` was called for, and without TLS."""
        random = self._connected.pop(sock)
        sock.close()
        protocol = protocol_factory()
        return self.links[PROCESS.get()].join(self, random, protocol), protocol

    def run_in_executor(  # type: ignore[override]
        self, executor: object, func: Callable[..., object], *args: object
    ) -> asyncio.Future[object]:
        """Run `func` here and now: aiohttp asks threads for passwords and proxies, which takes no virtual time."""
        del executor
        future: asyncio.Future[object] = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:  # noqa: BLE001 - whoever awaits gets it
            future.set_exception(error)
        return future


class _Connection:
    """One connection: a pipe and an end for each direction."""

    def __init__(self, loop: ConnectedLoop, link: Link, random: Random) -> None:
        up, down = (_Pipe(loop, way, Random(random.random())) for way in link.ways)  # noqa: S311 - plays
        self.pipes = up, down
        self.near = _End(loop, copy_context(), self, up)
        self.far = _End(loop, _OUTSIDE, self, down)
        up.receiver, down.receiver = self.far, self.near
        self.watching = False
        """Whether it carries a watch."""
        self._link = link

    @property
    def ends(self) -> tuple[_End, _End]:
        """The client's and the server's."""
        return self.near, self.far

    def watch(self) -> None:
        """Take note that what follows is a watch."""
        self.watching = True
        for pipe in self.pipes:
            pipe.watching = True

    def ended(self) -> None:
        """Take note that an end is closed."""
        if all(end.is_closing() for end in self.ends):
            self._link.forget(self)


class _Pipe:
    """One direction of one connection."""

    def __init__(self, loop: asyncio.AbstractEventLoop, way: Way, random: Random) -> None:
        self._loop = loop
        self._way = way
        self._random = random
        self._under_way: deque[bytes | _Mark] = deque()
        self._held: deque[bytes | _Mark] = deque()
        self._last_arrival = 0.0
        self._dead = False
        self.watching = False
        self.receiver: _End | None = None
        way.pipes[self] = None

    def send(self, segment: bytes | _Mark) -> None:
        """Send bytes, or the end."""
        if isinstance(segment, bytes) and len(segment) > 1 and self._random.random() < SPLIT:
            middle = self._random.randrange(1, len(segment))
            self._travel(segment[:middle])
            segment = segment[middle:]
        self._travel(segment)

    def _travel(self, segment: bytes | _Mark) -> None:
        if self._dead:
            return
        arrival = self._loop.time() + self._random.uniform(*self._way.latency)
        if self.watching:
            arrival += self._random.uniform(*self._way.watch_lag)
        self._last_arrival = max(arrival, self._last_arrival)
        self._under_way.append(segment)
        self._loop.call_at(self._last_arrival, self._arrive, context=_OUTSIDE)

    def _arrive(self) -> None:
        if self._dead:
            return
        segment = self._under_way.popleft()
        if self._way.is_shut or self._held:
            self._held.append(segment)
        else:
            self._hand_over(segment)

    def _hand_over(self, segment: bytes | _Mark) -> None:
        if self.receiver is not None:
            self._loop.call_soon(self.receiver.receive, segment, context=self.receiver.context)

    def go_on(self, *, deliver: bool) -> None:
        """Take note that the way is open again."""
        if not self._held:
            return
        if deliver:
            self._loop.call_later(self._random.uniform(*RETRANSMITTED), self._flush, context=_OUTSIDE)
        else:
            self.die()

    def _flush(self) -> None:
        while self._held and not self._way.is_shut:
            self._hand_over(self._held.popleft())

    def die(self) -> None:
        """Let nothing arrive any more."""
        self._dead = True
        self._under_way.clear()
        self._held.clear()


class _End(asyncio.Transport):
    """One end of a connection. What happens at it runs in `context`, and so stands by while its process is stopped."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, context: Context, connection: _Connection, outgoing: _Pipe
    ) -> None:
        super().__init__({"peername": ("127.0.0.1", 0)})
        self._loop = loop
        self._connection = connection
        self._outgoing = outgoing
        self._protocol: asyncio.Protocol | None = None
        self._closing = False
        self._reading = True
        self._unread: deque[bytes | _Mark] = deque()
        self.context = context

    def begin(self, protocol: asyncio.Protocol) -> None:
        """Begin to serve `protocol`."""
        self._protocol = protocol
        protocol.connection_made(self)

    # -- What the protocol calls --

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """See `asyncio.WriteTransport`."""
        if self._closing:
            return
        written = bytes(data)
        if b"watch=true" in written and self.context is not _OUTSIDE:
            self._connection.watch()
        self._outgoing.send(written)

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        """See `asyncio.WriteTransport`."""
        self.write(b"".join(list_of_data))

    def get_write_buffer_size(self) -> int:
        """See `asyncio.WriteTransport`."""
        return 0

    def is_closing(self) -> bool:
        """See `asyncio.BaseTransport`."""
        return self._closing

    def close(self) -> None:
        """See `asyncio.BaseTransport`."""
        self._close(_Mark.FIN, None)

    def abort(self) -> None:
        """See `asyncio.WriteTransport`."""
        self._close(_Mark.RESET, None)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """See `asyncio.BaseTransport`."""
        self._protocol = cast("asyncio.Protocol", protocol)

    def get_protocol(self) -> asyncio.BaseProtocol:
        """See `asyncio.BaseTransport`."""
        return cast("asyncio.Protocol", self._protocol)

    def is_reading(self) -> bool:
        """See `asyncio.ReadTransport`."""
        return self._reading and not self._closing

    def pause_reading(self) -> None:
        """See `asyncio.ReadTransport`."""
        self._reading = False

    def resume_reading(self) -> None:
        """See `asyncio.ReadTransport`."""
        self._reading = True
        if self._unread:
            self._loop.call_soon(self._read_on, context=self.context)

    # -- What happens --

    def receive(self, segment: bytes | _Mark) -> None:
        """Take in what has arrived."""
        if self._closing:
            if isinstance(segment, bytes):
                self._outgoing.send(_Mark.RESET)
        elif segment is _Mark.RESET:
            self._close(None, ConnectionResetError(104, "Connection reset by peer"))
        else:
            self._unread.append(segment)
            self._read_on()

    def _read_on(self) -> None:
        while self._unread and self._reading and not self._closing and self._protocol is not None:
            segment = self._unread.popleft()
            if isinstance(segment, bytes):
                self._protocol.data_received(segment)
            elif not self._protocol.eof_received():
                self.close()

    def break_off(self) -> None:
        """Have the connection reset by something in between."""
        reset = ConnectionResetError(104, "Connection reset by peer")
        self._loop.call_soon(self._close, None, reset, context=self.context)

    def vanish(self, mark: _Mark) -> None:
        """Close on behalf of a process that is no more, which would only hear of it if it ever went on."""
        self._close(mark, None)

    def _close(self, mark: _Mark | None, why: Exception | None) -> None:
        if self._closing:
            return
        self._closing = True
        if mark is not None:
            self._outgoing.send(mark)
        self._connection.ended()
        if self._protocol is not None:
            self._loop.call_soon(self._protocol.connection_lost, why, context=self.context)
