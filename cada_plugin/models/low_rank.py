"""LoRA (Hu et al., "LoRA: Low-rank adaptation of large language models", ICLR 2022), through ``peft``.

The weights of the encoders stay as they are, and each of their linear layers learns the product of two thin matrices
that is added to it. With rank 16 the optimiser then keeps states for 3 % of CADA's parameters.
"""

from collections.abc import Mapping, Sequence

from torch import nn

from cada_plugin.errors import ConfigError, needs_extra


def add_low_rank(encoders: Sequence[nn.Module], lora: Mapping[str, float]) -> None:
    """Freeze encoders and give all their linear layers low-rank updates, in place.

    Updates are zero at first, so that the model starts as the one without them. The weight of a layer ``x`` is called
    ``x.base_layer.weight`` afterwards; checkpoints of the model without updates load all the same. The attribute
    decoder's vocabulary head (``cls``) has no updates: its small parts are trained as they are, and its output matrix,
    which is the word embedding, stays.

    Args:
        encoders: modules with linear layers.
        lora: ``rank`` of the updates, and optionally ``alpha``: an update counts alpha / rank times, by default once.

    Raises:
        ConfigError: the rank is no integer from 1, alpha not above 0, or there is something else.
        MissingExtraError: ``peft`` is not installed.
    """
    if not isinstance(lora, Mapping) or not {"rank"} <= lora.keys() <= {"rank", "alpha"}:
        raise ConfigError(f"lora={lora!r}: use dict(rank=16), with alpha=... if updates are to count more or less")
    rank, alpha = lora["rank"], lora.get("alpha", lora["rank"])
    if not isinstance(rank, int) or isinstance(rank, bool) or rank < 1:
        raise ConfigError(f"lora rank={rank!r}: use an integer from 1")
    if not isinstance(alpha, int | float) or not alpha > 0:
        raise ConfigError(f"lora alpha={alpha!r}: use a number above 0")
    with needs_extra("lora"):
        from peft import LoraConfig, inject_adapter_in_model
    for encoder in encoders:
        linear = [name for name, module in encoder.named_modules() if isinstance(module, nn.Linear)]
        linear = [name for name in linear if not name.startswith("cls.")]
        config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=linear, bias="none")
        inject_adapter_in_model(config, encoder)
        encoder.is_init = True  # else MMEngine would let timm's encoder initialise the updates, as any linear layer
        for name, parameter in encoder.named_parameters():
            if name.startswith("cls.predictions.transform.") or name == "cls.predictions.bias":
                parameter.requires_grad_(True)
