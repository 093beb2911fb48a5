"""Every workaround for a dependency, in one place: the symptom, the reason, and when it can be deleted.

MMEngine is imported where it is used, because parts of it bring torch, and commands that need none start without.
"""

import ast
import functools
import gc
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace

from cada_plugin.errors import MissingExtraError

HARMLESS_RECORDS = (
    "Distributed training is not used",
    '"FileClient" will be deprecated',
    '"HardDiskBackend" is the alias',
)
"""Beginnings of log records that MMEngine writes about itself. ``CalmRunner`` sends these to the log file only.

Symptom: every run opens with a note on SyncBatchNorm and two deprecation warnings.
Reason: MMEngine 0.10.7's own Runner and CheckpointHook cause them, whatever the config says.
Delete when: a release of MMEngine stops writing them.
"""


def quiet_dependencies() -> None:
    """Ignore warnings of dependencies about each other, which a user cannot act on. Only the commands call this.

    Symptom: FutureWarning on ``torch.load`` with ``weights_only=False`` (torch 2.4, 2.5), on ``torch.cuda.amp`` and on
    ``broadcast_buffers``; with torchrun, UserWarning that MKL_NUM_THREADS becomes 1.
    Reason: MMEngine 0.10.7 still uses the old names of the first three, and sets MKL_NUM_THREADS beside what torchrun
    sets.
    Delete when: a release of MMEngine stops doing so.
    """
    for message, category in (
        (r"You are using `torch\.load` with `weights_only=False`", FutureWarning),
        (r"`torch\.cuda\.amp", FutureWarning),
        (r"`broadcast_buffers` is deprecated", FutureWarning),
        (r"Setting MKL_NUM_THREADS environment variable", UserWarning),
    ):
        warnings.filterwarnings("ignore", message=message, category=category)


def import_torchreid() -> ModuleType:
    """Import ``torchreid`` quietly and return it. Access its parts as attributes (``torchreid.metrics``), because that
    works with both layouts of the package.

    Symptom: the first import warns "Cython evaluation (very fast so highly recommended) is unavailable".
    Reason: the wheel on PyPI has no compiled ranker. We do not need it, because the plugin ranks by its own code.
    Delete when: torchreid stops warning at import time.

    Raises:
        MissingExtraError: torchreid is missing, or a package that it needs but does not declare, or another package has
            its name.
    """
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Cython evaluation")
            import torchreid
    except ImportError as error:
        raise MissingExtraError(
            f"torchreid cannot be imported ({error}): run `pip install 'cada_plugin[torchreid]'`, which also brings "
            "what torchreid needs and does not declare"
        ) from error
    if missing := [part for part in ("data", "engine", "metrics", "models") if not hasattr(torchreid, part)]:
        raise MissingExtraError(
            f"{torchreid.__file__} is not torchreid in a layout that we know: it has no {', '.join(missing)}. "
            "Run `pip install torchreid`, or take the author's own 1.4.0"
        )
    return torchreid


def let_mmengine_find_our_configs() -> None:
    """Let ``_base_ = 'cada_plugin::cada_cuhk.py'`` and ``mmengine.hub`` find the configs of this package.

    Symptom: "mmengine does not support to load cada_plugin config", or ModuleNotFoundError for ``pkg_resources``.
    Reason: MMEngine 0.10.7 has a closed list of packages, expects a folder in every name, and uses ``pkg_resources``,
    which setuptools 82 removed and which does not find editable installs.
    Delete when: a release of MMEngine resolves any installed package by ``importlib``.
    """
    import mmengine.config.config
    import mmengine.hub.hub

    ours, folder = __name__.partition(".")[0], str(Path(__file__).parent)
    answers = {
        "_get_package_and_cfg_path": lambda path: tuple(path.split("::", 1)),
        "is_installed": lambda package: True,
        "get_installed_path": lambda package: folder,
        "install_package": lambda package: None,
    }

    def answered(original: Callable, answer: Callable) -> Callable:
        @functools.wraps(original)
        def ask(name: str, *args: object) -> object:
            return answer(name) if name.partition("::")[0] == ours else original(name, *args)

        return ask

    for module in (mmengine.config.config, mmengine.hub.hub):
        for name, answer in answers.items():
            original = getattr(module, name, None)
            if original is not None and not hasattr(original, "__wrapped__"):
                setattr(module, name, answered(original, answer))


def spare_mmengine_repetitions() -> None:
    """Let MMEngine format a config once, and build data sets without a search for garbage.

    Symptom: a short run spends most of its time before and between its steps.
    Reason: MMEngine 0.10.7 formats the text of the whole config with yapf, which takes half a second, for every
    checkpoint and every log of it; and each data set that is built calls ``gc.collect``, which looks through
    everything that was imported. What it means to free, the list of items, is freed without that.
    Delete when: a release of MMEngine keeps the formatted text, and collects nothing.
    """
    import mmengine.config.config as config
    import mmengine.dataset.base_dataset as data

    if hasattr(config.FormatCode, "__wrapped__"):
        return
    format_code = config.FormatCode

    @functools.lru_cache(maxsize=8)
    def formatted(text: str, options: str) -> tuple[str, bool]:
        return format_code(text, **ast.literal_eval(options))

    @functools.wraps(format_code)
    def format_once(text: str, *others: object, **options: object) -> tuple[str, bool]:
        return format_code(text, *others, **options) if others else formatted(text, repr(options))

    config.FormatCode = format_once
    data.gc = SimpleNamespace(**{**vars(gc), "collect": lambda *_: 0})
