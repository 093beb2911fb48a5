import torch
import torch.nn.functional as F
from torch import nn

from cada_plugin.models import ImageFeatures, TextFeatures, TextImageRetriever
from cada_plugin.text import CaptionTokenizer

from .registry import MODELS


@MODELS.register_module()
class ColourRetriever(TextImageRetriever):
    """Colours of eight stripes of a picture against the bag of a caption's words."""

    def __init__(self, tokenizer: dict, width: int = 16, **kwargs) -> None:
        super().__init__(**kwargs)
        self.tokenizer = CaptionTokenizer(**tokenizer)
        self.stripes = nn.Linear(8 * 3, width)
        self.words = nn.EmbeddingBag(len(self.tokenizer), width, padding_idx=0)

    def encode_image(self, images):
        stripes = F.adaptive_avg_pool2d(images, (8, 1)).flatten(1)
        return ImageFeatures(F.normalize(self.stripes(stripes), dim=-1), None)

    def encode_text(self, input_ids, attention_mask):
        return TextFeatures(F.normalize(self.words(input_ids), dim=-1), input_ids, attention_mask)

    def loss(self, inputs, data_samples):
        image = self.encode_image(inputs["images"]).embed
        text = self.encode_text(inputs["input_ids"], inputs["attention_mask"]).embed
        return {"loss": F.cross_entropy(10 * text @ image.T, torch.arange(len(image), device=image.device))}
