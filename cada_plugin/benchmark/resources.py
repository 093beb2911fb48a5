"""Measures floating point operations and peak memory of an action.

*FLOP* are those of matrix products and convolutions, 2 for each multiply-add. Softmax, normalisation and activations
are not counted, as in torch's counter. *Memory* on a GPU is that of its tensors; on the CPU it is that of the whole
process, which can be measured on Linux only.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


def count_flop(action: Callable[[], object]) -> int:
    """FLOP of one call of ``action``, including the backward passes in it."""
    with _countable(), FlopCounterMode(display=False) as counter:
        action()
    return counter.get_total_flops()


@contextmanager
def _countable() -> Iterator[None]:
    """Switch off the fused kernels that torch's counter does not see: those of attention, of recurrent layers, and of
    transformer layers in eval mode."""
    backends = torch.backends.mkldnn, torch.backends.cudnn
    enabled = [backend.enabled for backend in backends]
    fast_path = torch.backends.mha.get_fastpath_enabled()
    try:
        for backend in backends:
            backend.enabled = False
        torch.backends.mha.set_fastpath_enabled(False)
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        for backend, before in zip(backends, enabled, strict=True):
            backend.enabled = before
        torch.backends.mha.set_fastpath_enabled(fast_path)


def peak_so_far(device: torch.device) -> int | None:
    """Peak memory in bytes since this process started; None if the system does not report it."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    # getrusage does not serve: its peak includes that of the parent process at the time of the start
    return _of_process("VmHWM")


def peak_of(action: Callable[[], object], device: torch.device) -> int | None:
    """Peak memory of ``action`` in bytes, beyond the memory in use before; None if the system does not report it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        action()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    reset = Path("/proc/self/clear_refs")
    if not reset.exists():
        action()
        return None
    reset.write_text("5")  # resets the kernel's record of the peak
    before = _of_process("VmRSS")
    action()
    return max(_of_process("VmHWM") - before, 0)  # the kernel counts both in parts, and may lag behind in one of them


def _of_process(key: str) -> int | None:
    """A memory entry of this process in Linux's status file, in bytes; None on other systems."""
    status = Path("/proc/self/status")
    if not status.is_file():
        return None
    return next(1024 * int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith(key))
