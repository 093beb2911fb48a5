"""Counts the memory of a training step without running it: does this config fit that GPU?

The step runs on PyTorch's fake tensors, which have shapes and no values: no data, no weights and no GPU are needed, and
it takes seconds. All storages that live at a time are added up. A GPU needs somewhat more: its allocator rounds and
leaves gaps, and CUDA itself takes about half a GB. Attention with dropout is counted unfused, as on the CPU, so that
some of that is made up for.
"""

import weakref
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from cada_plugin.errors import ConfigError
from cada_plugin.models.fusion import FusionRetriever
from cada_plugin.models.preprocessor import with_places
from cada_plugin.registry import MODELS, build_part
from cada_plugin.structures import PersonDataSample

CAPTION_TOKENS = 34
"""Of the longest caption of a batch, by default: CUHK-PEDES has about 24 words a caption."""
_OF_THE_OPTIMIZER = ("optimizer", "constructor", "paramwise_cfg")


class LiveBytes(TorchDispatchMode):
    """Adds up the storages of all tensors that are made while it is active: ``now``, and the ``peak`` so far."""

    def __init__(self, there: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: weakref.WeakSet = weakref.WeakSet()
        for tensor in there:
            self._note(tensor)

    def _note(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage not in self._known:
            self._known.add(storage)
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._free, storage.nbytes())

    def _free(self, count: int) -> None:
        self.now -= count

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._note(leaf)
        return result


@dataclass(frozen=True)
class TrainingMemory:
    """Bytes of a training step: of the ``weights``, of weights and optimiser between steps (``resting``), and at most
    within a step (``peak``); with how many pairs in the batch and parameters that are ``trained``."""

    weights: int
    resting: int
    peak: int
    pairs: int
    parameters: int
    trained: int


def count_training_memory(config: Config, caption_tokens: int = CAPTION_TOKENS, amp: bool = False) -> TrainingMemory:
    """Count the memory of a training step of one process.

    Args:
        config: its model, its optimiser, and the batch size of its training loader are used.
        caption_tokens: of every caption.
        amp: bf16 autocast, as ``--amp``; a config that always trains with it is counted so anyway.

    Raises:
        ConfigError: a caption has less than three tokens, or the model is not built on a fusion decoder (CADA, BLIP);
            others count tokens on the device.
    """
    if caption_tokens < 3:
        raise ConfigError(
            f"captions of {caption_tokens} tokens: use an integer from 3, as two tokens begin and end a caption"
        )
    model = build_part(MODELS, {**config.model, "init_cfg": None}).train()
    if not isinstance(model, FusionRetriever):
        raise ConfigError(f"the memory of CADA and BLIP can be counted, not that of {type(model).__name__}: use a GPU")
    model.train_without_hooks()
    pairs = (config.get("train_dataloader") or {}).get("batch_size")
    if not pairs:
        raise ConfigError("the config has no train_dataloader.batch_size, so that there is no step to count: set it")
    amp = amp or config.optim_wrapper.get("type", "").endswith("BF16OptimWrapper")
    batch, samples = _made_up(model, pairs, min(caption_tokens, model.tokenizer.max_length))
    mode = FakeTensorMode()
    _make_fake(model, mode)
    with mode:
        parts = {key: value for key, value in config.optim_wrapper.items() if key in _OF_THE_OPTIMIZER}
        optimizer = build_optim_wrapper(model, {**parts, "type": "OptimWrapper"}).optimizer
        weights = [*model.parameters(), *model.buffers()]
        with LiveBytes(weights) as live:
            before = live.now
            for _ in range(2):  # the optimiser makes its state in the first one
                _step(model, optimizer, {key: mode.from_tensor(x) for key, x in batch.items()}, samples, amp)
            return TrainingMemory(
                before,
                live.now,
                live.peak,
                pairs,
                sum(p.numel() for p in model.parameters()),
                sum(p.numel() for p in model.parameters() if p.requires_grad),
            )


def _make_fake(model: nn.Module, mode: FakeTensorMode) -> None:
    """Replace all parameters and buffers by fake ones; what is tied stays tied."""
    fake: dict[int, Tensor] = {}
    for module in model.modules():
        for table in (module._parameters, module._buffers):
            for name, tensor in table.items():
                if tensor is not None:
                    if id(tensor) not in fake:
                        copy = mode.from_tensor(tensor)
                        is_parameter = isinstance(tensor, nn.Parameter)
                        fake[id(tensor)] = nn.Parameter(copy, tensor.requires_grad) if is_parameter else copy
                    table[name] = fake[id(tensor)]


def _step(model: nn.Module, optimizer: torch.optim.Optimizer, batch: dict, samples: list, amp: bool) -> None:
    with torch.autocast("cpu", torch.bfloat16, enabled=amp):
        loss = sum(model.loss(batch, samples).values())
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()


def _made_up(model: FusionRetriever, pairs: int, tokens: int) -> tuple[dict[str, Tensor], list[PersonDataSample]]:
    """A batch in which every caption has as many tokens, a third of them masked, in phrases of three."""
    place = torch.arange(tokens).expand(pairs, -1)
    ids = torch.full((pairs, tokens), model.tokenizer.mask_id)
    encoder = model.visual_encoder
    grid = encoder.image_size if hasattr(encoder, "image_size") else encoder.patch_embed.img_size
    inputs = {
        "images": torch.zeros(pairs, 3, *grid),
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids, dtype=torch.bool),
        "masked_ids": ids,
        "masked_positions": place % 3 == 1,
        "phrase_index": (place // 3).clone(),
        "false_ids": ids + 1,
        "said_ids": torch.full((pairs * (tokens // 3), 3), model.tokenizer.mask_id),
        "said_truths": torch.ones(pairs, pairs * (tokens // 3), dtype=torch.int8),
    }
    samples = [PersonDataSample(metainfo={"person_id": number, "label": number}) for number in range(pairs)]
    return with_places(inputs), samples
