"""A retriever as one folder: weights, resolved config, vocabulary, calibration, metrics, licence and a model card.

- ``cada_plugin.json``: what the folder holds, see :mod:`cada_plugin.export.manifest`;
- ``model.safetensors``: all weights (folders of graphs have the graphs in their place);
- ``config.json``: the resolved config; only the model, the test pipeline and ``test_cfg`` are read from it;
- ``tokenizer/``: the vocabulary;
- ``model.calibration.json``: the calibration of the scores, if the checkpoint had one;
- ``metrics.json``: metrics, and when and on what machine they were measured, if they were given;
- ``README.md``, ``LICENSE``: the model card and the licence.

Config and weights are read as data. A type in the config that the plugin has not registered is refused, because
MMEngine would import and call anything that has a dotted name, and a folder may come from anybody.
"""

import copy
import importlib.metadata
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from mmengine.config import Config

from cada_plugin.checkpoints import write_weights
from cada_plugin.engine.config import settings_of
from cada_plugin.errors import CheckpointError, ConfigError
from cada_plugin.export.card import model_card
from cada_plugin.export.fingerprint import fingerprint, image_size, interpolation
from cada_plugin.export.manifest import CALIBRATION, TOKENIZER, Manifest
from cada_plugin.files import write_json
from cada_plugin.models.retriever import TextImageRetriever
from cada_plugin.portable.calibration import Calibration
from cada_plugin.registry import MODELS, SCOPE, TASK_UTILS, TRANSFORMS
from cada_plugin.text import CaptionTokenizer, CLIPCaptionTokenizer

WEIGHTS = "model.safetensors"
_RULES = {CaptionTokenizer: "wordpiece", CLIPCaptionTokenizer: "clip"}
_HERE = "folder://"  # begins a path inside the folder


@dataclass(frozen=True)
class Trained:
    """A trained retriever with what its folder tells of it.

    Attributes:
        model: in eval mode; for graphs, on the CPU.
        image_transforms: test-time transforms.
        rerank_topk, cosine_weight: of stage 2.
        config: the config it was built from; None if it was not built by ``load_retriever``.
        calibration: of its scores, or None.
        weights: name of the file that the weights came from; None for the config's start weights.
    """

    model: TextImageRetriever
    image_transforms: Sequence[Callable]
    rerank_topk: int
    cosine_weight: float
    config: Config | None
    calibration: Calibration | None
    weights: str | None


def write_common(
    trained: Trained,
    folder: Path,
    kind: str,
    metrics: Mapping[str, float] | None = None,
    measured: str | None = None,
    licence: str = "apache-2.0",
    precision: str = "fp32",
) -> Manifest:
    """Write everything but weights or graphs into a folder; return the manifest, to be written last.

    Args:
        metrics: of a test, such as ``cada test --out`` writes them.
        measured: date and machine of the metrics.
        licence: identifier of the weights' licence, as the Hub knows it. The licence's text is written for apache-2.0.

    Raises:
        ConfigError: the model was made without a config, or by code that the folder cannot hold.
    """
    if trained.config is None:
        raise ConfigError("this retriever was not made by load_retriever, so its config is not known: load it with one")
    tokenizer = trained.model.tokenizer
    if type(tokenizer) not in _RULES:
        raise ConfigError(
            f"the tokenizer {type(tokenizer).__name__} is none of the plugin's: a folder could not hold its code"
        )
    settings = _portable_settings(trained.config)
    _check_types(settings, "the config")
    tokenizer.save(folder / TOKENIZER)
    _write_settings(folder / "config.json", settings)
    if trained.calibration is not None and precision == "fp32":  # rounded weights give other scores
        trained.calibration.save(folder / CALIBRATION)
    if metrics is not None:
        write_json(folder / "metrics.json", {"measured": measured, "metrics": dict(metrics)})
    if licence == "apache-2.0":
        (folder / "LICENSE").write_text(_licence_text(), encoding="utf-8")
    mark = fingerprint(trained.model, trained.image_transforms)
    manifest = Manifest(
        kind=kind,
        model=type(trained.model).__name__,
        fingerprint=mark if precision == "fp32" else f"{mark} {precision}",
        image_size=image_size(trained.image_transforms),
        interpolation=interpolation(trained.image_transforms),
        embed_dim=_embed_dim(trained.model),
        can_match=trained.model.can_match,
        rerank_topk=trained.rerank_topk,
        cosine_weight=trained.cosine_weight,
        asks_phrases=trained.model.phrase_weight > 0,
        tokenizer={
            "rules": _RULES[type(tokenizer)],
            "max_words": tokenizer.max_words,
            "max_length": tokenizer.max_length,
            "end_id": tokenizer.end_id,
        },
        precision=precision,
        version=importlib.metadata.version("cada_plugin"),
    )
    card = model_card(manifest, settings, metrics, measured, licence, trained.weights)
    (folder / "README.md").write_text(card, encoding="utf-8")
    return manifest


