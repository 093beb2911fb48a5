"""Runs searches in threads, a few at once, and drops those whose client went away."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from cada_plugin.errors import needs_extra

with needs_extra("serve"):
    from fastapi import HTTPException, Request

Result = TypeVar("Result")
_WAITING = 256


class Pool:
    """So many calls run at once, and the others wait.

    A call that waits is dropped when its client disconnects. One that runs is finished, because a thread cannot be
    stopped; it is the reason to have several.
    """

    def __init__(self, name: str, threads: int) -> None:
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._open = 0

    async def run(self, request: Request, work: Callable[..., Result], *args: object) -> Result:
        """The result of ``work(*args)``.

        Raises:
            HTTPException: too many calls wait (503), or the client went away (499, which nobody reads).
        """
        if self._open >= _WAITING:
            raise HTTPException(503, "too many searches wait: try again in a few seconds", {"Retry-After": "5"})
        self._open += 1
        future = self._executor.submit(work, *args)
        result, left = asyncio.wrap_future(future), asyncio.ensure_future(_disconnected(request))
        try:
            await asyncio.wait({result, left}, return_when=asyncio.FIRST_COMPLETED)
            if result.done():
                return result.result()
            raise HTTPException(499, "the client went away")
        finally:
            self._open -= 1
            left.cancel()
            result.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
