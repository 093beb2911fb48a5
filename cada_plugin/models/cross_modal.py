"""BERT with cross-attention: text tokens attend to image tokens. The decoder of CADA's ATP and ARA, and its hot path.

One stack of post-norm BERT layers serves twice: without an image it skips cross-attention and is the text encoder; with
an image it is the fusion decoder. Two things make it fast. The keys and values that a layer needs of an image depend on
the image alone, so they are computed once per image, as an :class:`ImageMemory`. In re-ranking, all texts that attend
to the image share them; training copies them for each text. And padding is left out of the linear layers, where most of
the arithmetic is; see :class:`Packing`. Inference on a CPU leaves it out of self-attention too; see :class:`Runs`.

Parameter names are BLIP's, so that released checkpoints load unchanged. Shape letters: P texts (pairs), T text tokens,
C width, H heads, E width of a head, I images, S image tokens, M real text
tokens of all P texts.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils.checkpoint import checkpoint

from cada_plugin.errors import ConfigError
from cada_plugin.registry import MODELS


class ImageMemory(NamedTuple):
    """Keys and values of I images for every layer: two lists of (I, H, S, E) tensors, one entry per layer."""

    keys: list[Tensor]
    values: list[Tensor]

    @property
    def num_images(self) -> int:
        return self.keys[0].shape[0]

    def select(self, index: Tensor) -> "ImageMemory":
        """Memory row ``index[p]`` for text p; ``index`` is (P,) long."""
        # index_select, not [index]: the gradient of the latter is summed by racing threads, so no two runs would agree
        return ImageMemory(*([x.index_select(0, index) for x in side] for side in self))


class Packing(NamedTuple):
    """How M real tokens are laid out in a padded (R, L) rectangle.

    Linear layers work on the M packed tokens; attention needs rectangles of R rows and L columns. In self-attention a
    row holds the tokens of one text. In cross-attention it holds the tokens of *all* texts that attend to one image, so
    that this image's keys and values are used without a copy for each text.

    ``index`` (M,) is the place of each token, row * L + column; None means that all R * L places are filled, in order.
    """

    R: int
    L: int
    index: Tensor | None

    @classmethod
    def of_rows(cls, rows: Tensor, count: int) -> "Packing":
        """The layout of M tokens of which token n belongs to row ``rows[n]`` of ``count``, in their order."""
        order = rows.argsort(stable=True)
        sizes = torch.bincount(rows, minlength=count)
        starts = sizes.cumsum(0) - sizes
        columns = torch.empty_like(rows)
        columns[order] = torch.arange(len(rows), device=rows.device) - starts[rows[order]]
        L = int(sizes.max())
        return cls(count, L, rows * L + columns)

    def rows(self, device: torch.device) -> Tensor:
        """Row (M,) of each token."""
        places = torch.arange(self.R * self.L, device=device) if self.index is None else self.index
        return places // self.L

    def pack(self, x: Tensor) -> Tensor:
        """(R, L, C) -> (M, C)."""
        x = x.reshape(self.R * self.L, x.shape[-1])
        return x if self.index is None else x.index_select(0, self.index)

    def unpack(self, x: Tensor) -> Tensor:
        """(M, C) -> (R, L, C), with zeros at padding."""
        if self.index is not None:
            x = x.new_zeros(self.R * self.L, x.shape[-1]).index_copy_(0, self.index, x)
        return x.view(self.R, self.L, x.shape[-1])

    def firsts(self) -> "Packing":
        """The layout of the first token of each row alone."""
        return Packing(self.R, 1, None)


class Runs(NamedTuple):
    """Packed tokens sorted so that texts of equal length stand together: self-attention then needs no padding.

    A run of n texts with L tokens each is a rectangle as it stands. There are at most as many runs as lengths, and each
    is a call of its own; so they are for a CPU, which starts a call fast. Training would be slower with them.
    """

    sizes: list[tuple[int, int]]
    """Number of texts n and of tokens L of each run."""
    texts: Tensor
    """(P,) long, the number of each text, in the order of the runs."""
    starts: Tensor
    """(P,) long, where the first token of each of these texts stands."""

    @classmethod
    def sort(cls, places: Tensor, columns: int) -> tuple[Tensor, "Runs"]:
        """Sorted places (M,) of tokens, row * columns + column, and their runs."""
        text = places // columns
        lengths = torch.bincount(text)[text]  # (M,) of each token's text
        order = (lengths * (int(text.max()) + 1) + text).argsort(stable=True)
        texts, counts = torch.unique_consecutive(text[order], return_counts=True)
        sizes = [(tokens // L, L) for L, tokens in enumerate(torch.bincount(lengths).tolist()) if tokens]
        return places[order], cls(sizes, texts, counts.cumsum(0) - counts)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
        """Each text attends to itself: keys and values (M, C), queries (M, C), or (P, C) of the first tokens alone."""
        C, tokens = q.shape[1], [n * L for n, L in self.sizes]
        asking = tokens if len(q) == len(k) else [n for n, _ in self.sizes]
        attended = []
        for (n, _), *qkv in zip(self.sizes, q.split(asking), k.split(tokens), v.split(tokens), strict=True):
            rectangles = (split_heads(x.view(n, -1, C), heads) for x in qkv)
            attended.append(merge_heads(F.scaled_dot_product_attention(*rectangles)).view(-1, C))
        return torch.cat(attended)


def split_heads(x: Tensor, heads: int) -> Tensor:
    B, T, C = x.shape
    return x.view(B, T, heads, C // heads).transpose(1, 2)  # (B, H, T, E)


def merge_heads(x: Tensor) -> Tensor:
    B, H, T, D = x.shape
    return x.transpose(1, 2).reshape(B, T, H * D)


class _Projections(nn.Module):
    """Query projection of the text, key and value projections of text or image, under BERT's names."""

    def __init__(self, width: int, memory_width: int) -> None:
        super().__init__()
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(memory_width, width)
        self.value = nn.Linear(memory_width, width)


