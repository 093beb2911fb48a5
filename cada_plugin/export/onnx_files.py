"""Write the graphs of a retriever as ONNX or ``torch.export`` files, and beside them everything that a search needs."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

from cada_plugin.errors import ConfigError, first_line, needs_extra
from cada_plugin.export.fingerprint import interpolation
from cada_plugin.export.folder import Trained, write_common
from cada_plugin.export.graphs import Graph, export_graphs
from cada_plugin.export.manifest import Manifest
from cada_plugin.export.onnx_header import FINGERPRINT, OPSET
from cada_plugin.models.encoders.text import BiLSTMEncoder
from cada_plugin.portable.pixels import RESIZES

_LARGEST = 2**31 - 1  # bytes of an ONNX file: protobuf cannot hold more


def write_onnx_folder(trained: Trained, folder: Path, int8: bool = False, **facts: object) -> None:
    """Write the folder of ``cada export --format onnx`` into an empty ``folder``.

    Args:
        int8: quantise the weights of linear layers and word embeddings (dynamic quantisation).
        facts: as in :func:`~cada_plugin.export.folder.write_common`.

    Raises:
        ConfigError: the model or its test pipeline cannot be exported; the message gives the reason.
        MissingExtraError: the extra ``[onnx]`` is not installed.
    """
    with needs_extra("onnx"):
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    refuse_impossible(trained)
    manifest = write_common(trained, folder, "onnx", precision="int8" if int8 else "fp32", **facts)
    for graph in export_graphs(trained.model, manifest.image_size):
        path = folder / f"{graph.name}.onnx"
        _write_onnx(graph, path, manifest)
        if int8:
            quantise(path)
    manifest.write(folder)


def write_torch_export_folder(trained: Trained, folder: Path, **facts: object) -> None:
    """Write the folder of ``cada export --format torch-export`` into an empty ``folder``: ``image.pt2``, ``text.pt2``
    and ``match.pt2``, for ``torch.export.load``.

    Raises:
        ConfigError: the model or its test pipeline cannot be exported; the message gives the reason.
    """
    refuse_impossible(trained)
    manifest = write_common(trained, folder, "torch-export", **facts)
    for graph in export_graphs(trained.model, manifest.image_size):
        torch.export.save(graph.program, folder / f"{graph.name}.pt2")
    manifest.write(folder)


def refuse_impossible(trained: Trained) -> None:
    """Refuse what no graph can hold, before any work.

    Raises:
        ConfigError: the text encoder or a step of the test pipeline is the reason.
    """
    name = type(trained.model).__name__
    text_encoder: nn.Module | None = getattr(trained.model, "text_encoder", None)
    if isinstance(text_encoder, BiLSTMEncoder):
        raise ConfigError(
            f"{name} cannot be exported: its text encoder is an LSTM over packed sequences, whose loop over words "
            "torch.export unrolls for one length. Use it in PyTorch, or export a model with a transformer"
        )
    if interpolation(trained.image_transforms) is None:
        steps = [str(getattr(step, "transform", step)) for step in trained.image_transforms]
        found = ", ".join(steps) or "nothing"
        raise ConfigError(
            f"{name} cannot be exported: without torch, images are resized by Pillow, so the test pipeline has to be "
            f"one torchvision/Resize to (H, W) with {' or '.join(RESIZES)} interpolation, but it is {found}"
        )


def _write_onnx(graph: Graph, path: Path, manifest: Manifest) -> None:
    try:
        with _quiet():
            program = torch.onnx.export(graph.program, dynamo=True, opset_version=OPSET, verbose=False, report=False)
    except Exception as error:  # the exporter has errors of many types
        raise ConfigError(
            f"the {graph.name} graph of {manifest.model} has no ONNX form ({first_line(error)}): use --format "
            "torch-export, or the model in PyTorch"
        ) from error
    model = program.model
    for value, name in zip(model.graph.outputs, graph.outputs, strict=True):
        value.name = name
    model.metadata_props[FINGERPRINT] = manifest.fingerprint
    program.save(path, external_data=False)
    if path.stat().st_size > _LARGEST:
        raise ConfigError(f"the {graph.name} graph is larger than 2 GB, which no ONNX file can be: use torch-export")
    _check_dynamic(path, graph)


def _check_dynamic(path: Path, graph: Graph) -> None:
    """Check in the file that no dimension which has to be dynamic became a constant.

    Raises:
        ConfigError: one did.
    """
    import onnx

    inputs = {value.name: value.type.tensor_type.shape.dim for value in onnx.load(path).graph.input}
    for name, dims in graph.dynamic.items():
        for place in dims:
            if not inputs[name][place].dim_param:
                raise ConfigError(
                    f"{path.name}: dimension {place} of {name} is fixed to {inputs[name][place].dim_value}: the "
                    "model's code must not look at the number or length of its inputs"
                )


def quantise(path: Path) -> None:
    """Replace an ONNX file by its int8 form: weights of linear layers and word embeddings in 8 bits, activations
    quantised as they come."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    full = path.with_name(f"fp32-{path.name}")
    path.rename(full)
    try:
        with _quiet():
            quantize_dynamic(full, path, op_types_to_quantize=["MatMul", "Gemm", "Gather"], weight_type=QuantType.QInt8)
    finally:
        full.unlink()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Exporters report their progress; a command prints its own."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
