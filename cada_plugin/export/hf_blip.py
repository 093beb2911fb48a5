"""CADA or BLIP as a folder that ``transformers.BlipForImageTextRetrieval.from_pretrained`` opens.

The folder has that model's config and weights, the tokenizer, and an image processor with the size, mean and standard
deviation of ours. What that model has no part for is dropped: the match heads of groups and of phrases, and the
attribute decoder. It puts no ``[ENC]`` in place of the first token: a program that wants the match logits of ours has
to.
"""

from pathlib import Path

from cada_plugin.checkpoints import to_hf_blip, write_weights
from cada_plugin.errors import CheckpointError, ConfigError
from cada_plugin.export.folder import Trained
from cada_plugin.models.cross_modal import CrossModalBert
from cada_plugin.models.encoders import ViTEncoder
from cada_plugin.models.fusion import FusionRetriever


def write_hf_blip_folder(trained: Trained, folder: Path) -> list[str]:
    """Write the folder of ``cada export --format hf-blip`` into an empty ``folder``, and return the names of the
    tensors that are left out.

    Raises:
        ConfigError: the model is no CADA or BLIP.
        CheckpointError: Hugging Face's BLIP has no place for its image encoder: images are not square, or it has a
            convolutional stem.
    """
    from transformers import BlipConfig, BlipImageProcessor

    model = trained.model
    if not isinstance(model, FusionRetriever) or not isinstance(model.visual_encoder, ViTEncoder):
        raise ConfigError(
            f"{type(model).__name__} is no CADA or BLIP with a ViT, so Hugging Face's BLIP cannot hold it: use "
            "--format folder, onnx or torch-export"
        )
    vision, text = model.visual_encoder, model.text_encoder
    height, width = vision.patch_embed.img_size
    if height != width:
        raise CheckpointError(
            f"the images of this model are {height}x{width} pixels, and Hugging Face's BLIP takes square ones only: "
            "use --format folder, onnx or torch-export"
        )
    conversion = to_hf_blip(model.state_dict())
    config = BlipConfig(
        vision_config={
            "hidden_size": vision.width,
            "intermediate_size": 4 * vision.width,
            "num_hidden_layers": len(vision.blocks),
            "num_attention_heads": vision.blocks[0].attn.num_heads,
            "image_size": height,
            "patch_size": vision.patch_embed.patch_size[0],
            "layer_norm_eps": vision.norm.eps,
        },
        text_config=hf_text_config(text)
        | {"bos_token_id": model.tokenizer.enc_id, "sep_token_id": model.tokenizer.end_id},
        image_text_hidden_size=model.vision_proj.out_features,
        architectures=["BlipForImageTextRetrieval"],
    )
    config.save_pretrained(folder)
    write_weights(conversion.state, folder / "model.safetensors")
    model.tokenizer.save(folder)
    mean, std = (buffer.flatten() / 255 for buffer in (model.data_preprocessor.mean, model.data_preprocessor.std))
    BlipImageProcessor(
        size={"height": height, "width": height}, resample=2, image_mean=mean.tolist(), image_std=std.tolist()
    ).save_pretrained(folder)
    return conversion.dropped


def hf_text_config(text: CrossModalBert) -> dict[str, int]:
    """The arguments of ``transformers.BlipTextConfig`` for a text encoder of ours."""
    return {
        "vocab_size": text.vocab_size,
        "hidden_size": text.width,
        "intermediate_size": 4 * text.width,
        "num_hidden_layers": len(text.encoder.layer),
        "num_attention_heads": text.encoder.layer[0].attention.heads,
        "max_position_embeddings": text.max_positions,
        "encoder_hidden_size": text.encoder.layer[0].crossattention.self.key.in_features,
    }
