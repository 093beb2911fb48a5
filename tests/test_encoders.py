"""The image encoder, normalisation on the device, and building the model from another code base's configuration."""

import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from conftest import BERT, TOKENIZER, VISION
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import DefaultScope
from torch import nn

from cada_plugin.errors import ConfigError
from cada_plugin.models import CADA, PersonDataPreprocessor, ViTEncoder

TINY = {"width": 16, "depth": 3, "heads": 2}


def encoder(seed=0, **changes) -> ViTEncoder:
    torch.manual_seed(seed)
    return ViTEncoder(**{"image_size": (32, 16), "patch_size": 8, **TINY, **changes})


@pytest.mark.parametrize("stem", ["patch", "conv", "residual"])
@pytest.mark.parametrize(
    ("image_size", "patch_size", "tokens"), [((32, 16), 8, 8), ((384, 128), 16, 192), ([96, 48], 16, 18)]
)
def test_one_token_a_patch_and_a_class_token(stem, image_size, patch_size, tokens):
    vit = encoder(image_size=image_size, patch_size=patch_size, stem=stem).eval()
    with torch.no_grad():
        assert vit(torch.randn(2, 3, *image_size)).shape == (2, 1 + tokens, 16)
    assert vit.width == 16


@pytest.mark.parametrize("stem", ["patch", "conv", "residual"])
def test_patches_are_told_apart_by_place(stem):
    """Rows and columns of a rectangular image are not mixed up: a change in one corner changes the corner's patch."""
    embed = encoder(image_size=(64, 32), stem=stem).eval().patch_embed
    images = torch.zeros(2, 3, 64, 32)
    images[1, :, 56:59, 0:3] = 1.0  # inside the patch of the last row, first column, where strided layers look
    with torch.no_grad():
        before, after = embed(images)
    change = (after - before).abs().sum(-1).view(8, 4)
    assert change.argmax() == 7 * 4
    if stem == "patch":
        assert change.count_nonzero() == 1


def test_conv_stem_is_made_of_small_convolutions():
    kernels = [m.kernel_size for m in encoder(stem="conv").patch_embed.modules() if isinstance(m, nn.Conv2d)]
    assert kernels == [(3, 3)] * 3 + [(1, 1)]


def test_the_residual_stem_is_the_network_of_its_docstring_written_out():
    """With a patch of 16: 5x5 to a quarter of the width, blocks to 2/4, 3/4 and 4/4, and one more before the last."""
    torch.manual_seed(0)
    stem = encoder(image_size=(32, 32), patch_size=16, stem="residual").patch_embed
    (first, norm), blocks, last = stem.proj[:2], stem.proj[3:-1], stem.proj[-1]
    assert [(block.conv1.in_channels, block.conv1.out_channels) for block in blocks] == [
        (4, 8),
        (8, 12),
        (12, 12),
        (12, 16),
    ]
    images = torch.randn(2, 3, 32, 32)
    x = F.relu(norm(F.conv2d(images, first.weight, stride=2, padding=2)))
    for block, stride in zip(blocks, (2, 2, 1, 2), strict=True):
        y = F.relu(block.bn1(F.conv2d(x, block.conv1.weight, stride=stride, padding=1)))
        y = block.bn2(F.conv2d(y, block.conv2.weight, padding=1))
        if stride == 2:
            conv, norm = block.downsample
            x = norm(F.conv2d(x, conv.weight, stride=2))
        x = F.relu(y + x)
    torch.testing.assert_close(stem(images), last(x).flatten(2).transpose(1, 2))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_size": 224}, r"image_size=224: expected \(height, width\) in pixels"),
        ({"image_size": (32,)}, r"image_size=\(32,\): expected \(height, width\)"),
        ({"image_size": (32.0, 16.0)}, r"image_size=\(32.0, 16.0\): expected \(height, width\)"),
        ({"image_size": (0, 16)}, r"image_size=\(0, 16\): expected \(height, width\)"),
        ({"patch_size": 0}, "patch_size=0: expected the side of a patch in pixels"),
        ({"image_size": (30, 16)}, r"image_size=\(30, 16\) \(H, W\) must be a multiple of patch_size=8"),
        ({"stem": "mlp"}, "stem='mlp': use one of patch, conv, residual"),
        ({"stem": "conv", "patch_size": 2}, "stem='conv' needs a patch_size that is a power of two from 4, got 2"),
        ({"stem": "residual", "patch_size": 2}, "stem='residual' needs a patch_size that is a power of two"),
        ({"stem": "conv", "image_size": (24, 12), "patch_size": 12}, "power of two from 4, got 12"),
    ],
)
def test_impossible_encoders_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        encoder(**changes)


