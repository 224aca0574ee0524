"""Work done ahead by threads, in order, with few results waiting."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor


def map_ahead(pool: ThreadPoolExecutor, function: Callable, items: Iterable, ahead: int = 16) -> Iterator:
    """`pool.map` with a bounded number of results waiting, so that memory stays flat; its errors are raised here."""
    waiting: deque = deque()
    for item in items:
        waiting.append(pool.submit(function, item))
        if len(waiting) > ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
