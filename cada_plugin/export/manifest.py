"""The file by which an exported folder says what it holds, and the check that the folder holds it."""

import dataclasses
import json
import os
from dataclasses import dataclass, field
from pathlib import Path

from cada_plugin.errors import CheckpointError
from cada_plugin.files import write_json

MANIFEST = "cada_plugin.json"
TOKENIZER = "tokenizer"  # a folder, with tokenizer.json
CALIBRATION = "model.calibration.json"  # beside model.safetensors, as beside any checkpoint
KINDS = ("weights", "onnx", "torch-export")
_FORMAT = 1


@dataclass(frozen=True)
class Manifest:
    """What a folder holds.

    Attributes:
        kind: one of ``KINDS``: a checkpoint for PyTorch, or the graphs of :mod:`cada_plugin.export.graphs`.
        model: name of the model class.
        fingerprint: of the weights, as galleries keep it; int8 graphs have one of their own.
        image_size: (H, W) in pixels, to which images are resized.
        interpolation: how; None if the test pipeline is more than a resize.
        embed_dim: size D of the embeddings.
        can_match: whether there is a match head.
        rerank_topk, cosine_weight: of stage 2.
        asks_phrases: whether the match graph needs the phrases of a caption.
        tokenizer: ``rules`` (``wordpiece`` or ``clip``), ``max_words``, ``max_length``, ``end_id``.
        precision: ``fp32`` or ``int8``.
        version: of the plugin that wrote the folder.
        files: bytes of every file, by its path in the folder.
    """

    kind: str
    model: str
    fingerprint: str
    image_size: tuple[int, int]
    interpolation: str | None
    embed_dim: int
    can_match: bool
    rerank_topk: int
    cosine_weight: float
    asks_phrases: bool
    tokenizer: dict
    precision: str
    version: str
    files: dict[str, int] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """Write the manifest of a folder whose other files are all there."""
        sizes = {
            path.relative_to(folder).as_posix(): path.stat().st_size
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }
        content = {"format": _FORMAT, **dataclasses.asdict(self), "files": sizes}
        write_json(folder / MANIFEST, content)

    @classmethod
    def read(cls, folder: str | os.PathLike, kind: str | None = None) -> "Manifest":
        """Read the manifest of a folder and check that all its files are there and whole.

        Args:
            kind: what the folder has to hold; None takes any kind.

        Raises:
            CheckpointError: the folder is of another kind, or incomplete.
        """
        folder = Path(folder).expanduser()
        manifest = cls._parse(folder)
        if kind not in (None, manifest.kind):
            raise CheckpointError(
                f"{folder} holds {_described(manifest.kind)}, not {_described(kind)}: {_remedy(manifest.kind, kind)}"
            )
        for name, size in manifest.files.items():
            path = folder / name
            if not path.is_file():
                raise CheckpointError(f"{folder} is incomplete: {name} is missing. Copy or export the folder again")
            if path.stat().st_size != size:
                raise CheckpointError(
                    f"{path} has {path.stat().st_size:,} bytes, not {size:,} as its folder says: it is cut off or was "
                    "replaced. Copy or export the folder again"
                )
        return manifest

    @classmethod
    def _parse(cls, folder: Path) -> "Manifest":
        path = folder / MANIFEST
        if not folder.is_dir():
            raise CheckpointError(f"no folder {folder}: give one that save_pretrained or `cada export` wrote")
        if not path.is_file():
            raise CheckpointError(
                f"{folder} is a folder of another kind: it has no {MANIFEST}. Give one that save_pretrained or "
                "`cada export` wrote; for weights of another format, give a config and them as checkpoint"
            )
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content.pop("format") != _FORMAT:
                raise ValueError("its format is of another version of the plugin")
            manifest = cls(**content)
            if manifest.kind not in KINDS or not _is_plain(manifest.files):
                raise ValueError("it names what no folder of this plugin holds")
            return dataclasses.replace(manifest, image_size=tuple(manifest.image_size))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise CheckpointError(
                f"{path} cannot be read ({error}): export the folder again with this version of the plugin"
            ) from error


def is_exported(source: object) -> bool:
    """Whether ``source`` is the path of a folder that this plugin wrote."""
    return isinstance(source, str | os.PathLike) and (Path(source).expanduser() / MANIFEST).is_file()


def holds_onnx(source: object) -> bool:
    """Whether ``source`` is the path of a folder of ONNX graphs.

    Raises:
        CheckpointError: the folder is incomplete.
    """
    return is_exported(source) and Manifest.read(source).kind == "onnx"


def _is_plain(files: dict[str, int]) -> bool:
    """Whether all names lie inside the folder."""
    return all(not Path(name).is_absolute() and ".." not in Path(name).parts for name in files)


def _described(kind: str) -> str:
    return {"weights": "weights for PyTorch", "onnx": "ONNX graphs", "torch-export": "graphs of torch.export"}[kind]


def _remedy(found: str, wanted: str) -> str:
    if wanted == "onnx":
        return "make a folder of ONNX graphs with `cada export CONFIG CHECKPOINT OUT --format onnx`"
    if found == "onnx":
        return "open it with load_retriever(FOLDER, backend='onnx')"
    return "torch.export.load reads the graphs; for load_retriever, export the model with --format folder or onnx"
