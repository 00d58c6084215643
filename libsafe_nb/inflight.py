"""A flow of tasks through an executor: so many at once, each asked for when there is room, told as it ends."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import Any, TypeVar

Order = TypeVar("Order")

TICK = 0.5
"""Seconds after which a flow in which nothing ends looks again whether there is more to do."""


def flow(
    submit: Callable[[Order], Future[Any]],
    more: Callable[[], Order | None],
    *,
    most: Callable[[], int],
    waits: Callable[[], bool] = lambda: False,
    tick: Callable[[], None] = lambda: None,
) -> Iterator[tuple[Order, Future[Any]]]:
    """
    Each order with its future, as they end.

    Parameters
    ----------
    more
        The next order; None where there is none now.
    most
        How many may be under way.
    waits
        Whether there will be more although there is none now, and none is under way.
    tick
        Called again and again meanwhile.
    """
    under_way: dict[Future[Any], Order] = {}
    while True:
        while len(under_way) < max(1, most()):
            order = more()
            if order is None:
                break
            under_way[submit(order)] = order
        tick()
        if under_way:
            done, _ = wait(under_way, timeout=TICK, return_when=FIRST_COMPLETED)
            for each in done:
                yield under_way.pop(each), each
        elif waits():
            time.sleep(TICK)
        else:
            return