class _Output(nn.Module):
    """Linear, dropout, residual, LayerNorm: the end of every BERT block."""

    def __init__(self, width_in: int, width: int, dropout: float) -> None:
        super().__init__()
        self.dense = nn.Linear(width_in, width)
        self.LayerNorm = nn.LayerNorm(width, eps=1e-12)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        return self.LayerNorm(self.dropout(self.dense(x)) + residual)


class SelfAttention(nn.Module):
    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.self = _Projections(width, width)
        self.output = _Output(width, width, dropout)
        self.heads, self.dropout = heads, dropout

    def forward(self, x: Tensor, packing: Packing, visible: Tensor | Runs, first_only: bool = False) -> Tensor:
        """x (M, C) -> (M, C), or (P, C) with ``first_only``; ``visible`` is a mask that fits (P, H, T, T), or runs."""
        project = self.self
        if isinstance(visible, Runs):
            asking = x.index_select(0, visible.starts) if first_only else x
            attended = visible.attend(project.query(asking), project.key(x), project.value(x), self.heads)
            return self.output(attended, asking)
        asking, places = (packing.unpack(x)[:, 0], packing.firsts()) if first_only else (x, packing)
        q = split_heads(places.unpack(project.query(asking)), self.heads)  # (P, H, T, E)
        k = split_heads(packing.unpack(project.key(x)), self.heads)
        v = split_heads(packing.unpack(project.value(x)), self.heads)
        dropout = self.dropout if self.training else 0.0
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=visible, dropout_p=dropout)
        return self.output(places.pack(merge_heads(attended)), asking)


class CrossAttention(nn.Module):
    def __init__(self, width: int, heads: int, dropout: float, memory_width: int) -> None:
        super().__init__()
        self.self = _Projections(width, memory_width)
        self.output = _Output(width, width, dropout)
        self.heads, self.dropout = heads, dropout

    def memory(self, image_tokens: Tensor) -> tuple[Tensor, Tensor]:
        """(I, S, C_image) -> keys and values, each (I, H, S, E)."""
        return tuple(split_heads(project(image_tokens), self.heads) for project in (self.self.key, self.self.value))

    def forward(
        self, x: Tensor, packing: Packing, key: Tensor, value: Tensor, maps: list[Tensor] | None = None
    ) -> Tensor:
        """Text tokens x (M, C) attend to images given as key, value (I, H, S, E) -> (M, C); rows of ``packing`` are
        images."""
        q = split_heads(packing.unpack(self.self.query(x)), self.heads)  # (I, H, L, E)
        dropout = self.dropout if self.training else 0.0
        if maps is None:
            attended = F.scaled_dot_product_attention(q, key, value, dropout_p=dropout)
        else:  # the fused kernel does not return its attention weights
            weights = (q @ key.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1)
            maps.append(weights)
            attended = weights @ value
        return self.output(packing.pack(merge_heads(attended)), x)


class _Intermediate(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width, 4 * width)

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(self.dense(x))


