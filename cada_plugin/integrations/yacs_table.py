"""The table of all settings of a yacs file: one row each, with its FastReID-style key, its torchreid-style key, and its
place in an MMEngine config. :mod:`cada_plugin.integrations.yacs` uses the table in both directions.

A setting for which a style has no key is under ``MODEL.CADA`` (``cada``). FastReID has no key for the data folder, and
its releases differ on the keys for seed and log period: these rows have TransReID's key, or the simplest one.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from cada_plugin.datasets.catalogue import data_sets
from cada_plugin.errors import ConfigError
from cada_plugin.integrations import yacs_schedule as schedule
from cada_plugin.integrations import yacs_settings as settings
from cada_plugin.integrations.yacs_settings import Setting, at, loaders, none_as

STYLES = ("fastreid", "torchreid")
Words = dict[str, tuple[str, str]]
"""Our names, each with FastReID's and torchreid's name for the same thing; empty if that host has no name for it."""


class Option(NamedTuple):
    """One row of the table: a setting with its yacs keys and its place in a config.

    Attributes:
        fastreid, torchreid: the keys; empty if the style has this setting in another row.
        kind: the type that yacs checks a value against.
        words: for values that are names, the spellings of each host; a function if names can be registered while a
            program runs. Both styles accept the names of either host.
        of_all_processes: True for batch sizes, which are totals over all processes in both hosts, but per process in
            MMEngine.
        low, high: bounds of a number.
        near: similar but different choices of the hosts (lower case), each with our name that replaces it and a remark.
    """

    fastreid: str
    torchreid: str
    kind: type
    setting: Setting
    words: Words | Callable[[], Words] | None = None
    of_all_processes: bool = False
    low: float | None = None
    high: float | None = None
    near: dict[str, tuple[str, str]] = {}

    def key(self, style: str) -> str:
        return self[STYLES.index(style)]

    @property
    def names(self) -> Words | None:
        """``words``, evaluated now if they are a function."""
        return self.words() if callable(self.words) else self.words

    def decode(self, value: Any) -> Any:
        """Converts names of the hosts to ours; other values are unchanged."""
        known = self.names
        if known is None:
            return value
        names = value if self.kind is list else [value]
        ours = {word.lower(): name for name, words in known.items() for word in words if word}
        ours |= {word: name for word, (name, _) in self.near.items()}
        if len(names) != 1 or str(names[0]).lower() not in ours:
            spellings = ", ".join(dict.fromkeys(word for words in known.values() for word in words if word))
            raise ConfigError(f"expected one of {spellings}; got {', '.join(map(str, names)) or 'none'}")
        return ours[str(names[0]).lower()]

    def remark(self, value: Any) -> str | None:
        """How a name in ``near`` differs from the one that replaces it; None for other values."""
        names = value if self.kind is list else [value]
        return next((self.near[str(name).lower()][1] for name in names if str(name).lower() in self.near), None)

    def check(self, value: Any) -> None:
        """Check the bounds of a number.

        Raises:
            ConfigError: the number is outside the bounds or not finite.
        """
        if self.kind in (int, float) and not -math.inf < value < math.inf:
            raise ConfigError(f"expected a finite number, got {value}")
        if self.low is not None and value < self.low:
            raise ConfigError(f"expected {self.low} or more, got {value}")
        if self.high is not None and value > self.high:
            raise ConfigError(f"expected {self.high} or less, got {value}")

    def encode(self, value: Any, style: str) -> Any:
        """Converts our names to those of a host; None if the host has no name for the value."""
        known = self.names
        if known is None:
            return value
        word = known[value][STYLES.index(style)] if value in known else ""
        if not word:
            return None
        return [word] if self.kind is list else word


def _data_sets() -> Words:
    return {name: (name, cls.TORCHREID_NAME) for name, cls in data_sets().items() if cls.CONFIG}


_SAMPLERS = {
    "DefaultSampler": ("TrainingSampler", "RandomSampler"),
    "IdentitySampler": ("NaiveIdentitySampler", "RandomIdentitySampler"),
    "LookAlikeSampler": ("LookAlikeSampler", "LookAlikeSampler"),
}
_NEAR_SAMPLERS = {"balancedidentitysampler": ("IdentitySampler", "persons are sampled whatever their cameras are")}
_OPTIMIZERS = {"Adam": ("Adam", "adam"), "AdamW": ("AdamW", "adamw"), "SGD": ("SGD", "sgd"), "AMSGrad": ("", "amsgrad")}
_SCHEDULES = {
    "CosineAnnealingLR": ("CosineAnnealingLR", "cosine"),
    "MultiStepLR": ("MultiStepLR", "multi_step"),
    "StepLR": ("", "single_step"),
}
_NEAR_SCHEDULES = {
    "warmupmultisteplr": ("MultiStepLR", "STEPS are taken for epochs and WARMUP_ITERS for iterations"),
    "warmupcosineannealinglr": ("CosineAnnealingLR", "WARMUP_ITERS are taken for iterations"),
    "delayedcosineannealinglr": ("CosineAnnealingLR", "the delay is that of DELAY_EPOCHS"),
}
_GROUPINGS = {
    name: (word, word)
    for name, word in zip(
        ("PositionGroups", "TokenGroups", "PhraseGroups"), ("position", "tokens", "phrases"), strict=True
    )
}
_NEGATIVES = {name: (name, name) for name in ("hardest", "sampled")}
_NEAR_NEGATIVES = {"drawn": ("sampled", "'drawn' is the old name of 'sampled'")}
_WARM_UPS = {"LinearLR": ("linear", "linear"), "ConstantLR": ("constant", "constant")}
_NEAR_WARM_UPS = dict.fromkeys(("exp", "burnin"), ("LinearLR", "the rate rises linearly"))

_BATCH_SIZE = at("train_dataloader.batch_size", also=["train_dataloader.sampler.batch_size"])
_TEST_BATCH_SIZE = at(*loaders("batch_size", "val", "test"))
_COSINE_WEIGHT = at("val_cfg.cosine_weight", "test_cfg.cosine_weight")

# The first two rows determine the base config. The others are written from top to bottom, so order matters: the epochs
# come before the settings that depend on them, and the decoder's mask before the loss that can remove the decoder.
ROWS = (
    Option("MODEL.CADA.BASE_CONFIG", "cada.base_config", str, settings.BASE_CONFIG),
    # data
    Option("DATASETS.NAMES", "data.sources", list, settings.dataset("train"), _data_sets),
    Option("DATASETS.TESTS", "data.targets", list, settings.dataset("test"), _data_sets),
    Option("DATASETS.ROOT_DIR", "data.root", str, settings.DATA_ROOT),
    Option("INPUT.SIZE_TRAIN", "", list, settings.IMAGE_SIZE),
    Option("INPUT.SIZE_TEST", "", list, settings.TEST_SIZE),
    Option("", "data.height", int, settings.side(0), low=1),
    Option("", "data.width", int, settings.side(1), low=1),
    Option("DATALOADER.NUM_WORKERS", "data.workers", int, settings.NUM_WORKERS, low=0),
    Option("SOLVER.IMS_PER_BATCH", "train.batch_size", int, _BATCH_SIZE, of_all_processes=True, low=1),
    Option("TEST.IMS_PER_BATCH", "test.batch_size", int, _TEST_BATCH_SIZE, of_all_processes=True, low=1),
    Option("DATALOADER.SAMPLER_TRAIN", "sampler.train_sampler", str, settings.SAMPLER, _SAMPLERS, near=_NEAR_SAMPLERS),
    Option("DATALOADER.NUM_INSTANCE", "sampler.num_instances", int, settings.NUM_INSTANCES, low=1),
    # training; periods are in epochs, the log's in iterations
    Option("SOLVER.MAX_EPOCH", "train.max_epoch", int, schedule.MAX_EPOCHS, low=1),
    Option("SOLVER.OPT", "train.optim", str, schedule.OPTIMIZER, _OPTIMIZERS),
    Option("SOLVER.BASE_LR", "train.lr", float, at("optim_wrapper.optimizer.lr"), low=0),
    Option("SOLVER.WEIGHT_DECAY", "train.weight_decay", float, at("optim_wrapper.optimizer.weight_decay"), low=0),
    Option("SOLVER.MOMENTUM", "sgd.momentum", float, schedule.sgd("momentum", 0.0), low=0),
    Option("SOLVER.NESTEROV", "sgd.nesterov", bool, schedule.sgd("nesterov", False)),
    Option("", "sgd.dampening", float, schedule.sgd("dampening", 0.0)),
    Option("", "adam.beta1", float, schedule.beta(0), low=0, high=0.999999),
    Option("", "adam.beta2", float, schedule.beta(1), low=0, high=0.999999),
    Option("SOLVER.BIAS_LR_FACTOR", "", float, schedule.BIAS_LR_FACTOR, low=0),
    Option("SOLVER.WEIGHT_DECAY_BIAS", "", float, schedule.decay("bias_decay_mult"), low=0),
    Option("SOLVER.WEIGHT_DECAY_NORM", "", float, schedule.decay("norm_decay_mult"), low=0),
    # the schedule: its kind before its arguments, the warm-up's length before its shape
    Option("SOLVER.SCHED", "", str, schedule.schedule([30, 55]), _SCHEDULES, near=_NEAR_SCHEDULES),
    Option("", "train.lr_scheduler", str, schedule.schedule([20]), _SCHEDULES),
    Option("SOLVER.STEPS", "train.stepsize", list, schedule.STEPS),
    Option("SOLVER.GAMMA", "train.gamma", float, schedule.GAMMA, low=0),
    Option("SOLVER.ETA_MIN_LR", "cada.eta_min_lr", float, schedule.MINIMUM_RATE, low=0),
    Option("SOLVER.DELAY_EPOCHS", "cada.delay_epochs", int, schedule.DELAY_EPOCHS, low=0),
    Option("SOLVER.WARMUP_ITERS", "", int, schedule.HOST_WARMUP_ITERS, low=0),
    Option("", "cada.warmup_iters", int, schedule.WARMUP_ITERS, low=0),
    Option("SOLVER.WARMUP_METHOD", "cada.warmup_method", str, schedule.WARMUP_METHOD, _WARM_UPS, near=_NEAR_WARM_UPS),
    Option("SOLVER.WARMUP_FACTOR", "cada.warmup_factor", float, schedule.WARMUP_FACTOR, low=1e-9, high=1),
    Option("CUDNN_BENCHMARK", "", bool, at("env_cfg.cudnn_benchmark")),
    Option("SOLVER.AMP.ENABLED", "cada.amp", bool, settings.AMP),
    Option("SOLVER.CHECKPOINT_PERIOD", "cada.checkpoint_period", int, at("default_hooks.checkpoint.interval"), low=1),
    Option("SOLVER.LOG_PERIOD", "train.print_freq", int, at("default_hooks.logger.interval"), low=1),
    Option("TEST.EVAL_PERIOD", "test.eval_freq", int, settings.EVAL_PERIOD),
    Option("SEED", "train.seed", int, at("randomness.seed", **none_as(-1)), low=-1),
    Option("MODEL.WEIGHTS", "model.load_weights", str, at("load_from", **none_as(""))),
    Option("OUTPUT_DIR", "data.save_dir", str, at("work_dir")),
    # the method
    Option("MODEL.CADA.START_WEIGHTS", "cada.start_weights", str, settings.START_WEIGHTS),
    Option("MODEL.CADA.GROUPING", "cada.grouping", str, at("model.grouping.type"), _GROUPINGS),
    Option("MODEL.CADA.NUM_GROUPS", "cada.num_groups", int, at("model.grouping.num_groups", **none_as(0)), low=0),
    Option("MODEL.CADA.NEGATIVES", "cada.negatives", str, at("model.negatives"), _NEGATIVES, near=_NEAR_NEGATIVES),
    Option("MODEL.CADA.NEGATIVE_SCALE", "cada.negative_scale", list, settings.NEGATIVE_SCALE),
    Option("MODEL.CADA.CAUSAL", "cada.causal", bool, at("model.text_decoder.causal")),
    Option("MODEL.CADA.LOSS_WEIGHTS.GLOBAL", "cada.loss_weights.global", float, settings.loss("loss_global"), low=0),
    Option("MODEL.CADA.LOSS_WEIGHTS.ATP", "cada.loss_weights.atp", float, settings.loss("loss_atp"), low=0),
    Option("MODEL.CADA.LOSS_WEIGHTS.ARA", "cada.loss_weights.ara", float, settings.loss("loss_ara"), low=0),
    Option("MODEL.CADA.ARA.UNIT", "cada.ara.unit", str, settings.masking("unit")),
    Option("MODEL.CADA.ARA.PROBABILITY", "cada.ara.probability", float, settings.masking("probability"), low=0, high=1),
    Option("MODEL.CADA.RERANK_TOPK", "cada.rerank_topk", int, at("val_cfg.rerank_topk", "test_cfg.rerank_topk"), low=0),
    Option("MODEL.CADA.COSINE_WEIGHT", "cada.cosine_weight", float, _COSINE_WEIGHT),
    # keys that many files of the hosts have, without an effect or a choice here
    Option("MODEL.DEVICE", "", str, settings.ignored("a GPU is used where there is one")),
    Option("", "use_gpu", bool, settings.ignored("a GPU is used where there is one")),
    Option("", "data.type", str, settings.only("image", "captions find images")),
    Option("", "model.resume", str, settings.only("", "go on with train.py --resume PATH")),
    Option("", "test.evaluate", bool, settings.only(False, "test with test.py")),
    Option("TEST.RERANK.ENABLED", "test.rerank", bool, settings.only(False, "stage 2 is switched by RERANK_TOPK")),
)
