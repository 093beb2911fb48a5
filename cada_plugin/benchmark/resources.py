"""What an action takes beside time: floating point operations, and memory at its peak.

*FLOP* are those of matrix products and convolutions, 2 for each multiply-add. Softmax, normalisation and activations
are not counted, as in torch's counter. *Memory* is that of the tensors on a GPU, and that of the whole process on the
CPU, which Linux alone tells.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


def count_flop(action: Callable[[], object]) -> int:
    """FLOP of one call of ``action``, with the backward passes that it runs."""
    with _countable(), FlopCounterMode(display=False) as counter:
        action()
    return counter.get_total_flops()


@contextmanager
def _countable() -> Iterator[None]:
    """Switch off fused kernels, of which torch's counter sees nothing: those of attention, of recurrent layers, and of
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
    """Bytes at the peak since this process started; None where the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    # and not getrusage: its number starts with that of the process that started this one
    return _of_process("VmHWM")


def peak_of(action: Callable[[], object], device: torch.device) -> int | None:
    """Bytes that ``action`` needs at its peak beyond what is there before; None where the system does not tell."""
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
    reset.write_text("5")  # the kernel forgets the peak so far
    before = _of_process("VmRSS")
    action()
    return _of_process("VmHWM") - before


def _of_process(key: str) -> int | None:
    """Bytes of this process from Linux's status file."""
    status = Path("/proc/self/status")
    if not status.is_file():
        return None
    return next(1024 * int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith(key))