class CrossModalLayer(nn.Module):
    """Self-attention, cross-attention if there is an image, feed-forward."""

    def __init__(self, width: int, heads: int, dropout: float, image_width: int, cross_attention: bool) -> None:
        super().__init__()
        self.attention = SelfAttention(width, heads, dropout)
        if cross_attention:
            self.crossattention = CrossAttention(width, heads, dropout, image_width)
        self.intermediate = _Intermediate(width)
        self.output = _Output(4 * width, width, dropout)

    def forward(
        self,
        x: Tensor,
        packing: Packing,
        visible: Tensor | Runs,
        asked: tuple[Packing, Tensor, Tensor] | None = None,
        first_only: bool = False,
        maps: list[Tensor] | None = None,
    ) -> Tensor:
        x = self.attention(x, packing, visible, first_only)  # (M, C)
        if asked is not None:
            x = self.crossattention(x, *asked, maps)
        return self.output(self.intermediate(x), x)


class _Embeddings(nn.Module):
    """Word and position embeddings; BLIP's BERT has no token types."""

    def __init__(self, vocab_size: int, width: int, max_positions: int, dropout: float) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(vocab_size, width, padding_idx=0)
        self.position_embeddings = nn.Embedding(max_positions, width)
        self.LayerNorm = nn.LayerNorm(width, eps=1e-12)
        self.dropout = nn.Dropout(dropout)
        # not used, but released checkpoints contain it
        self.register_buffer("position_ids", torch.arange(max_positions)[None])

    def forward(self, input_ids: Tensor) -> Tensor:
        words = self.word_embeddings(input_ids)  # (P, T, C)
        positions = self.position_embeddings.weight[: input_ids.shape[1]]
        return self.dropout(self.LayerNorm(words + positions))


class _Encoder(nn.Module):
    def __init__(self, depth: int, *layer: object) -> None:
        super().__init__()
        self.layer = nn.ModuleList(CrossModalLayer(*layer) for _ in range(depth))


@MODELS.register_module()
class CrossModalBert(nn.Module):
    """Text encoder and fusion decoder with one set of weights.

    Args:
        vocab_size: number of word pieces, ``[DEC]`` and ``[ENC]`` included.
        width, depth, heads: of the transformer; the feed-forward is four times ``width``.
        image_width: width of the image tokens.
        max_positions: longest text in tokens.
        dropout: of embeddings, attention weights and block outputs.
        cross_attention: False leaves a plain text encoder.
        checkpointing: recompute the activations of each layer in the backward pass, which takes less memory and about a
            third more time.
    """

    def __init__(
        self,
        vocab_size: int = 30524,
        width: int = 768,
        depth: int = 12,
        heads: int = 12,
        image_width: int = 768,
        max_positions: int = 512,
        dropout: float = 0.1,
        cross_attention: bool = True,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        if width % heads:
            raise ConfigError(f"width={width} is not a multiple of heads={heads}")
        self.width, self.heads, self.max_positions, self.vocab_size = width, heads, max_positions, vocab_size
        self.checkpointing = checkpointing
        self.padded = False  # True: no shape depends on the data, as an exported graph needs; same results, slower
        self.embeddings = _Embeddings(vocab_size, width, max_positions, dropout)
        self.encoder = _Encoder(depth, width, heads, dropout, image_width, cross_attention)
        self.apply(init_bert_weights)

    def image_memory(self, image_tokens: Tensor) -> ImageMemory:
        """Image tokens (I, S, C_image) -> their keys and values for every layer."""
        pairs = [layer.crossattention.memory(image_tokens) for layer in self.encoder.layer]
        return ImageMemory([key for key, _ in pairs], [value for _, value in pairs])

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        memory: ImageMemory | None = None,
        images: Tensor | None = None,
        causal: bool = False,
        first_only: bool = False,
        compute_padding: bool = False,
        maps: list[Tensor] | None = None,
        places: Tensor | None = None,
    ) -> Tensor:
        """Hidden states (P, T, C) of texts, fused with images where ``memory`` is given.

        Args:
            input_ids: (P, T) long.
            attention_mask: (P, T) bool, True for real tokens; only they are attended to.
            memory: of I images; without it the texts are encoded alone.
            images: (P,) long, the image that each text attends to. None: text p attends to image p; if memory
                holds one image, all texts attend to it. The queries of each image are padded to the image with the most
                query tokens, so that time grows if one image has far more texts than the others.
            causal: each token attends to itself and the tokens before it.
            first_only: return the first token alone, (P, 1, C); the last layer then computes nothing else.
            compute_padding: compute the states of padding too, which ``PositionGroups`` average; otherwise they are 0.
            maps: a list that receives the cross-attention weights of each layer: (P, H, T, S), or with a single image
                (1, H, M, S) over the M real tokens. They are part of the graph, so that a state has a gradient with
                respect to them. Not together with ``images``. Slower, as the fused kernel cannot be used.
            places: (M,) long, the places row * T + column of the tokens to compute, at least those that a mask (P, T)
                marks. By default they are looked up in the mask, for which the host waits for a GPU.
        """
        P, T = input_ids.shape
        if self.max_positions < T:
            raise ConfigError(f"a text has {T} tokens, the text encoder only {self.max_positions} positions")
        if memory is not None and images is None and memory.num_images not in (1, P):
            raise ValueError(
                f"{P} texts and {memory.num_images} images: say with images= which of them each text attends to"
            )
        if images is not None and images.shape != (P,):
            raise ValueError(f"images has shape {tuple(images.shape)}: expected ({P},), the image of each text")
        if images is not None and maps is not None:
            raise ValueError("maps are made for one image per text, or one for all: leave images out")
        if self.padded:
            compute_padding = True
            if images is not None:  # keys and values are copied for every text
                memory, images = memory.select(images), None
        runs = None
        if compute_padding:
            places = None
        elif places is None:
            places = places_of(attention_mask)
            in_training = self.training or torch.is_grad_enabled()
            if not (in_training or causal or maps is not None) and _has_runs(attention_mask, first_only):
                places, runs = Runs.sort(places, T)
        packing = Packing(P, T, places)
        firsts = packing.firsts() if runs is None else Packing(P, 1, runs.texts)
        mask = _visible_tokens(attention_mask, causal) if runs is None else None
        x = packing.pack(self.embeddings(input_ids))  # (M, C)
        last = len(self.encoder.layer) - 1
        asking = None if memory is None else _by_image(packing, memory.num_images, images)
        for i, layer in enumerate(self.encoder.layer):
            first = first_only and i == last
            if first and memory is not None:
                asking = _by_image(firsts, memory.num_images, images)
            asked = None if memory is None else (asking, memory.keys[i], memory.values[i])
            visible = runs or (mask[:, :, :1] if first else mask)
            arguments = (x, packing, visible, asked, first, maps)
            if self.checkpointing and self.training:
                x = checkpoint(layer, *arguments, use_reentrant=False)
            else:
                x = layer(*arguments)
        return (firsts if first_only else packing).unpack(x)


