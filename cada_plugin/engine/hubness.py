"""Hubness subtracted in an evaluation, see :mod:`cada_plugin.portable.hubness`.

The corrected score cos(t, i) - w h(i) is an inner product as well: of (t, 1) and (i, -w h(i)). With embeddings of one
more number, shortlist, re-ranking and metrics work as they are.
"""

import torch
from mmengine.config import ConfigDict
from mmengine.dist import get_rank, get_world_size
from torch import Tensor

from cada_plugin.datasets import TextPersonDataset
from cada_plugin.engine.encoded_items import encode_captions, gather_rows
from cada_plugin.errors import ConfigError
from cada_plugin.models.retriever import TextImageRetriever
from cada_plugin.portable.hubness import NEIGHBOURS, WEIGHT, bank_of, hubness
from cada_plugin.registry import DATASETS


class HubnessCorrection:
    """Subtracts ``weight`` times the hubness of each image among the training captions.

    Args:
        train_dataset: config of the data set whose captions are the bank; None if there is none.
        weight: alpha of nearest neighbour normalisation.
        neighbours: its k.

    Raises:
        ConfigError: a number is out of range, or there are no training captions.
    """

    def __init__(
        self, train_dataset: dict | None, weight: float = WEIGHT, neighbours: int = NEIGHBOURS, **unknown: object
    ) -> None:
        if unknown:
            raise ConfigError(f"hubness has no {', '.join(unknown)}: it takes weight and neighbours")
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight <= 10:
            raise ConfigError(f"hubness weight={weight!r}: use a number from 0 to 10, such as {WEIGHT}")
        if isinstance(neighbours, bool) or not isinstance(neighbours, int) or neighbours < 1:
            raise ConfigError(f"hubness neighbours={neighbours!r}: use an integer from 1, such as {NEIGHBOURS}")
        self.weight, self.neighbours = weight, neighbours
        self.captions = bank_of(_captions_of(train_dataset))

    def images(self, model: TextImageRetriever, embed: Tensor) -> Tensor:
        """Embeddings (G, D + 1) of images (G, D), the same in all processes. Each encodes its share of the captions."""
        bank = gather_rows(encode_captions(model, self.captions[get_rank() :: get_world_size()]).embed)
        values = hubness(embed.float().cpu().numpy(), bank.float().cpu().numpy(), self.neighbours)
        column = torch.from_numpy(values).to(embed)
        return torch.cat([embed, -self.weight * column[:, None]], 1)

    @staticmethod
    def texts(embed: Tensor) -> Tensor:
        """Embeddings (Q, D + 1) of captions (Q, D)."""
        return torch.cat([embed, embed.new_ones(len(embed), 1)], 1)


def _captions_of(dataset: dict | None) -> list[str]:
    if not isinstance(dataset, dict):
        raise ConfigError("hubness is measured among the training captions: give the config a train_dataloader")
    kind = DATASETS.get(dataset["type"]) if isinstance(dataset.get("type"), str) else dataset.get("type")
    if not isinstance(kind, type) or not issubclass(kind, TextPersonDataset):
        raise ConfigError(
            "hubness needs the training captions of one of the plugin's data sets, and train_dataloader.dataset is of "
            f"type {dataset.get('type')}: leave hubness out"
        )
    built = DATASETS.build(ConfigDict({**dataset, "pipeline": [], "verify_images": False}))  # captions alone are read
    return [caption for record in built.records for caption in record["captions"]]
