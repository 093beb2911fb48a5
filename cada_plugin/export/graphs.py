"""A trained retriever as three programs without Python: image, text and match, exported by ``torch.export``.

They run on the *padded path*: linear layers also compute padding, and every text gets its own copy of its image's keys
and values, so that no shape depends on the data. The numbers are those of the model, at the price of some arithmetic.

- *image*: ``images`` (B, 3, H, W) uint8 RGB, resized -> ``embed`` (B, D), ``tokens`` (B, S, C);
- *text*: ``input_ids`` (Q, T) int64, ``attention_mask`` (Q, T) bool -> ``embed`` (Q, D);
- *match*: ``input_ids`` and ``attention_mask`` (P, T), ``image_tokens`` (I, S, C), ``images`` (P,) int64 -> ``logits``
  (P,), of text p with image ``images[p]``; and ``phrase_index`` (P, T) int64, if the model has a ``phrase_weight``.

A model that does not re-rank has no match graph, and its image graph gives no tokens. B, Q, P, I and T are dynamic. An
encoder that asks for ``len(images)`` in place of ``images.shape[0]`` makes B a constant, and is refused.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from cada_plugin.errors import ConfigError, first_line
from cada_plugin.models.retriever import TextFeatures, TextImageRetriever

_EXAMPLES = 3  # a size of 1 would be taken for a constant
_EXAMPLE_TOKENS = 5


class _ImageGraph(nn.Module):
    def __init__(self, model: TextImageRetriever) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        inputs = self.model.data_preprocessor({"inputs": {"images": images}}, False)["inputs"]
        embed, tokens = self.model.encode_image(inputs["images"])
        return (embed.float(), tokens.float()) if self.model.can_match else (embed.float(),)


class _TextGraph(nn.Module):
    def __init__(self, model: TextImageRetriever) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor]:
        return (self.model.encode_text(input_ids, attention_mask).embed.float(),)


class _MatchGraph(nn.Module):
    def __init__(self, model: TextImageRetriever) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        image_tokens: Tensor,
        images: Tensor,
        phrase_index: Tensor | None = None,
    ) -> tuple[Tensor]:
        texts = TextFeatures(None, input_ids, attention_mask)
        phrases = {} if phrase_index is None else {"phrase_index": phrase_index}
        return (self.model.match(texts, self.model.image_memory(image_tokens), images, **phrases).float(),)


@dataclass(frozen=True)
class Graph:
    """An exported program with the names of its inputs and outputs. ``dynamic`` names the dynamic dimensions by input:
    position of the dimension to its letter."""

    name: str
    program: ExportedProgram
    outputs: tuple[str, ...]
    dynamic: dict[str, dict[int, str]]


def export_graphs(model: TextImageRetriever, image_size: tuple[int, int]) -> list[Graph]:
    """The two or three graphs of a model in eval mode on the CPU.

    Args:
        image_size: (H, W) in pixels, to which images are resized before they enter.

    Raises:
        ConfigError: a part of the model cannot be exported; the message says which part and why.
    """
    ids = torch.randint(1, len(model.tokenizer), (_EXAMPLES, _EXAMPLE_TOKENS))
    mask = torch.ones_like(ids, dtype=torch.bool)
    images = torch.randint(0, 256, (_EXAMPLES, 3, *image_size), dtype=torch.uint8)
    wanted = [
        ("image", _ImageGraph(model), {"images": images}, {"images": {0: "B"}}),
        (
            "text",
            _TextGraph(model),
            {"input_ids": ids, "attention_mask": mask},
            {"input_ids": {0: "Q", 1: "T"}, "attention_mask": {0: "Q", 1: "T"}},
        ),
    ]
    if model.can_match:
        with torch.no_grad():
            inputs = model.data_preprocessor({"inputs": {"images": images[:2]}}, False)["inputs"]
            tokens = model.encode_image(inputs["images"]).tokens
        texts = {"input_ids": ids, "attention_mask": mask}
        if model.phrase_weight:
            texts["phrase_index"] = torch.tensor([-1, 0, 0, 1, -1]).repeat(_EXAMPLES, 1)
        wanted.append(
            (
                "match",
                _MatchGraph(model),
                {**texts, "image_tokens": tokens, "images": torch.tensor([0, 1, 0])},
                {**{name: {0: "P", 1: "T"} for name in texts}, "image_tokens": {0: "I"}, "images": {0: "P"}},
            )
        )
    outputs = {
        "image": ("embed", "tokens") if model.can_match else ("embed",),
        "text": ("embed",),
        "match": ("logits",),
    }
    with padded_path(model):
        return [
            Graph(name, _exported(name, graph, inputs, dynamic), outputs[name], dynamic)
            for name, graph, inputs, dynamic in wanted
        ]


def _exported(name: str, graph: nn.Module, inputs: dict[str, Tensor], dynamic: dict) -> ExportedProgram:
    shapes = {key: dict.fromkeys(dims, Dim.DYNAMIC) for key, dims in dynamic.items()}
    try:
        with torch.no_grad():
            return torch.export.export(graph.eval(), (), kwargs=inputs, dynamic_shapes=shapes, strict=False)
    except Exception as error:  # a model can do anything that cannot be exported
        raise ConfigError(
            f"the {name} graph of {type(graph.model).__name__} cannot be exported ({first_line(error)}): its Python "
            "code must not depend on the values in a batch, nor fix the number or length of its texts or images"
        ) from error


@contextmanager
def padded_path(model: nn.Module) -> Iterator[None]:
    """Inside the block, parts of the model that know a padded path use it."""
    parts = [module for module in model.modules() if hasattr(module, "padded")]
    before = [part.padded for part in parts]
    for part in parts:
        part.padded = True
    try:
        yield
    finally:
        for part, padded in zip(parts, before, strict=True):
            part.padded = padded
