"""The model card of an exported folder, written from what is known: config, metrics, manifest."""

from collections.abc import Mapping

from cada_plugin.export.manifest import CALIBRATION, Manifest

_STAGES = (("t2i_global", "stage 1, cosine"), ("t2i", "re-ranked"))
_COLUMNS = ("R1", "R5", "R10", "mAP", "mINP")
_DRAWN = "ProceduralPEDES"
_OPENING = {
    "weights": 'retriever = load_retriever("FOLDER")',
    "onnx": 'retriever = load_retriever("FOLDER", backend="onnx")  # needs no torch',
}


def model_card(
    manifest: Manifest,
    settings: Mapping[str, object],
    metrics: Mapping[str, float] | None,
    measured: str | None,
    licence: str,
    weights: str | None,
) -> str:
    """The README.md of a folder.

    Args:
        settings: the resolved config, of which data and recipe are told.
        metrics: as ``cada test --out`` writes them; ``measured`` says when and on what machine.
        licence: identifier of the weights' licence.
        weights: the file that they came from; None for the config's start weights.
    """
    parts = [
        _front_matter(licence),
        f"# {manifest.model} for text-to-image person retrieval\n\nFinds pictures of a person by a sentence. "
        f"Written by cada_plugin {manifest.version}; fingerprint `{manifest.fingerprint}`.",
        _usage(manifest),
        "## Data\n\n" + _data(settings),
        "## Recipe\n\n" + _recipe(settings, weights),
        "## Numbers\n\n" + _numbers(metrics, measured, settings),
        "## Limits\n\n" + _limits(manifest, settings),
        f"## Licence\n\n{licence}. It does not change the terms of the data that the model was trained on.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _front_matter(licence: str) -> str:
    tags = ["text-to-image-retrieval", "person-retrieval", "person-re-identification"]
    return "\n".join(
        ["---", f"license: {licence}", "library_name: cada_plugin", "language: en", "tags:"]
        + [f"- {tag}" for tag in tags]
        + ["---"]
    )


def _usage(manifest: Manifest) -> str:
    opening = _OPENING.get(manifest.kind)
    if opening is None:
        return "## Use\n\n`torch.export.load` reads the graphs (`*.pt2`); their inputs and outputs are named in them."
    return (
        f"## Use\n\n```python\nfrom cada_plugin import load_retriever\n\n{opening}\n"
        'gallery = retriever.encode_image("my_photos")\n'
        'for hit in retriever.search("a woman in a red coat", gallery)[0]:\n    print(hit.rank, hit.path)\n```'
    )


def _dataset(settings: Mapping, split: str) -> str:
    return str(((settings.get(f"{split}_dataloader") or {}).get("dataset") or {}).get("type", "unknown"))


def _data(settings: Mapping) -> str:
    trained, tested = _dataset(settings, "train"), _dataset(settings, "test")
    return f"By its config, trained on the training split of {trained} and tested on the test split of {tested}."


def _recipe(settings: Mapping, weights: str | None) -> str:
    if weights is None:
        return "These are the weights that the config starts from: its recipe in `config.json` was not run on them."
    optimizer = (settings.get("optim_wrapper") or {}).get("optimizer") or {}
    rows = {
        "epochs": (settings.get("train_cfg") or {}).get("max_epochs"),
        "batch size": (settings.get("train_dataloader") or {}).get("batch_size"),
        "optimiser": optimizer.get("type"),
        "learning rate": optimizer.get("lr"),
        "seed": (settings.get("randomness") or {}).get("seed"),
    }
    known = [f"{name} {value}" for name, value in rows.items() if value is not None]
    return f"{', '.join(known) or 'not known'}. All settings are in `config.json`. Weights: `{weights}`."


def _numbers(metrics: Mapping | None, measured: str | None, settings: Mapping) -> str:
    if not metrics:
        return "None were given when the folder was written."
    lines = [f"| | {' | '.join(_COLUMNS)} |", "|---" * (len(_COLUMNS) + 1) + "|"]
    for prefix, title in _STAGES:
        values = [metrics.get(f"{prefix}/{column}") for column in _COLUMNS]
        if any(value is not None for value in values):
            lines.append(f"| {title} | {' | '.join('' if v is None else f'{v:.2f}' for v in values)} |")
    where = measured or "date and machine were not given"
    return (
        "\n".join(lines)
        + f"\n\nIn percent, on the test split of {_dataset(settings, 'test')}, with the model in PyTorch "
        f"({where})."
    )


def _limits(manifest: Manifest, settings: Mapping) -> str:
    limits = [
        f"Pictures are crops of one person, resized to {manifest.image_size[0]} x {manifest.image_size[1]} (H x W). "
        f"Sentences are English, up to {manifest.tokenizer['max_length']} word pieces.",
        "A negation inside a sentence is not understood.",
    ]
    if _DRAWN in (_dataset(settings, "train"), _dataset(settings, "test")):
        limits.append("**The people of the data are drawn. The model knows nothing of photographs.**")
    else:
        limits.append("On pictures of other cameras than those of its data, a model is usually much worse.")
    if manifest.precision != "fp32":
        limits.append(f"The graphs are {manifest.precision}: their scores differ a little from the numbers above.")
    limits.append(f"Scores are calibrated only if there is a `{CALIBRATION}`.")
    limits.append("Finding people in surveillance pictures touches their rights; using it lawfully is up to you.")
    return "\n".join(f"- {limit}" for limit in limits)