def _visible_tokens(attention_mask: Tensor, causal: bool) -> Tensor:
    """Which tokens (columns) a token (row) attends to: bool (P, 1, T or 1, T)."""
    visible = attention_mask[:, None, None, :]  # (P, 1, 1, T)
    if causal:
        T = attention_mask.shape[1]
        visible = visible & torch.ones(T, T, dtype=torch.bool, device=visible.device).tril()
    return visible


def counting_is_free(mask: Tensor) -> bool:
    """Whether the host can count the tokens that a mask marks without waiting for a device. Fake tensors have no
    values, so nothing can be counted in them."""
    return mask.device.type == "cpu" and not isinstance(mask, FakeTensor)


def _has_runs(mask: Tensor, first_only: bool) -> bool:
    """Whether the host can sort texts by length, and every text has the token that is asked for."""
    return counting_is_free(mask) and bool(mask.any() and (not first_only or mask[:, 0].all()))


def places_of(where: Tensor) -> Tensor:
    """Where a mask (P, T) is True, as places row * T + column (M,). The host waits for the device to count them."""
    return where.flatten().nonzero().squeeze(1)


def moved_places(places: Tensor, width: int, wider: int) -> Tensor:
    """Places in texts of ``width`` tokens, as places in the same texts padded to ``wider`` tokens."""
    return places.div(width, rounding_mode="floor") * wider + places % width


def masked_places(inputs: dict) -> Tensor:
    """Places row * T + column (M,) of the masked tokens of a training batch."""
    known = inputs.get("masked_places")
    return places_of(inputs["masked_positions"]) if known is None else known


def _by_image(packing: Packing, count: int, images: Tensor | None) -> Packing:
    """The layout of the same tokens with the ``count`` images as rows, in place of the texts."""
    if count == 1:
        return Packing(1, packing.R * packing.L if packing.index is None else len(packing.index), None)
    if images is None:
        return packing
    return Packing.of_rows(images[packing.rows(images.device)], count)


def init_bert_weights(module: nn.Module) -> None:
    """BERT's initialisation: normal with deviation 0.02, zero biases and padding row."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
    if isinstance(module, nn.Embedding) and module.padding_idx is not None:
        nn.init.zeros_(module.weight.data[module.padding_idx])
