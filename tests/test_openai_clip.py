"""Weights with the names of OpenAI's CLIP, IRRA and RDE against a model that is written with those names.

The published files are not here. The models below have the names, shapes and arithmetic of the public model classes,
with torch's own attention, so that what is loaded can be compared with what it computes there.
"""

from collections import OrderedDict

import pytest
import torch
import torch.nn.functional as F
from checkpoint_factory import shake
from clip_factory import write_tokenizer
from torch import Tensor, nn

from cada_plugin.checkpoints import load_checkpoint
from cada_plugin.errors import CheckpointError
from cada_plugin.registry import MODELS

WIDTH, HEADS, TEXT_WIDTH, TEXT_HEADS, DIM, LENGTH, PATCH = 32, 4, 24, 2, 16, 20, 8
GRID = (4, 2)


class QuickGELU(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * (1.702 * x).sigmoid()


class Block(nn.Module):
    def __init__(self, width: int, heads: int, mask: Tensor | None = None) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.ln_1, self.ln_2, self.mask = nn.LayerNorm(width), nn.LayerNorm(width), mask
        layers = [("c_fc", nn.Linear(width, 4 * width)), ("gelu", QuickGELU()), ("c_proj", nn.Linear(4 * width, width))]
        self.mlp = nn.Sequential(OrderedDict(layers))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.ln_1(x)
        attended, weights = self.attn(y, y, y, attn_mask=self.mask)
        x = x + attended
        return x + self.mlp(self.ln_2(x)), weights


class Transformer(nn.Module):
    def __init__(self, width: int, heads: int, depth: int, mask: Tensor | None = None) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(Block(width, heads, mask) for _ in range(depth))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The states, and the attention of the last layer, averaged over heads."""
        for block in self.resblocks:
            x, weights = block(x)
        return x, weights


class Visual(nn.Module):
    def __init__(self, grid: tuple[int, int]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, WIDTH, PATCH, PATCH, bias=False)
        self.class_embedding = nn.Parameter(torch.zeros(WIDTH))
        self.positional_embedding = nn.Parameter(torch.zeros(1 + grid[0] * grid[1], WIDTH))
        self.ln_pre, self.ln_post = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.transformer = Transformer(WIDTH, HEADS, 2)
        self.proj = nn.Parameter(torch.zeros(WIDTH, DIM))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        patches = self.conv1(images).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.class_embedding.expand(len(images), 1, -1), patches], 1) + self.positional_embedding
        tokens, attention = self.transformer(self.ln_pre(tokens))
        return self.ln_post(tokens) @ self.proj, attention


class CLIP(nn.Module):
    def __init__(self, vocabulary: int, grid: tuple[int, int] = GRID) -> None:
        super().__init__()
        self.visual = Visual(grid)
        self.transformer = Transformer(TEXT_WIDTH, TEXT_HEADS, 2, torch.full((LENGTH, LENGTH), -torch.inf).triu(1))
        self.token_embedding = nn.Embedding(vocabulary, TEXT_WIDTH)
        self.positional_embedding = nn.Parameter(torch.zeros(LENGTH, TEXT_WIDTH))
        self.ln_final = nn.LayerNorm(TEXT_WIDTH)
        self.text_projection = nn.Parameter(torch.zeros(TEXT_WIDTH, DIM))

    def encode_text(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        states, attention = self.transformer(self.token_embedding(ids) + self.positional_embedding)
        return self.ln_final(states) @ self.text_projection, attention


class PublishedIRRA(nn.Module):
    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.base_model = CLIP(vocabulary)
        self.classifier = nn.Linear(DIM, 5)
        self.cross_attn = nn.MultiheadAttention(DIM, 2, batch_first=True)
        self.cross_modal_transformer = Transformer(DIM, 2, 2)
        self.ln_pre_t, self.ln_pre_i, self.ln_post = (nn.LayerNorm(DIM) for _ in range(3))
        layers = {"dense": nn.Linear(DIM, DIM), "gelu": QuickGELU(), "ln": nn.LayerNorm(DIM, 1e-12)}
        self.mlm_head = nn.Sequential(OrderedDict(layers | {"fc": nn.Linear(DIM, vocabulary)}))

    def masked_words(self, text: Tensor, image: Tensor) -> Tensor:
        image = self.ln_pre_i(image)
        x = self.cross_attn(self.ln_pre_t(text), image, image)[0]
        return self.mlm_head(self.ln_post(self.cross_modal_transformer(x)[0]))


class Selection(nn.Module):
    """``linear`` and the second batch norm of a visual layer are never used by the published code."""

    def __init__(self, visual: bool) -> None:
        super().__init__()
        self.linear = nn.Linear(DIM, 12)
        if visual:
            self.fc = nn.Linear(DIM, 12)
        self.mlp = nn.Module()
        self.mlp.layers = nn.ModuleList([nn.Linear(DIM, 6), nn.Linear(6, 12)])
        self.mlp.bns = nn.ModuleList([nn.BatchNorm1d(6), nn.BatchNorm1d(12)])

    def forward(self, tokens: Tensor) -> Tensor:
        """The largest of the embeddings of chosen tokens (K, C), in every dimension."""
        tokens = F.normalize(tokens, dim=-1)
        straight = self.fc if hasattr(self, "fc") else self.linear
        (first, second), norm = self.mlp.layers, self.mlp.bns[0]
        return (straight(tokens) + second(norm(first(tokens)).relu())).amax(0)


class PublishedRDE(nn.Module):
    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.base_model = CLIP(vocabulary)
        self.visul_emb_layer, self.texual_emb_layer = Selection(visual=True), Selection(visual=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("tokenizer")


@pytest.fixture(scope="module")
def vocabulary(folder) -> int:
    return write_tokenizer(folder)


@pytest.fixture
def ours(folder, vocabulary):
    def build(kind: str, image_size: tuple[int, int] = (32, 16), **extra: object) -> nn.Module:
        cfg = {
            "type": kind,
            "tokenizer": {"type": "CLIPCaptionTokenizer", "vocab": str(folder), "max_length": LENGTH},
            "visual_encoder": {
                "type": "CLIPVisionEncoder",
                "image_size": image_size,
                "patch_size": PATCH,
                "width": WIDTH,
                "depth": 2,
                "heads": HEADS,
            },
            "text_encoder": {
                "type": "CLIPTextEncoder",
                "width": TEXT_WIDTH,
                "depth": 2,
                "heads": TEXT_HEADS,
                "max_positions": LENGTH,
            },
            "embed_dim": DIM,
        }
        return MODELS.build(cfg | extra).eval()

    return build


CLIP_LOSS = {"loss_itc": {"type": "InfoNCELoss"}}
IRRA_PARTS = {
    "num_classes": 5,
    "loss_sdm": {"type": "SDMLoss"},
    "loss_id": {"type": "IdentityLoss"},
    "loss_irr": {"type": "MaskedAttributeLoss"},
    "reasoning_depth": 2,
    "reasoning_heads": 2,
}


def captions(vocabulary: int) -> tuple[Tensor, Tensor]:
    """Ids and mask; the end of a text has the largest id, as in CLIP."""
    ids = torch.zeros(3, LENGTH, dtype=torch.long)
    for row, length in zip(ids, (LENGTH, 6, 11), strict=True):
        row[:length] = torch.randint(1, vocabulary - 2, (length,))
        row[0], row[length - 1] = vocabulary - 2, vocabulary - 1
    return ids, ids > 0


def same(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def check_embeddings(model: nn.Module, theirs: CLIP, vocabulary: int) -> None:
    images, (ids, mask) = torch.randn(3, 3, 32, 16), captions(vocabulary)
    same(model.encode_image(images).embed, F.normalize(theirs.visual(images)[0][:, 0], dim=-1))
    states, _ = theirs.encode_text(ids)
    same(model.encode_text(ids, mask).embed, F.normalize(states[torch.arange(3), ids.argmax(1)], dim=-1))


@torch.no_grad()
@pytest.mark.parametrize("key", [None, "model", "state_dict"])  # OpenAI's; IRRA's and HAM's; GA-DMS'
def test_clip_embeds_as_openai_does(ours, vocabulary, tmp_path, key):
    theirs = shake(CLIP(vocabulary)).eval()
    state = theirs.state_dict() | {"logit_scale": torch.tensor(2.5), "context_length": torch.tensor(LENGTH)}
    torch.save({key: {f"module.{name}": x for name, x in state.items()}} if key else state, tmp_path / "clip.pt")
    model = ours("CLIPRetriever", **CLIP_LOSS)
    report = load_checkpoint(model, tmp_path / "clip.pt", strict=True)
    assert (report.format, report.dropped) == ("openai-clip", ["context_length"])
    assert model.loss_itc.logit_scale == 2.5
    check_embeddings(model, theirs, vocabulary)


@torch.no_grad()
def test_half_precision_weights_become_those_of_the_model(ours, vocabulary, tmp_path):
    theirs = shake(CLIP(vocabulary)).half()
    torch.save(theirs.state_dict(), tmp_path / "clip.pt")
    model = ours("CLIPRetriever", **CLIP_LOSS)
    load_checkpoint(model, tmp_path / "clip.pt")
    check_embeddings(model, theirs.float().eval(), vocabulary)


@torch.no_grad()
def test_square_positions_are_resized_for_tall_images(ours, vocabulary, tmp_path):
    torch.save(shake(CLIP(vocabulary, (4, 4))).state_dict(), tmp_path / "clip.pt")
    report = load_checkpoint(ours("CLIPRetriever", **CLIP_LOSS), tmp_path / "clip.pt")
    assert report.resized == ["visual_encoder.pos_embed 4x4 -> 4x2 patches"]


@torch.no_grad()
def test_the_published_irra_is_ours(ours, vocabulary, tmp_path):
    theirs = shake(PublishedIRRA(vocabulary)).eval()
    torch.save({"model": theirs.state_dict()}, tmp_path / "best.pth")
    model = ours("IRRA", **IRRA_PARTS)
    load_checkpoint(model, tmp_path / "best.pth", strict=True)
    check_embeddings(model, theirs.base_model, vocabulary)
    same(model.loss_id.classifier.weight, theirs.classifier.weight)
    text, image = torch.randn(2, LENGTH, DIM), torch.randn(2, 9, DIM)
    everywhere = torch.ones(2, LENGTH, dtype=torch.bool)
    found = model.reasoning(text, image, everywhere, torch.arange(2 * LENGTH))
    same(found, theirs.masked_words(text, image).flatten(0, 1))


@torch.no_grad()
def test_the_published_rde_is_ours(ours, vocabulary, tmp_path):
    theirs = shake(PublishedRDE(vocabulary)).eval()
    torch.save({"model": theirs.state_dict()}, tmp_path / "best.pth")
    tal = {"loss_tal": {"type": "TripletAlignmentLoss"}}
    model = ours("RDE", selection_ratio=0.5, selection_dim=12, **tal)
    report = load_checkpoint(model, tmp_path / "best.pth", strict=True)
    assert len(report.dropped) == 2 + 2 * 5  # a linear layer and two batch norms
    images, (ids, mask) = torch.randn(3, 3, 32, 16), captions(vocabulary)
    tokens, attention = theirs.base_model.visual(images)
    embeds = model.encode_image(images).embed * 2**0.5
    same(embeds[:, :DIM], F.normalize(tokens[:, 0], dim=-1))
    for row, weights, embed in zip(tokens, attention, embeds, strict=True):
        chosen = 1 + weights[0, 1:].topk(4).indices  # half of the eight patches
        same(embed[DIM:], F.normalize(theirs.visul_emb_layer(row[chosen]), dim=-1))
    states, attention = theirs.base_model.encode_text(ids)
    embeds = model.encode_text(ids, mask).embed * 2**0.5
    for row, weights, embed, length in zip(states, attention, embeds, mask.sum(1).tolist(), strict=True):
        words = weights[length - 1, 1 : length - 1]
        chosen = 1 + words.topk(min(9, len(words))).indices  # half of the 18 words that a caption can have
        same(embed[DIM:], F.normalize(theirs.texual_emb_layer(row[chosen]), dim=-1))


def test_person_pre_training_starts_another_model(ours, vocabulary, tmp_path):
    """IRRA's weights in CLIP: the encoders fit, and what belongs to IRRA's training is reported."""
    torch.save(shake(PublishedIRRA(vocabulary)).state_dict(), tmp_path / "best.pth")
    report = load_checkpoint(ours("CLIPRetriever", **CLIP_LOSS), tmp_path / "best.pth")
    assert report.missing == ["loss_itc.logit_scale"]
    assert {name.split(".")[0] for name in report.unexpected} == {"loss_id", "reasoning"}


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("visual.proj", torch.zeros(3), "visual.proj has shape .3,., expected a matrix"),
        (
            "transformer.resblocks.0.attn.in_proj_weight",
            torch.zeros(7, 2),
            "in_proj_weight has shape .7, 2., expected a stack of three",
        ),
    ],
)
def test_damaged_files_are_named(ours, vocabulary, tmp_path, name, value, message):
    torch.save(CLIP(vocabulary).state_dict() | {name: value}, tmp_path / "clip.pt")
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(ours("CLIPRetriever", **CLIP_LOSS), tmp_path / "clip.pt")


def test_one_encoder_takes_its_own_part(ours, vocabulary, tmp_path):
    """The layers of both encoders have the same names."""
    theirs = shake(CLIP(vocabulary))
    torch.save(theirs.state_dict(), tmp_path / "clip.pt")
    model = ours("CLIPRetriever", **CLIP_LOSS)
    load_checkpoint(model.visual_encoder, tmp_path / "clip.pt")
    load_checkpoint(model.text_encoder, tmp_path / "clip.pt")
    check_embeddings_but_for_projections(model, theirs)


def check_embeddings_but_for_projections(model: nn.Module, theirs: CLIP) -> None:
    same(
        model.visual_encoder.model.encoder.layers[1].mlp.fc1.weight,
        theirs.visual.transformer.resblocks[1].mlp.c_fc.weight,
    )
    same(model.text_encoder.model.encoder.layers[1].mlp.fc1.weight, theirs.transformer.resblocks[1].mlp.c_fc.weight)


def test_tall_positions_of_irra_are_not_taken_for_square_ones(ours, vocabulary, tmp_path):
    theirs = PublishedIRRA(vocabulary)
    theirs.base_model = shake(CLIP(vocabulary, (8, 2)))  # 16 patches are a square number too
    torch.save(theirs.state_dict(), tmp_path / "best.pth")
    model = ours("IRRA", (64, 16), **IRRA_PARTS)
    assert not load_checkpoint(model, tmp_path / "best.pth").resized
    same(model.visual_encoder.pos_embed[0], theirs.base_model.visual.positional_embedding)


def test_a_model_with_such_names_of_its_own_keeps_them(vocabulary, tmp_path):
    host = nn.ModuleDict({"base_model": shake(CLIP(vocabulary)), "head": nn.Linear(DIM, 2)})
    state = {name: x for name, x in host.state_dict().items() if not name.startswith("head.")}
    torch.save(state, tmp_path / "older.pth")
    other = nn.ModuleDict({"base_model": CLIP(vocabulary), "head": nn.Linear(DIM, 2)})
    report = load_checkpoint(other, tmp_path / "older.pth")
    assert (report.format, report.missing) == ("plain", ["head.weight", "head.bias"])
    same(other["base_model"].text_projection, host["base_model"].text_projection)


def test_a_program_says_how_to_get_its_weights(tmp_path):
    torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2)).save(str(tmp_path / "ViT-B-16.pt"))
    with pytest.raises(CheckpointError, match=r"a TorchScript program and not weights: .*torch.jit.load"):
        load_checkpoint(nn.Linear(2, 2), tmp_path / "ViT-B-16.pt")
