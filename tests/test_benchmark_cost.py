"""FLOP that ``cada benchmark`` counts, against formulas by hand, and the names in its picture of costs."""

import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from torch import nn

from cada_plugin.benchmark import charts, cost
from cada_plugin.benchmark.resources import count_flop
from cada_plugin.registry import MODELS

B, T, C, F = 2, 7, 16, 24  # batch, tokens, width, hidden width


def lstm_flop() -> int:
    """Four gates, both directions, two layers of which the second reads both directions of the first."""
    return 2 * B * T * 2 * (4 * F * (C + F) + 4 * F * (2 * F + F))


def layer_flop(tokens: int = T, asking: int = T) -> int:
    """Query projection of ``asking`` tokens, key and value of all, attention weights and sum, output, feed-forward."""
    attention = 2 * C * C * (asking + 2 * tokens) + 2 * 2 * asking * tokens * C + 2 * asking * C * C
    return attention + 2 * 2 * asking * C * F


@pytest.mark.parametrize(
    ("module", "flop"),
    [
        (nn.Linear(C, F), 2 * B * T * C * F),
        (nn.LSTM(C, F, 2, batch_first=True, bidirectional=True), lstm_flop()),
        (nn.TransformerEncoderLayer(C, 4, F, batch_first=True), B * layer_flop()),
        (nn.Sequential(nn.Unflatten(1, (1, T)), nn.Conv2d(1, 5, 3, stride=2, bias=False)), 2 * B * 5 * 9 * 3 * 7),
    ],
    ids=["linear", "lstm", "transformer", "convolution"],
)
def test_flop_of_a_layer(module, flop):
    """Counted FLOP equal the formula, also for layers that run as fused kernels in eval mode."""
    assert count_flop(lambda: module.eval()(torch.randn(B, T, C))) == flop
    assert torch.backends.mkldnn.enabled  # and they are used again
    assert torch.backends.mha.get_fastpath_enabled()


def test_flop_of_a_caption_and_a_pair():
    """CADA's text encoder and fusion decoder: only the first token leaves the last layer."""
    bert = {"width": C, "depth": 3, "heads": 2, "max_positions": 16, "dropout": 0.0}
    model = MODELS.build(
        {
            "type": "CADA",
            "tokenizer": {"type": "CaptionTokenizer", "vocab": "procedural", "max_length": 16},
            "visual_encoder": {
                "type": "ViTEncoder",
                "image_size": (32, 16),
                "patch_size": 8,
                "width": C,
                "depth": 2,
                "heads": 2,
            },
            "text_encoder": {"type": "CrossModalBert", **bert},
            "embed_dim": 8,
            "loss_global": {"type": "GlobalAssociationLoss"},
            "loss_atp": {"type": "MatchingLoss"},
        }
    ).eval()
    S = 1 + 4 * 2  # image tokens
    ids = torch.arange(T)[None]
    with torch.no_grad():
        counted = cost.count_gflops(model, torch.randn(1, 3, 32, 16), ids, reranks=True)

    def layer(asking: int, keys: int, feed_forward: int) -> int:
        attention = 2 * C * C * (asking + 2 * keys) + 2 * 2 * asking * keys * C + 2 * asking * C * C
        return attention + feed_forward * 2 * 2 * asking * C * 4 * C

    def cross(asking: int) -> int:
        return layer(asking, S, 0)  # keys and values of the image included

    image = 2 * 3 * 64 * C * 8 + 2 * layer(S, S, 1) + 2 * C * 8
    caption = 2 * layer(T, T, 1) + layer(1, T, 1) + 2 * C * 8
    pair = 2 * layer(T, T, 1) + layer(1, T, 1) + 2 * cross(T) + cross(1) + 2 * C * 2
    assert {key: round(value * 1e9) for key, value in counted.items()} == {
        "gflops_image": image,
        "gflops_caption": caption,
        "gflops_pair": pair,
    }


def test_names_in_the_picture_do_not_overlap():
    figure = Figure(figsize=(8, 5.5), layout="constrained")
    axes = figure.add_subplot()
    axes.set_xlim(1, 3)
    axes.set_ylim(40, 60)
    points = [(f"a_model_with_a_name_{i}", 2 + 0.02 * i, 50 + 0.3 * (i % 3)) for i in range(7)]
    charts._label(figure, axes, points, [[(x, y)] for _, x, y in points])
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    boxes = [Text.get_window_extent(text, canvas.get_renderer()) for text in axes.texts]
    assert sorted(text.get_text() for text in axes.texts) == [name for name, _, _ in points]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    assert all(
        axes.get_window_extent().containsx(box.x0) and axes.get_window_extent().containsx(box.x1) for box in boxes
    )
