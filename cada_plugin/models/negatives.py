"""Which wrong partner a pair is matched against: the hardest one of the batch, or one drawn by similarity."""

import torch
from torch import Tensor

from cada_plugin.errors import ConfigError

STRATEGIES = ("hardest", "drawn")


@torch.no_grad()
def choose_negatives(similarity: Tensor, same: Tensor, strategy: str = "hardest", temperature: float = 0.0) -> Tensor:
    """One negative column for every row.

    Args:
        similarity: (B, B_all). ``hardest`` takes its largest allowed entry, ``drawn`` draws from
            softmax(temperature * similarity): 0 is uniform, large values approach ``hardest``.
        same: (B, B_all) bool, True where the column shows the row's own person; never chosen.

    Returns:
        (B,) long.
    """
    if strategy not in STRATEGIES:
        raise ConfigError(f"negatives strategy={strategy!r}: use one of {', '.join(STRATEGIES)}")
    allowed = similarity.float().masked_fill(same, -torch.inf)
    if strategy == "hardest":
        return allowed.argmax(1)
    weights = (temperature * similarity.float()).masked_fill(same, -torch.inf).softmax(1)
    # a model that has diverged chooses anything: its loss says so, where multinomial would end the process on a GPU
    return torch.multinomial(weights.nan_to_num(nan=1.0), 1).squeeze(1)
