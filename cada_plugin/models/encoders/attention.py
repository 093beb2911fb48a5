"""One row of a layer's attention weights. It is recomputed, because the fused kernel does not return its weights."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def inputs_of(module: nn.Module) -> Iterator[list[Tensor]]:
    """A list that receives the hidden states with which ``module`` is called inside the block."""
    seen: list[Tensor] = []

    def remember(_: nn.Module, args: tuple, kwargs: dict) -> None:
        seen.append((args[0] if args else kwargs["hidden_states"]).detach())

    handle = module.register_forward_pre_hook(remember, with_kwargs=True)
    try:
        yield seen
    finally:
        handle.remove()


@torch.no_grad()
def attention_row(
    states: Tensor,
    asking: Tensor,
    query: Callable[[Tensor], Tensor],
    key: Callable[[Tensor], Tensor],
    heads: int,
    mask: Tensor | None = None,
) -> Tensor:
    """Attention weights (B, T) from one query token of each sequence to all its tokens, averaged over heads, without
    gradient.

    Args:
        states: (B, T, C), the input of the layer's projections.
        asking: (B,) long, position of the query token.
        query, key: the layer's projections.
        mask: (B, T) bool, True where a token may be attended to; None allows all.
    """
    B, T, _ = states.shape
    q = query(states[torch.arange(B, device=states.device), asking]).view(B, heads, 1, -1)
    k = key(states).view(B, T, heads, -1).transpose(1, 2)  # (B, H, T, D)
    logits = (q @ k.transpose(-1, -2)).squeeze(2).float() / q.shape[-1] ** 0.5  # (B, H, T)
    if mask is not None:
        logits = logits.masked_fill(~mask[:, None], -torch.inf)
    return logits.softmax(-1).mean(1)
