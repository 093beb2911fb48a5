"""The fusion decoder of transformers, on the weights of ours: BLIP's, on which the released code of CADA is built too.
A second implementation to hold the plain path against, where the released code itself is not at hand."""

from torch import Tensor
from transformers import BlipTextConfig, BlipTextModel

from cada_plugin.benchmark.speed.plain_path import PlainPath
from cada_plugin.export.hf_blip import hf_text_config
from cada_plugin.models import CADA, CrossModalBert


class BlipPath(PlainPath):
    """Re-ranks as the plain path does, one caption at a time and with all padding, but with transformers'
    ``BlipTextModel``."""

    def __init__(self, model: CADA) -> None:
        super().__init__(model)
        config = BlipTextConfig(**hf_text_config(model.text_encoder), is_decoder=True)
        self.blip = BlipTextModel(config, add_pooling_layer=False)
        own = model.text_encoder.state_dict()
        shared = {name: own[name] for name in self.blip.state_dict()}
        self.blip.load_state_dict(shared, assign=True)

    def bert(
        self, bert: CrossModalBert, ids: Tensor, mask: Tensor, image_tokens: Tensor | None = None, causal: bool = False
    ) -> Tensor:
        return self.blip(ids, mask.long(), encoder_hidden_states=image_tokens, is_decoder=causal).last_hidden_state
