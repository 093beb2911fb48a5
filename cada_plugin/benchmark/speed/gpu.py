"""All measurements that wait for a GPU, one after the other within a time limit, each written as soon as it is done."""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from cada_plugin.benchmark.machine import machine, versions
from cada_plugin.files import replacing
from cada_plugin.progress import progress_bar

# The most wanted first, because the time limit may cut off the rest.
ROWS: dict[str, tuple[str, ...]] = {
    "training step, bf16, batch 64": ("train", "--amp", "--batch-size", "64", "--rounds", "3"),
    "evaluation at the size of ICFG-PEDES, bf16": ("evaluate", "--amp"),
    "data loading beside it": ("load", "--amp", "--batch-size", "64", "--rounds", "2", "--workers", "0", "4", "8"),
    "evaluation at the size of ICFG-PEDES, fp32": ("evaluate",),
    "re-ranking, bf16": ("rerank", "--amp", "--rounds", "3"),
    "training step, bf16 on both sides": ("train", "--amp", "both", "--batch-size", "64", "--rounds", "3"),
    "encoding, bf16": ("encode", "--amp", "--batch-size", "64", "--rounds", "3"),
}
"""For each row of the report the arguments of ``cada speed``."""

Run = Callable[[list[str], float], tuple[int, str]]


def run_command(command: list[str], seconds: float) -> tuple[int, str]:
    """Exit status and output of a process of its own, so that one that runs out of memory takes no other row along.
    124 if it was ended after ``seconds``."""
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=seconds)
    except subprocess.TimeoutExpired as error:
        return 124, (error.stdout or b"").decode(errors="replace")
    return done.returncode, done.stdout


def measure_rows(folder: Path, device: str, size: str, minutes: float, run: Run = run_command) -> list[str]:
    """Measure all ``ROWS``, and write into ``folder`` a JSON file for each, and ``README.md`` with the tables.

    Args:
        folder: exists, and can be written to.
        device: ``cuda``, or ``cpu`` to try it out.
        size: of the model, see ``cada speed train --size``.
        minutes: the time limit. A row that it cuts off, or that fails, stands in the report with the reason.
        run: runs a command for at most so many seconds; returns its exit status and output.

    Returns:
        The names of the rows that were not measured.
    """
    end, parts, failed = time.monotonic() + 60 * minutes, [_heading(device)], []
    for number, (row, arguments) in enumerate(progress_bar(ROWS.items(), desc="rows", unit="row"), 1):
        file = folder / f"{number}_{arguments[0]}.json"
        options = [*arguments, "--size", size, "--device", device, "--json", str(file)]
        left = end - time.monotonic()
        status, output = run([sys.executable, "-m", "cada_plugin", "speed", *options], left) if left > 0 else (124, "")
        if status:
            failed.append(row)
            reason = f"the limit of {minutes:g} minutes ended it" if status == 124 else f"exit status {status}"
            output = f"Not measured: {reason}.\n\n```\n{output[-2000:].strip()}\n```"
        command = " ".join(["cada", "speed", *options[:-2]])
        parts.append(f"## {row[0].upper()}{row[1:]}\n\n`{command}`\n\n{output.strip()}")
        with replacing(folder / "README.md") as partial:
            partial.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    return failed


def _heading(device: str) -> str:
    place, known = machine(), versions()
    name = place["gpu"] if device.startswith("cuda") else place["cpu"]
    packages = ", ".join(f"{package} {version}" for package, version in known.items())
    return f"# Speed on {name}\n\n{time.strftime('%Y-%m-%d')}; {packages}."