def test_wrong_image_size_names_both_sizes(tiny_model):
    with pytest.raises(ConfigError, match=r"images are \(16, 32\) \(H, W\) but the encoder was built for \(32, 16\)"):
        tiny_model().encode_image(torch.zeros(1, 3, 16, 32))


def test_checkpointing_recomputes_and_changes_nothing():
    images, results = torch.randn(2, 3, 32, 16), []
    for checkpointing in (False, True):
        vit, calls = encoder(checkpointing=checkpointing), []
        vit.blocks[0].register_forward_pre_hook(lambda *_, calls=calls: calls.append(1))
        tokens = vit(images)
        tokens.square().sum().backward()
        assert len(calls) == 1 + checkpointing
        results.append([tokens.detach(), *(p.grad for p in vit.parameters())])
    assert len(results[0]) == len(results[1]) > 10
    for plain, recomputed in zip(*results, strict=True):
        torch.testing.assert_close(recomputed, plain)


def test_drop_path_rises_with_depth_and_acts_in_training_only():
    images = torch.randn(8, 3, 32, 16)
    vit, plain = encoder(drop_path=0.5), encoder()
    assert [getattr(block.drop_path1, "drop_prob", 0.0) for block in vit.blocks] == pytest.approx([0, 0.25, 0.5])
    with torch.no_grad():
        assert not torch.allclose(vit(images), plain(images))
        torch.testing.assert_close(vit.eval()(images), plain.eval()(images))


# Batches on the device


def test_images_are_normalised_by_channel_and_the_rest_is_left_alone():
    preprocessor = PersonDataPreprocessor(mean=(10.0, 20.0, 30.0), std=(1.0, 2.0, 5.0))
    images = torch.tensor([11, 24, 20], dtype=torch.uint8).view(1, 3, 1, 1).expand(2, 3, 4, 2)
    data = {"inputs": {"images": images, "input_ids": torch.tensor([[2, 3]])}, "data_samples": ["a", "b"]}
    result = preprocessor(data)
    assert result["inputs"]["images"].dtype == torch.float32
    assert result["inputs"]["images"][1, :, 3, 1].tolist() == [1.0, 2.0, -2.0]
    assert result["inputs"]["input_ids"].dtype == torch.long
    assert result["data_samples"] == ["a", "b"]
    assert data["inputs"]["images"].dtype == torch.uint8  # the loader's batch is not changed in place
    texts = preprocessor({"inputs": {"input_ids": torch.tensor([[2]])}})  # queries come without images
    assert texts["inputs"]["input_ids"].tolist() == [[2]]
    assert not preprocessor.state_dict()  # nothing that released checkpoints would lack


# Foreign configurations

FOREIGN = {
    "type": "cada_plugin.CADA",
    "visual_encoder": VISION,
    "text_encoder": {"type": "CrossModalBert", **BERT},
    "text_decoder": {"type": "AttributeDecoder", **BERT},
    "tokenizer": TOKENIZER,
    "loss_global": {"type": "GlobalAssociationLoss"},
    "loss_atp": {"type": "MatchingLoss"},
    "loss_ara": {"type": "MaskedAttributeLoss"},
    "data_preprocessor": {"type": "cada_plugin.PersonDataPreprocessor", "mean": (0, 0, 0), "std": (1, 1, 1)},
}


def test_foreign_default_scope_needs_our_name_once_and_stays_as_it_was():
    DefaultScope.get_instance("host", scope_name="mmengine")
    model = MMENGINE_MODELS.build(FOREIGN)
    assert isinstance(model, CADA)
    assert isinstance(model.data_preprocessor, PersonDataPreprocessor)
    assert DefaultScope.get_current_instance().scope_name == "mmengine"


@pytest.mark.slow
def test_foreign_program_builds_the_model_without_importing_us(tmp_path):
    program = f"""
import sys
from mmengine.registry import MODELS, DefaultScope
DefaultScope.get_instance("host", scope_name="somebody")
assert not any(name.startswith("cada_plugin") for name in sys.modules)
print(type(MODELS.build({FOREIGN!r})).__module__)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.stdout.strip().splitlines()[-1:] == ["cada_plugin.models.cada"], done.stderr
