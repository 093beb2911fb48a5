"""What a yacs file can say: one row per setting, with its key in FastReID's style, its key in torchreid's, and where it
stands in an MMEngine config. :mod:`cada_plugin.integrations.yacs` uses it in both directions.

What a style has no key for stands under ``MODEL.CADA`` (``cada``). FastReID has no key for the data's folder and its
releases differ on the seed and the log period: these rows have TransReID's, or the plain one.
"""

from typing import Any, NamedTuple

from cada_plugin.errors import ConfigError
from cada_plugin.integrations import yacs_settings as settings
from cada_plugin.integrations.yacs_settings import Setting, at, loaders, none_as

STYLES = ("fastreid", "torchreid")


class Row(NamedTuple):
    """One row of the table.

    Attributes:
        fastreid, torchreid: keys; empty where the style says it by another row.
        kind: the type that yacs checks a value against.
        words: our name to FastReID's and torchreid's, where values are names. Either is understood in both styles.
        of_all_processes: batch sizes are of all processes in both hosts, and of each one in MMEngine.
    """

    fastreid: str
    torchreid: str
    kind: type
    setting: Setting
    words: dict[str, tuple[str, str]] | None = None
    of_all_processes: bool = False

    def key(self, style: str) -> str:
        return self[STYLES.index(style)]

    def decode(self, value: Any) -> Any:
        """Names as the hosts write them -> ours."""
        if self.words is None:
            return value
        names = value if self.kind is list else [value]
        ours = {word.lower(): name for name, words in self.words.items() for word in words}
        if len(names) != 1 or str(names[0]).lower() not in ours:
            spellings = ", ".join(dict.fromkeys(word for words in self.words.values() for word in words))
            raise ConfigError(f"expected one of {spellings}; got {', '.join(map(str, names)) or 'none'}")
        return ours[str(names[0]).lower()]

    def encode(self, value: Any, style: str) -> Any:
        """Our names -> as a host writes them; None for what it has no name for."""
        if self.words is None:
            return value
        word = self.words[value][STYLES.index(style)] if value in self.words else None
        return [word] if word and self.kind is list else word


_DATASETS = {
    "CUHKPEDES": ("CUHKPEDES", "cuhk_pedes"),
    "ICFGPEDES": ("ICFGPEDES", "icfg_pedes"),
    "RSTPReid": ("RSTPReid", "rstpreid"),
    "UFine6926": ("UFine6926", "ufine6926"),
    "ProceduralPEDES": ("ProceduralPEDES", "procedural_pedes"),
}
_SAMPLERS = {
    "DefaultSampler": ("TrainingSampler", "RandomSampler"),
    "IdentitySampler": ("NaiveIdentitySampler", "RandomIdentitySampler"),
}
# The others have defaults in the hosts that torch has not (momentum): they are a matter of the base config.
_OPTIMIZERS = {"Adam": ("Adam", "adam"), "AdamW": ("AdamW", "adamw")}

_BATCH_SIZE = at("train_dataloader.batch_size", also=["train_dataloader.sampler.batch_size"])
_TEST_BATCH_SIZE = at(*loaders("batch_size", "val", "test"))
_TEMPERATURE = at("model.negative_temperature", to_ours=lambda value, old: tuple(value), to_theirs=list)
_COSINE_WEIGHT = at("val_cfg.cosine_weight", "test_cfg.cosine_weight")