def write_weights_folder(trained: Trained, folder: Path, **facts: object) -> None:
    """Write the folder of :meth:`Retriever.save_pretrained` into an empty ``folder``; ``facts`` as in
    :func:`write_common`."""
    manifest = write_common(trained, folder, "weights", **facts)
    write_weights(trained.model.state_dict(), folder / WEIGHTS)
    manifest.write(folder)


def read_weights_folder(folder: Path) -> tuple[Config, Path]:
    """Config and weights of a folder that ``save_pretrained`` wrote.

    Raises:
        CheckpointError: the folder is of another kind, incomplete, or needs a type that is not registered here.
    """
    Manifest.read(folder, "weights")
    path = folder / "config.json"
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
        settings = {key: settings[key] for key in ("model", "test_dataloader", "test_cfg")}
        _check_types(settings, str(path))
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be used ({error}): save the model again") from error
    for part in _dicts(settings):
        for key, value in part.items():
            if isinstance(value, str) and value.startswith(_HERE):
                part[key] = str(folder / value.removeprefix(_HERE))
    return Config(settings), folder / WEIGHTS


def _portable_settings(config: Config) -> dict:
    """The settings as JSON can hold them, with nothing that lies outside of the folder and is needed to open it."""
    settings = copy.deepcopy(settings_of(config))
    settings["model"].pop("init_cfg", None)
    settings["load_from"], settings["resume"] = None, False
    settings.setdefault("test_cfg", {})
    for part in _dicts(settings):
        kind = str(part.get("type", "")).removeprefix(f"{SCOPE}.")
        if kind in ("CaptionTokenizer", "CLIPCaptionTokenizer"):
            part["vocab"] = _HERE + TOKENIZER
        if kind == "TorchreidEncoder":
            part["pretrained"] = False
            part.pop("weights", None)
    return settings


def _write_settings(path: Path, settings: dict) -> None:
    try:
        write_json(path, settings)
    except TypeError as error:
        raise ConfigError(
            f"the config holds a Python object ({error}): write types as texts and values as numbers, texts and lists"
        ) from error


def _check_types(settings: dict, where: str) -> None:
    """Refuse types in what is built from a folder that are not registered.

    Raises:
        CheckpointError: there is one; it is named.
    """
    registries = (MODELS, TRANSFORMS, TASK_UTILS)
    for registry in registries:
        registry.import_from_location()
    dataset = (settings.get("test_dataloader") or {}).get("dataset") or {}
    for part in (settings.get("model"), dataset.get("pipeline")):
        for one in _dicts(part):
            kind = one.get("type")
            if kind is None:
                continue
            name = kind.removeprefix(f"{SCOPE}.") if isinstance(kind, str) else ""
            if not any(name in registry.module_dict for registry in registries):
                raise CheckpointError(
                    f"{where} needs {kind!r}, which cada_plugin has not registered: import the package that registers "
                    "it with cada_plugin.registry, then try again"
                )


def _dicts(node: object) -> Iterator[dict]:
    """Every dict in a tree of dicts and lists."""
    if isinstance(node, dict):
        yield node
    for value in node.values() if isinstance(node, dict) else node if isinstance(node, list | tuple) else ():
        yield from _dicts(value)


@torch.no_grad()
def _embed_dim(model: TextImageRetriever) -> int:
    device = next(model.parameters()).device
    ids = torch.tensor([model.tokenizer.encode("a person").input_ids], device=device)
    return model.encode_text(ids, torch.ones_like(ids, dtype=torch.bool)).embed.shape[1]


def _licence_text() -> str:
    try:
        text = importlib.metadata.distribution("cada_plugin").read_text("licenses/LICENSE")
    except importlib.metadata.PackageNotFoundError:
        text = None
    return text or (Path(__file__).parents[2] / "LICENSE").read_text(encoding="utf-8")
