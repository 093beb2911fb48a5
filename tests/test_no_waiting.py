"""The losses of a training step never make the host wait for a GPU, and no tensor is on the wrong device.

PyTorch's fake tensors find both on a machine without a GPU: they say that they live on one, and refuse to be counted,
read, or mixed with tensors that live elsewhere.
"""

import pytest
import torch
from conftest import BERT, build_batch, build_tiny, groups
from test_baselines import build
from torch import nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorDeviceMismatchError,
    FakeTensorMode,
)
from torch.utils._pytree import tree_map_only

from cada_plugin.models import fusion
from cada_plugin.models.preprocessor import with_places

VARIANTS = {
    "as released": {},
    "tokens": {"grouping": groups("tokens", 2)},
    "phrases": {"grouping": groups("phrases", None)},
    "whole captions": {"grouping": None},
    "sampled negatives": {"negatives": "sampled", "negative_scale": (20.0, 20.0)},
    "false captions": {"grouping": groups("tokens", 2), "false_captions": 0.5},
    "phrases judged": {"loss_phrases": {"type": "PhraseMatchingLoss"}},
    "true pairs ranked": {"loss_ranking": {"type": "MatchRankingLoss"}},
    "among several": {"loss_ranking": {"type": "MatchRankingLoss", "negatives": 3}},
    "among several that are sampled": {
        "loss_ranking": {"type": "MatchRankingLoss", "negatives": 3},
        "negatives": "sampled",
        "negative_scale": (20.0, 20.0),
    },
    "global alone": {"loss_atp": None, "loss_ara": None, "text_decoder": None},
}


def batch_with_all_inputs() -> dict:
    """As the data preprocessor hands it on."""
    batch = build_batch()
    ids = batch["inputs"]["input_ids"]
    said = {"said_ids": ids[:, 1:4], "said_truths": torch.eye(4, dtype=torch.int8)}
    false = {"false_ids": torch.where(ids == ids[0, 3], ids[0, 4], ids)}
    batch["inputs"] = with_places(batch["inputs"] | false | said)
    return batch


class Loss(nn.Module):
    """``model.loss`` as a forward pass, because ``functional_call`` takes only that."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: dict) -> dict:
        return self.model.loss(**batch)


def losses_on_a_fake_gpu(model: nn.Module, batch: dict) -> dict[str, torch.Tensor]:
    with FakeTensorMode() as mode:

        def fake(tensor: torch.Tensor) -> torch.Tensor:
            return mode.from_tensor(tensor).to("cuda")

        tensors = [*model.named_parameters(), *model.named_buffers()]
        state = {f"model.{name}": fake(tensor) for name, tensor in tensors}
        batch = batch | {"inputs": tree_map_only(torch.Tensor, fake, batch["inputs"])}
        return torch.func.functional_call(Loss(model), state, (batch,))


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_step_of_cada_waits_for_nothing(variant):
    losses = losses_on_a_fake_gpu(build_tiny(**VARIANTS[variant]), batch_with_all_inputs())
    assert losses
    assert all(loss.device.type == "cuda" for loss in losses.values())


def test_a_step_of_blip_waits_for_nothing():
    losses = losses_on_a_fake_gpu(build("blip"), batch_with_all_inputs())
    assert losses.keys() == {"loss_itc", "loss_itm"}


@pytest.mark.parametrize("key", ["token_places", "masked_places"])
def test_what_the_preprocessor_counts_would_be_counted_on_the_device(key):
    batch = batch_with_all_inputs()
    del batch["inputs"][key]
    with pytest.raises(DynamicOutputShapeException):
        losses_on_a_fake_gpu(build_tiny(grouping=groups("tokens", 2)), batch)


def test_a_value_that_is_read_and_a_tensor_elsewhere_are_found():
    class Reads(nn.Module):
        def loss(self, inputs: dict, data_samples: list) -> float:
            return inputs["images"].sum().item()

    class Mixes(nn.Module):
        def loss(self, inputs: dict, data_samples: list) -> torch.Tensor:
            return inputs["images"] + torch.zeros(32, 16)

    with pytest.raises(DataDependentOutputException):
        losses_on_a_fake_gpu(Reads(), build_batch())
    with pytest.raises(FakeTensorDeviceMismatchError):
        losses_on_a_fake_gpu(Mixes(), build_batch())


@pytest.mark.parametrize("variant", VARIANTS)
def test_losses_and_gradients_are_the_same_where_the_padding_of_wrong_captions_is_computed(variant, monkeypatch):
    def train() -> tuple[dict, dict]:
        model = build_tiny(**VARIANTS[variant])
        torch.manual_seed(0)
        losses = model.loss(**batch_with_all_inputs())
        sum(losses.values()).backward()
        return losses, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}

    assert BERT["dropout"] == 0  # whose random numbers would fall on other tokens
    expected = train()
    monkeypatch.setattr(fusion, "counting_is_free", lambda mask: False)
    torch.testing.assert_close(train(), expected, rtol=1e-4, atol=1e-6)