# The first two choose the base config. The others are written from top to bottom: epochs before what follows from them,
# the decoder's mask before the loss that can take the decoder away.
ROWS = (
    Row("MODEL.CADA.BASE_CONFIG", "cada.base_config", str, settings.BASE_CONFIG),
    # data
    Row("DATASETS.NAMES", "data.sources", list, settings.dataset("train"), _DATASETS),
    Row("DATASETS.TESTS", "data.targets", list, settings.dataset("test"), _DATASETS),
    Row("DATASETS.ROOT_DIR", "data.root", str, settings.DATA_ROOT),
    Row("INPUT.SIZE_TRAIN", "", list, settings.IMAGE_SIZE),
    Row("INPUT.SIZE_TEST", "", list, settings.TEST_SIZE),
    Row("", "data.height", int, settings.side(0)),
    Row("", "data.width", int, settings.side(1)),
    Row("DATALOADER.NUM_WORKERS", "data.workers", int, settings.NUM_WORKERS),
    Row("SOLVER.IMS_PER_BATCH", "train.batch_size", int, _BATCH_SIZE, of_all_processes=True),
    Row("TEST.IMS_PER_BATCH", "test.batch_size", int, _TEST_BATCH_SIZE, of_all_processes=True),
    Row("DATALOADER.SAMPLER_TRAIN", "sampler.train_sampler", str, settings.SAMPLER, _SAMPLERS),
    Row("DATALOADER.NUM_INSTANCE", "sampler.num_instances", int, settings.NUM_INSTANCES),
    # training; periods are in epochs, the log's in iterations
    Row("SOLVER.MAX_EPOCH", "train.max_epoch", int, settings.MAX_EPOCHS),
    Row("SOLVER.OPT", "train.optim", str, at("optim_wrapper.optimizer.type"), _OPTIMIZERS),
    Row("SOLVER.BASE_LR", "train.lr", float, at("optim_wrapper.optimizer.lr")),
    Row("SOLVER.WEIGHT_DECAY", "train.weight_decay", float, at("optim_wrapper.optimizer.weight_decay")),
    Row("SOLVER.WARMUP_ITERS", "cada.warmup_iters", int, settings.WARMUP_ITERS),
    Row("SOLVER.AMP.ENABLED", "cada.amp", bool, settings.AMP),
    Row("SOLVER.CHECKPOINT_PERIOD", "cada.checkpoint_period", int, at("default_hooks.checkpoint.interval")),
    Row("SOLVER.LOG_PERIOD", "train.print_freq", int, at("default_hooks.logger.interval")),
    Row("TEST.EVAL_PERIOD", "test.eval_freq", int, settings.EVAL_PERIOD),
    Row("SEED", "train.seed", int, at("randomness.seed", **none_as(-1))),
    Row("MODEL.WEIGHTS", "model.load_weights", str, at("load_from", **none_as(""))),
    Row("OUTPUT_DIR", "data.save_dir", str, at("work_dir")),
    # the method
    Row("MODEL.CADA.START_WEIGHTS", "cada.start_weights", str, settings.START_WEIGHTS),
    Row("MODEL.CADA.GROUPING", "cada.grouping", str, at("model.grouping")),
    Row("MODEL.CADA.NUM_GROUPS", "cada.num_groups", int, at("model.num_groups", **none_as(0))),
    Row("MODEL.CADA.NEGATIVES", "cada.negatives", str, at("model.negatives")),
    Row("MODEL.CADA.NEGATIVE_TEMPERATURE", "cada.negative_temperature", list, _TEMPERATURE),
    Row("MODEL.CADA.CAUSAL", "cada.causal", bool, at("model.text_decoder.causal")),
    Row("MODEL.CADA.LOSS_WEIGHTS.GLOBAL", "cada.loss_weights.global", float, settings.loss("loss_global")),
    Row("MODEL.CADA.LOSS_WEIGHTS.ATP", "cada.loss_weights.atp", float, settings.loss("loss_atp")),
    Row("MODEL.CADA.LOSS_WEIGHTS.ARA", "cada.loss_weights.ara", float, settings.loss("loss_ara")),
    Row("MODEL.CADA.ARA.UNIT", "cada.ara.unit", str, settings.masking("unit")),
    Row("MODEL.CADA.ARA.PROBABILITY", "cada.ara.probability", float, settings.masking("probability")),
    Row("MODEL.CADA.RERANK_TOPK", "cada.rerank_topk", int, at("val_cfg.rerank_topk", "test_cfg.rerank_topk")),
    Row("MODEL.CADA.COSINE_WEIGHT", "cada.cosine_weight", float, _COSINE_WEIGHT),
    # said by many files of the hosts
    Row("MODEL.DEVICE", "", str, settings.device("MODEL.DEVICE")),
    Row("", "use_gpu", bool, settings.device("use_gpu")),
    Row("", "data.type", str, settings.only("image", "captions find images")),
    Row("", "model.resume", str, settings.only("", "go on with train.py --resume PATH")),
    Row("", "test.evaluate", bool, settings.only(False, "test with test.py")),
    Row("TEST.RERANK.ENABLED", "test.rerank", bool, settings.only(False, "stage 2 is switched by RERANK_TOPK")),
)
