"""Groups of text tokens that ATP classifies one by one, beside the whole caption.

A grouping decides to which group each token of a caption belongs; ATP averages the fused states of a group and
classifies each average with ``itm_local_head``. ``PositionGroups`` is the released code's grouping: equal stretches of
the *padded* sequence, padding included. ``TokenGroups`` splits the real tokens evenly. ``PhraseGroups`` keeps attribute
phrases such as "a red coat" together; the text pipeline finds them (``TagAttributes``).

To add a grouping, register a subclass of :class:`Grouping`; the model uses only its methods and attributes.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from cada_plugin.errors import ConfigError
from cada_plugin.registry import MODELS


class Grouping(ABC):
    """Assigns the tokens of captions to groups.

    Attributes:
        needs_padding: the groups include padding, so captions are padded to the tokenizer's ``max_length`` and the
            states of padding are computed as well, which costs time.
        needs_phrases: the groups are made of phrases, so a batch must hold ``phrase_index``.
    """

    needs_padding: bool = False
    needs_phrases: bool = False

    @abstractmethod
    def assign(self, attention_mask: Tensor, phrase_index: Tensor) -> Tensor:
        """Group (P, T) of each token, numbered from 0; -1 for tokens outside all groups.

        Args:
            attention_mask: (P, T) bool, True for real tokens.
            phrase_index: (P, T) long, the phrases of each text numbered from 0, -1 outside of them.
        """

    @abstractmethod
    def count(self, num_tokens: int) -> int:
        """Number of groups that a text of ``num_tokens`` (T, padding included) can have."""

    def means(self, states: Tensor, attention_mask: Tensor, phrase_index: Tensor) -> tuple[Tensor, Tensor]:
        """Mean state (P, G, C) of each group of fused captions (P, T, C), and which groups exist, (P, G) bool."""
        return group_means(states, self.assign(attention_mask, phrase_index), self.count(attention_mask.shape[1]))


@MODELS.register_module()
class PositionGroups(Grouping):
    """The released grouping: ``num_groups`` equal stretches of the padded caption, padding included."""

    needs_padding = True

    def __init__(self, num_groups: int = 2) -> None:
        self.num_groups = _check_number(self, num_groups)

    def assign(self, attention_mask: Tensor, phrase_index: Tensor) -> Tensor:
        return position_groups(attention_mask, self.num_groups)

    def count(self, num_tokens: int) -> int:
        return self.num_groups


@MODELS.register_module()
class TokenGroups(Grouping):
    """``num_groups`` consecutive parts of the real tokens, as equal in length as they can be."""

    def __init__(self, num_groups: int = 2) -> None:
        self.num_groups = _check_number(self, num_groups)

    def assign(self, attention_mask: Tensor, phrase_index: Tensor) -> Tensor:
        return token_groups(attention_mask, self.num_groups)

    def count(self, num_tokens: int) -> int:
        return self.num_groups


@MODELS.register_module()
class PhraseGroups(Grouping):
    """Attribute phrases: each one a group of its own (``num_groups=None``), or all of them in ``num_groups``
    consecutive parts."""

    needs_phrases = True

    def __init__(self, num_groups: int | None = None) -> None:
        self.num_groups = None if num_groups is None else _check_number(self, num_groups)

    def assign(self, attention_mask: Tensor, phrase_index: Tensor) -> Tensor:
        return phrase_index if self.num_groups is None else phrase_groups(phrase_index, self.num_groups)

    def count(self, num_tokens: int) -> int:
        return num_tokens - 2 if self.num_groups is None else self.num_groups  # at most, every word is a phrase


def _check_number(grouping: Grouping, number: object) -> int:
    if not isinstance(number, int) or isinstance(number, bool) or number < 1:
        raise ConfigError(f"{type(grouping).__name__} num_groups={number!r}: use an integer from 1")
    return number


def position_groups(attention_mask: Tensor, num_groups: int) -> Tensor:
    """Equal stretches of positions 1..T-1; positions left over at the end belong to no group."""
    T = attention_mask.shape[1]
    position = torch.arange(T, device=attention_mask.device)
    size = (T - 1) // num_groups
    group = (position - 1).div(max(size, 1), rounding_mode="floor")
    group = group.masked_fill((position == 0) | (group >= num_groups), -1)
    return group.expand(attention_mask.shape)


def token_groups(attention_mask: Tensor, num_groups: int) -> Tensor:
    """Real tokens between ``[CLS]`` and ``[SEP]`` in ``num_groups`` parts whose lengths differ by at most one."""
    lengths = attention_mask.sum(1, keepdim=True) - 2  # (P, 1): without [CLS] and [SEP]
    position = torch.arange(attention_mask.shape[1], device=attention_mask.device)[None]  # (1, T)
    group = ((position - 1) * num_groups).div(lengths.clamp_min(1), rounding_mode="floor")
    return group.masked_fill((position == 0) | (position > lengths), -1)


def phrase_groups(phrase_index: Tensor, num_groups: int) -> Tensor:
    """Whole phrases, in order, in ``num_groups`` parts whose numbers of phrases differ by at most one.

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
