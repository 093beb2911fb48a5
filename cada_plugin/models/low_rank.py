"""LoRA (Hu et al., "LoRA: Low-rank adaptation of large language models", ICLR 2022), through ``peft``.

The weights of the encoders stay as they are, and each of their linear layers learns the product of two thin matrices
that is added to it. The optimiser then keeps states for a hundredth of the parameters.
"""

from collections.abc import Sequence

from torch import nn

from cada_plugin.errors import ConfigError, needs_extra


def add_low_rank(encoders: Sequence[nn.Module], rank: int, alpha: float | None = None) -> None:
    """Freeze encoders and give all their linear layers low-rank updates, in place.

    The weight of a layer ``x`` is called ``x.base_layer.weight`` afterwards. Checkpoints of the model without
    updates load all the same.

    Args:
        rank: of the updates.
        alpha: an update counts alpha / rank times; by default as often as the rank, that is once.

    Raises:
        ConfigError: the rank is no integer from 1, or alpha not above 0.
        MissingExtraError: ``peft`` is not installed.
    """
    if not isinstance(rank, int) or isinstance(rank, bool) or rank < 1:
        raise ConfigError(f"lora rank={rank!r}: use an integer from 1")
    if alpha is not None and not alpha > 0:
        raise ConfigError(f"lora alpha={alpha!r}: use a number above 0")
    with needs_extra("lora"):
        from peft import LoraConfig, inject_adapter_in_model
    for encoder in encoders:
        linear = [name for name, module in encoder.named_modules() if isinstance(module, nn.Linear)]
        # the output matrix of the attribute decoder is its word embedding, which stays as it is
        linear = [name for name in linear if not name.startswith("cls.")]
        config = LoraConfig(r=rank, lora_alpha=rank if alpha is None else alpha, target_modules=linear, bias="none")
        inject_adapter_in_model(config, encoder)
