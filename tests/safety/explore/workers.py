"""Several scenarios at a time, each in a process of its own: what it took is given back when it ends."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from typing import TYPE_CHECKING

from tests.safety.explore.scenarios import BY_NAME
from tests.safety.explore.search import TOLD_EVERY, Search

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from concurrent.futures import Future
    from multiprocessing.sharedctypes import Synchronized

    from tests.safety.explore.search import Found

SHOWN_SECONDS = 0.5
"""Between two reports of progress."""

_STATES: list[Synchronized[int]] = []
"""In a worker, the states of all of them."""


def explored(
    names: Sequence[str], *, states: int | None, workers: int, shown: Callable[[int, int], None]
) -> list[Found]:
    """Explore these scenarios, as many at a time as there are workers, and return what was found, in the same order.

    There are `states` distinct states in sum, at most; what one scenario leaves of its share is for those after it.
    `shown` is told now and then how many scenarios were explored, and about how many states.
    """
    # Not forked: the child is to be small, and is to import the very code that this program would.
    context = multiprocessing.get_context("spawn")
    counter = context.Value("q", 0)
    waiting = list(names)
    found: dict[str, Found] = {}
    left = states
    with ProcessPoolExecutor(workers, context, _begin, (counter,), max_tasks_per_child=1) as pool:
        under_way: dict[Future[Found], int] = {}
        while waiting or under_way:
            while waiting and len(under_way) < workers:
                share = 0 if left is None else max(1, left // len(waiting))
                left = None if left is None else left - share
                under_way[pool.submit(_explore, waiting.pop(0), share)] = share
            done, _ = wait(under_way, SHOWN_SECONDS, FIRST_COMPLETED)
            for future in done:
                result = future.result()
                found[result.scenario] = result
                share = under_way.pop(future)
                left = None if left is None else left + max(0, share - result.states)
            shown(len(found), counter.value)
    return [found[name] for name in names]


def _begin(counter: Synchronized[int]) -> None:
    _STATES.append(counter)


def _explore(name: str, states: int) -> Found:
    return Search(BY_NAME[name], states=states, told=_count).run()


def _count() -> None:
    with _STATES[0].get_lock():
        _STATES[0].value += TOLD_EVERY
