"""Dual encoders: models that embed images and captions separately and have no matching stage. Base of the baselines
that do not re-rank.

Shape letters: B pairs of this process, A pairs of all processes, Q captions, T text tokens, S image tokens, C width,
D embedding.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cada_plugin.errors import ConfigError
from cada_plugin.models.cross_modal import init_bert_weights
from cada_plugin.models.distributed import gather
from cada_plugin.models.retriever import ImageFeatures, TextFeatures, TextImageRetriever
from cada_plugin.registry import MODELS, TASK_UTILS, build_part


class DualEncoder(TextImageRetriever):
    """An image encoder and a text encoder, each with a linear projection to a common space. Subclasses write ``loss``.

    Args:
        visual_encoder: returns tokens (B, S, C_image), the pooled one first, and has an attribute ``width``, such as
            ``ViTEncoder``, ``CLIPVisionEncoder`` or ``TorchreidEncoder``.
        text_encoder: returns the pooled state (Q, C) and all states (Q, T, C), and has an attribute ``width``, such as
            ``BertTextEncoder``, ``CLIPTextEncoder`` or ``BiLSTMEncoder``. ``vocab_size`` comes from the tokenizer.
        tokenizer: see ``CaptionTokenizer`` and ``CLIPCaptionTokenizer``; the data pipeline must use the same one.
        embed_dim: size D of the common space.
        projection_bias: give the projections a bias. Those of CLIP have none.
        data_preprocessor: see ``PersonDataPreprocessor``.
        init_cfg: ``dict(type='Pretrained', checkpoint=...)`` or None.
    """

    def __init__(
        self,
        visual_encoder: dict,
        text_encoder: dict,
        tokenizer: dict,
        embed_dim: int = 512,
        projection_bias: bool = False,
        data_preprocessor: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(data_preprocessor=data_preprocessor, init_cfg=init_cfg)
        self.tokenizer = build_part(TASK_UTILS, tokenizer)
        self.visual_encoder = build_part(MODELS, visual_encoder)
        self.text_encoder = build_part(MODELS, {"vocab_size": len(self.tokenizer), **text_encoder})
        self.vision_proj = nn.Linear(self.visual_encoder.width, embed_dim, bias=projection_bias)
        self.text_proj = nn.Linear(self.text_encoder.width, embed_dim, bias=projection_bias)
        for head in (self.vision_proj, self.text_proj):
            init_bert_weights(head)
        self.embed_dim = embed_dim

    def encode_image(self, images: Tensor) -> ImageFeatures:
        projected = self.vision_proj(self.visual_encoder(images)[:, 0])
        return ImageFeatures(F.normalize(projected.float(), dim=-1), None)

    def encode_text(self, input_ids: Tensor, attention_mask: Tensor) -> TextFeatures:
        projected = self.text_proj(self.text_encoder(input_ids, attention_mask)[0])
        return TextFeatures(F.normalize(projected.float(), dim=-1), input_ids, attention_mask)

    def project(self, inputs: dict) -> tuple[Tensor, Tensor]:
        """Projections (B, D) of the images and captions of a training batch, not normalised, fp32."""
        image = self.vision_proj(self.visual_encoder(inputs["images"])[:, 0])
        text = self.text_proj(self.text_encoder(inputs["input_ids"], inputs["attention_mask"])[0])
        return image.float(), text.float()


def person_ids(data_samples: list, device: torch.device) -> Tensor:
    """(B,) person ids of a batch."""
    return torch.tensor([sample.person_id for sample in data_samples]).to(device, non_blocking=True)


def class_labels(data_samples: list, num_classes: int, device: torch.device) -> Tensor:
    """(B,) class labels of a batch: the identities, numbered from 0.

    Raises:
        ConfigError: a label is ``num_classes`` or larger.
    """
    labels = torch.tensor([sample.label for sample in data_samples])
    if int(labels.max()) >= num_classes:
        raise ConfigError(
            f"label {int(labels.max())} of a training person, but num_classes={num_classes}: set num_classes to the "
            "number of identities of the training split"
        )
    return labels.to(device, non_blocking=True)


@MODELS.register_module()
class CLIPRetriever(DualEncoder):
    """CLIP fine-tuned with InfoNCE, the field's standard baseline (Radford et al., "Learning transferable visual models
    from natural language supervision", ICML 2021).

    Args:
        loss_itc: see ``InfoNCELoss``.
        encoders: arguments of :class:`DualEncoder`.
    """

    def __init__(self, loss_itc: dict, **encoders: object) -> None:
        super().__init__(**encoders)
        self.loss_itc = build_part(MODELS, loss_itc)

    def loss(self, inputs: dict, data_samples: list) -> dict[str, Tensor]:
        image, text = (F.normalize(gather(x), dim=-1) for x in self.project(inputs))  # (A, D)
        return {"loss_itc": self.loss_itc(image, text, gather(person_ids(data_samples, image.device)))}


@MODELS.register_module()
class CMPMRetriever(DualEncoder):
    """A convolutional network and a bidirectional LSTM, trained with CMPM and CMPC (Zhang and Lu, "Deep cross-modal
    projection learning for image-text matching", ECCV 2018).

    Args:
        num_classes: identities of the training split.
        loss_cmpm: see ``CMPMLoss``.
        loss_cmpc: see ``CMPCLoss``; ``num_classes`` and ``embed_dim`` are filled in.
        encoders: arguments of :class:`DualEncoder`.
    """

    def __init__(self, num_classes: int, loss_cmpm: dict, loss_cmpc: dict, **encoders: object) -> None:
        super().__init__(**encoders)
        self.num_classes = num_classes
        self.loss_cmpm = build_part(MODELS, loss_cmpm)
        self.loss_cmpc = build_part(MODELS, {"num_classes": num_classes, "embed_dim": self.embed_dim, **loss_cmpc})

    def loss(self, inputs: dict, data_samples: list) -> dict[str, Tensor]:
        image, text = self.project(inputs)  # (B, D)
        labels = class_labels(data_samples, self.num_classes, image.device)
        return {
            "loss_cmpm": self.loss_cmpm(gather(image), gather(text), gather(labels)),
            "loss_cmpc": self.loss_cmpc(image, text, labels),  # on the own pairs; DDP averages over processes
        }
