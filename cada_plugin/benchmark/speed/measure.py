"""How the speed benchmark measures: sides in alternation, matrix FLOP counted, peak memory in fresh processes.

*Alternation*: every round times all sides one after the other, so that a temporary slow-down of the machine affects all
of them; ratios are taken within a round. *Matrix rate*: the FLOP/s of one large square matrix product, timed in the
same rounds. The best round stands for what the machine can do. *Peak memory*: the memory that an action needs beyond
the memory before its first call (weights and inputs), of the process on the CPU and of tensors on a GPU.
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
    """One side of a comparison. A call of ``action`` does ``amount`` units of work, with products in ``dtype``."""

    action: Callable[[], object]
    amount: int
    dtype: torch.dtype = torch.float32


@dataclass
class Work:
    """The same work done by several sides, ``ours`` first.

    Attributes:
        title: a description of the work and its inputs.
        unit: the unit of ``Side.amount``, in the plural.
        device: the device that does the work.
        sides: the sides by name.
        difference: returns the difference between the results of the sides; called after both have been timed.
        tolerance: the largest difference that is accepted.
        counted: whether the work is mainly matrix products, so that FLOP are worth counting.
        calls: how many calls it takes until memory peaks (2 for training, because of the optimiser's state).
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
    """All measurements of one work, ready for JSON.

    ``sides`` holds for each side: ``amount``, ``seconds`` of one action in each round, their ``median_s``,
    ``per_second`` (units), ``flop`` of one action, ``flop_per_s``, ``of_matrix_rate`` and ``peak_memory_mb``.
    ``ratios`` holds for each other side its time per unit divided by ours: ``median``, ``min``, ``max`` and ``rounds``.

    Args:
        build: makes the work. It must be picklable, because a fresh process calls it to measure the memory of a side.

    Raises:
        CADAError: the results of the sides differ by more than the tolerance.
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
    """Seconds of one call of each action, one number per round, after a warm-up."""
    calls = {name: _warm_up(action, device) for name, action in actions.items()}
    times = {name: [] for name in actions}
    for _ in progress_bar(range(rounds), desc="rounds", delay=2, leave=False, disable=None):
        for name, action in actions.items():
            times[name].append(_seconds(action, calls[name], device) / calls[name])
    return times


def _warm_up(action: Callable[[], object], device: torch.device) -> int:
    """Warms up, and returns how many calls make one timing at least ``_LEAST_SECONDS`` long."""
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
    """A large square matrix product, and its FLOP."""
    n = _MATRIX_SIDE[device.type]
    a, b, out = (torch.ones(n, n, dtype=dtype, device=device).div_(n) for _ in range(3))
    return partial(torch.mm, a, b, out=out), 2 * n**3


def peak_memory(build: Callable[[], Work], side: str) -> int | None:
    """Peak memory in bytes of the action of one side beyond the memory before, measured in a fresh process. None if the
    system does not report it.

    Raises:
        CADAError: the process was killed, as a system does when it runs out of memory.
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
    """A context for processes that share no memory with this one. They fork from a clean server that has imported
    everything once, so that they start fast."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["cada_plugin.benchmark.speed.work"])
    return context
