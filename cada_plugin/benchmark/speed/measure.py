"""How the speed benchmark measures: sides taken in turn, matrix FLOP counted, peak memory in a process of its own.

*In turn*: every round times one side after the other, so that what slows the machine down for a while slows both, and a
ratio is taken within a round. *Matrix rate*: what the machine reaches in one large square product, timed in the same
rounds; the best of them stands for what is possible. *Peak memory* is what an action needs beyond what was there
before its first call, weights and inputs: of the process on the CPU, of tensors on a GPU.
"""

import math
import multiprocessing
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial

import torch

from cada_plugin.benchmark.resources import count_flop, peak_of
from cada_plugin.errors import CADAError
from cada_plugin.progress import progress_bar

_LEAST_SECONDS = 0.3  # a shorter action is called several times for one timing
_MATRIX_SIDE = {"cpu": 2048, "cuda": 8192}


@dataclass
class Side:
    """What is timed: ``action`` makes ``amount`` units of work, its products in ``dtype``."""

    action: Callable[[], object]
    amount: int
    dtype: torch.dtype = torch.float32


@dataclass
class Work:
    """The same work done by several sides, ``ours`` first.

    Attributes:
        title: what is done, on what.
        unit: of which a side does an amount, in the plural.
        device: where.
        sides: by name.
        difference: how far apart the results of the sides are; called after both have been timed.
        tolerance: how far apart they may be.
        counted: the work consists of matrix products, so that FLOP tell something.
        calls: after so many calls a side has held all that it ever holds.
    """

    title: str
    unit: str
    device: torch.device
    sides: dict[str, Side]
    difference: Callable[[], float] | None = None
    tolerance: float = 1e-4
    counted: bool = True
    calls: int = 1


def measure(build: Callable[[], Work], rounds: int) -> dict:
    """Everything about one work, ready for JSON.

    ``sides`` holds for each: ``amount``, ``seconds`` of one action in each round, their ``median_s``, ``per_second``
    (units), ``flop`` of one action, ``flop_per_s``, ``of_matrix_rate`` and ``peak_memory_mb``. ``ratios`` hold for each
    other side its time for one unit over ours: ``median``, ``min``, ``max`` and ``rounds``.

    Args:
        build: makes the work; called anew, in a fresh process, for the memory of each side, so it must be picklable.

    Raises:
        CADAError: the sides do not compute the same.
    """
    work = build()
    memory = {name: peak_memory(build, name) for name in work.sides}
    flop = {name: count_flop(side.action) if work.counted else None for name, side in work.sides.items()}
    dtypes = {side.dtype for side in work.sides.values()} if work.counted else set()
    products = {dtype: matrix_product(work.device, dtype) for dtype in dtypes}
    actions = {name: side.action for name, side in work.sides.items()}
    times = interleave(actions | {dtype: action for dtype, (action, _) in products.items()}, rounds, work.device)
    difference = work.difference() if work.difference else None
    if difference is not None and not difference <= work.tolerance:
        raise CADAError(f"{work.title}: the sides differ by {difference:.2g}, so their times do not compare")
    rates = {dtype: flop / min(times[dtype]) for dtype, (_, flop) in products.items()}
    sides = {
        name: _numbers(side, times[name], flop[name], rates.get(side.dtype), memory[name])
        for name, side in work.sides.items()
    }
    return {
        "title": work.title,
        "unit": work.unit,
        "rounds": rounds,
        "sides": sides,
        "ratios": _ratios(work, times),
        "difference": difference,
        "matrix_flop_per_s": {_name(dtype): rate for dtype, rate in rates.items()},
    }


def _numbers(side: Side, seconds: list[float], flop: int | None, rate: float | None, memory: int | None) -> dict:
    median = statistics.median(seconds)
    return {
        "amount": side.amount,
        "dtype": _name(side.dtype),
        "seconds": seconds,
        "median_s": median,
        "per_second": side.amount / median,
        "flop": flop,
        "flop_per_s": flop and flop / median,
        "of_matrix_rate": flop and flop / median / rate,
        "peak_memory_mb": None if memory is None else memory / 2**20,
    }


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _ratios(work: Work, times: dict) -> dict[str, dict]:
    ours, *others = work.sides
    ratios = {}
    for other in others:
        scale = work.sides[ours].amount / work.sides[other].amount
        rounds = [scale * theirs / own for theirs, own in zip(times[other], times[ours], strict=True)]
        ratios[other] = {"median": statistics.median(rounds), "min": min(rounds), "max": max(rounds), "rounds": rounds}
    return ratios


def interleave(actions: dict, rounds: int, device: torch.device) -> dict:
    """Seconds of one call of each action, one number a round, after a warm-up."""
    calls = {name: _warm_up(action, device) for name, action in actions.items()}
    times = {name: [] for name in actions}
    for _ in progress_bar(range(rounds), desc="rounds", delay=2, leave=False, disable=None):
        for name, action in actions.items():
            times[name].append(_seconds(action, calls[name], device) / calls[name])
    return times


def _warm_up(action: Callable[[], object], device: torch.device) -> int:
    """How many calls make one timing long enough."""
    calls = 1
    while (seconds := _seconds(action, calls, device)) < _LEAST_SECONDS:
        calls = min(10 * calls, math.ceil(1.2 * calls * _LEAST_SECONDS / max(seconds, 1e-9)))
    return calls


def _seconds(action: Callable[[], object], calls: int, device: torch.device) -> float:
    synchronize(device)
    begin = time.perf_counter()
    for _ in range(calls):
        action()
    synchronize(device)
    return time.perf_counter() - begin


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def matrix_product(device: torch.device, dtype: torch.dtype) -> tuple[Callable[[], object], int]:
    """A large square product, and the FLOP of it."""
    n = _MATRIX_SIDE[device.type]
    a, b, out = (torch.ones(n, n, dtype=dtype, device=device).div_(n) for _ in range(3))
    return partial(torch.mm, a, b, out=out), 2 * n**3


def peak_memory(build: Callable[[], Work], side: str) -> int | None:
    """Bytes that the action of one side needs beyond what was there before, in a fresh process; None: not known here.

    Raises:
        CADAError: the process was ended, as a system does that has no memory left.
    """
    with ProcessPoolExecutor(
        1, fresh_processes(), initializer=torch.set_num_threads, initargs=(torch.get_num_threads(),)
    ) as pool:
        try:
            return pool.submit(_peak_of_side, build, side).result()
        except BrokenProcessPool as error:
            raise CADAError(f"the process that measured the memory of {side} was ended: out of memory?") from error


def _peak_of_side(build: Callable[[], Work], side: str) -> int | None:
    work = build()

    def calls() -> None:
        for _ in range(work.calls):
            work.sides[side].action()

    return peak_of(calls, work.device)


def fresh_processes() -> multiprocessing.context.BaseContext:
    """Processes that hold nothing of ours; forked from a clean server that has imported everything once."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["cada_plugin.benchmark.speed.work"])
    return context
