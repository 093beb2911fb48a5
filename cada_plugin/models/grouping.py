"""Groups of text tokens that ATP classifies beside the whole caption.

A grouping is a (P, T) long tensor that says to which group a token belongs, -1 for none. ``position`` is the released
code's: equal stretches of the *padded* sequence, padding included. ``tokens`` splits the real tokens evenly.
``phrases`` makes every attribute phrase a group, or deals them out in order to a given number of groups; the text
pipeline finds them.
"""

import torch
from torch import Tensor

GROUPINGS = ("position", "tokens", "phrases")


def position_groups(attention_mask: Tensor, num_groups: int) -> Tensor:
    """Equal stretches of positions 1..T-1; positions left over at the end belong to no group."""
    T = attention_mask.shape[1]
    position = torch.arange(T, device=attention_mask.device)
    size = (T - 1) // num_groups
    group = (position - 1).div(max(size, 1), rounding_mode="floor")
    group = group.masked_fill((position == 0) | (group >= num_groups), -1)
    return group.expand(attention_mask.shape)


def token_groups(attention_mask: Tensor, num_groups: int) -> Tensor:
    """Real tokens between ``[CLS]`` and ``[SEP]`` in ``num_groups`` runs whose lengths differ by at most one."""
    lengths = attention_mask.sum(1, keepdim=True) - 2  # (P, 1): without [CLS] and [SEP]
    position = torch.arange(attention_mask.shape[1], device=attention_mask.device)[None]  # (1, T)
    group = ((position - 1) * num_groups).div(lengths.clamp_min(1), rounding_mode="floor")
    return group.masked_fill((position == 0) | (position > lengths), -1)


def phrase_groups(phrase_index: Tensor, num_groups: int) -> Tensor:
    """Whole phrases, in order, in ``num_groups`` runs whose numbers of phrases differ by at most one.

    ``phrase_index`` (P, T) numbers the phrases of each text from 0, -1 outside of them.
    """
    count = phrase_index.amax(1, keepdim=True) + 1  # (P, 1)
    group = (phrase_index * num_groups).div(count.clamp_min(1), rounding_mode="floor")
    return group.masked_fill(phrase_index < 0, -1)


def group_means(states: Tensor, groups: Tensor, num_groups: int) -> tuple[Tensor, Tensor]:
    """Mean state of each group.

    Args:
        states: (P, T, C).
        groups: (P, T) long, -1 for tokens outside all groups.

    Returns:
        Means (P, G, C), zero for empty groups, and a (P, G) bool mask of the groups that have a token.
    """
    member = groups[:, None, :] == torch.arange(num_groups, device=groups.device)[None, :, None]  # (P, G, T)
    count = member.sum(-1, keepdim=True)  # (P, G, 1)
    means = member.to(states.dtype) @ states / count.clamp_min(1).to(states.dtype)
    return means, count.squeeze(-1) > 0
