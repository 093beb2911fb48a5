"""The machine and the package versions with which numbers were measured."""

import os
import platform
from importlib.metadata import version
from pathlib import Path

import torch

from cada_plugin import __version__


def machine() -> dict[str, str | int | None]:
    """Name of the processor, number of cores of this process, number of threads of torch, name of the GPU or None."""
    return {
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name(0) if torch.cuda.is_available() else None,
    }


def versions() -> dict[str, str]:
    others = {name: version(name) for name in ("torch", "timm", "transformers", "mmengine")}
    return {"cada_plugin": __version__, "python": platform.python_version(), **others}


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
