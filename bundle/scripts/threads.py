"""Several windows or crops at once on a CPU, each in a thread of its own.

The operations of one are too small to be divided well: each waits for its slowest part, which takes long where other
programs use the cores too.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

AT_ONCE = 2  # windows or batches of crops, on a CPU; each takes memory of its own
Item = TypeVar("Item")
Answer = TypeVar("Answer")


def in_threads(answer_of: Callable[[Item], Answer], items: Sequence[Item], workers: int) -> Iterator[Answer]:
    """Yield the answers in the order of the items; at most ``workers`` of them are computed or wait at a time.

    The workers share torch's threads. Whether gradients are recorded is decided where this is called.
    """
    threads, gradients = torch.get_num_threads(), torch.is_grad_enabled()
    workers = min(workers, threads, len(items))
    if workers <= 1:
        yield from map(answer_of, items)
        return

    def answer_in_thread(item: Item) -> Answer:
        with torch.set_grad_enabled(gradients):
            return answer_of(item)

    with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(threads // workers,)) as pool:
        try:
            waiting: deque[Future[Answer]] = deque()
            for item in items:
                waiting.append(pool.submit(answer_in_thread, item))
                if len(waiting) >= workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
            torch.set_num_threads(threads)
