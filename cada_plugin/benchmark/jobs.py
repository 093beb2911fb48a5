"""Runs subprocesses, a limited number at once. Each gets its own log and its device or threads, and all
are ended if the benchmark stops.

If one crashes, is killed or runs out of memory, the others go on.
"""

import contextlib
import fcntl
import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

import torch

from cada_plugin.errors import ConfigError
from cada_plugin.progress import progress_bar

_PATIENCE = 10.0  # seconds between SIGTERM and SIGKILL
_LOG_END = 65536  # bytes at the end of a log to search for the progress bar, which is written twice a minute
_BAR = re.compile(r"\d%\|.*\[\d+:\d\d")  # such as "42%|####    | 25/60 [00:10<00:14]"
_TRAINING = re.compile(rb"training: +(\d+)%")  # written by ``ProgressHook``


class JobError(Exception):
    """A child failed. The message is the last error or line of its output, or the signal that killed it."""

    def __init__(self, message: str, log: Path) -> None:
        super().__init__(message)
        self.log = log


class _Stopped(Exception):
    """The benchmark is ending, so that a job has neither result nor failure."""


@dataclass(frozen=True)
class Job:
    """A unit of work. ``work`` gets :meth:`Children.call` as its argument and starts its children with it. ``folder``
    holds the files of the job; a ``train.log`` there shows its progress."""

    label: str
    folder: Path
    work: Callable[[Callable[[Sequence[object], Path], None]], None]


@contextlib.contextmanager
def sole_user(folder: Path) -> Iterator[int]:
    """Lock a folder; yields the lock as a file descriptor. Children inherit it, so trainings that outlive a killed
    benchmark keep the folder locked until they end.

    Raises:
        ConfigError: another benchmark holds the lock.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise ConfigError(
                f"{folder} is in use by the benchmark of process {file.read()}, or by runs that it left behind when it "
                "was killed: wait, or end them"
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield file.fileno()


class Children:
    """Starts at most ``at_once`` subprocesses at a time, and ends them all at the end of the ``with`` block.

    Several CUDA devices are distributed over the subprocesses; without CUDA, the threads are divided among them.

    Args:
        at_once: the most subprocesses at a time.
        lock: the file descriptor of :func:`sole_user`.
    """

    def __init__(self, at_once: int, lock: int) -> None:
        self._lock = lock
        self._places: queue.SimpleQueue[dict[str, str]] = queue.SimpleQueue()
        for environment in _environments(at_once):
            self._places.put(environment)
        self._living: set[subprocess.Popen] = set()
        self._guard = threading.Lock()
        self._stopping = False

    def __enter__(self) -> "Children":
        return self

    def __exit__(self, *_: object) -> None:
        with self._guard:
            self._stopping = True
            living = list(self._living)
        for child in living:
            _signal_group(child, signal.SIGTERM)
        deadline = time.monotonic() + _PATIENCE
        for child in living:
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(max(0.0, deadline - time.monotonic()))
            _signal_group(child, signal.SIGKILL)  # also ends workers that outlived the child

    def call(self, command: Sequence[object], log: Path) -> None:
        """Run a command to its end and append all its output to ``log``.

        Raises:
            JobError: the command failed or was killed.
        """
        environment = self._places.get()
        try:
            log.parent.mkdir(parents=True, exist_ok=True)
            with log.open("ab") as output:
                begin = output.tell()
                status = self._run([str(part) for part in command], output, environment)
            if self._stopping:
                raise _Stopped
            if status:
                raise JobError(_last_words(log, begin, status), log)
        finally:
            self._places.put(environment)

    def _run(self, command: list[str], output: object, environment: dict[str, str]) -> int:
        with self._guard:
            if self._stopping:
                raise _Stopped
            child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **environment},
                start_new_session=True,  # Ctrl-C reaches only us; a child can be ended with its workers
                pass_fds=(self._lock,),
            )
            self._living.add(child)
        status = child.wait()
        with self._guard:
            self._living.discard(child)
        return status


def _environments(at_once: int) -> list[dict[str, str]]:
    if not torch.cuda.is_available():
        return [{"OMP_NUM_THREADS": str(max(1, torch.get_num_threads() // at_once))}] * at_once
    count = torch.cuda.device_count()
    if count == 1:
        return [{}] * at_once
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    devices = named.split(",") if named else [str(i) for i in range(count)]
    return [{"CUDA_VISIBLE_DEVICES": devices[i % count]} for i in range(at_once)]


def _signal_group(child: subprocess.Popen, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, number)


def _last_words(log: Path, begin: int, status: int) -> str:
    if status < 0:
        hint = " (out of memory?)" if status == -signal.SIGKILL else ""
        return f"killed by {signal.Signals(-status).name}{hint}"
    with log.open("rb") as file:
        file.seek(begin)
        lines = [line.strip() for line in file.read().decode(errors="replace").splitlines() if line.strip()]
    lines = [line for line in lines if not _BAR.search(line)]  # a bar is drawn a last time after the traceback
    errors = [line for line in lines if line.startswith("error: ")]
    return (errors or lines or [f"exit status {status} without a word"])[-1].removeprefix("error: ")


def run_all(
    jobs: Sequence[Job], at_once: int, lock: int, title: str, ended: Callable[[Job, JobError | None], str]
) -> None:
    """Run the jobs and show a progress bar with the remaining time.

    Args:
        at_once, lock: see :class:`Children`.
        title: text of the bar.
        ended: called in this thread after each job; returns the line to print for it.
    """
    if not jobs:
        return
    bar = progress_bar(
        total=len(jobs),
        initial=_progress(jobs),  # progress of earlier starts, which is no part of the time of this one
        desc=title,
        smoothing=0,
        bar_format="{desc}: {percentage:3.0f}%|{bar}| {n:.1f}/{total} [{elapsed}<{remaining}]{postfix}",
    )
    pause = 2.0 if sys.stderr.isatty() else 60.0
    # On leaving, the pool waits for its threads, so the children must have ended before.
    with ThreadPoolExecutor(at_once) as pool, Children(at_once, lock) as children, bar:
        running: dict[Future, Job] = {}
        waiting = list(jobs)
        done = 0
        while waiting or running:
            while waiting and len(running) < at_once:
                job = waiting.pop(0)
                running[pool.submit(job.work, children.call)] = job
            bar.n = done + _progress([*running.values(), *waiting])
            bar.set_postfix_str(", ".join(job.label for job in running.values()))
            finished, _ = wait(running, timeout=pause, return_when=FIRST_COMPLETED)
            for future in finished:
                job, error = running.pop(future), future.exception()
                if error is not None and not isinstance(error, JobError):
                    raise error
                done += 1
                bar.write(f"[{done}/{len(jobs)}] {ended(job, error)}", file=sys.stderr)
        bar.n = done
        bar.set_postfix_str("")


def _progress(jobs: Sequence[Job]) -> float:
    """How many of the jobs' trainings are done, counted in fractions."""
    return sum(_fraction(job.folder / "train.log") for job in jobs)


def _fraction(log: Path) -> float:
    """The fraction of a training that is done, at most 0.99, read from its log."""
    if not log.is_file():
        return 0.0
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - _LOG_END))
        seen = _TRAINING.findall(file.read())
    return min(int(seen[-1]), 99) / 100 if seen else 0.0
