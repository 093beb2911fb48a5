"""Parameter names of OpenAI's CLIP, and of the person retrieval models that are built on it, as those of our models.

OpenAI's file, OpenCLIP's and person pre-training name their parts ``visual.*`` and ``transformer.*``. The published
IRRA and RDE hold the same below ``base_model.`` and add parts of their own, which become those of our ``IRRA`` and
``RDE``. Our encoders have the names of transformers' CLIP. The names were looked up in the public model classes
(openai/CLIP, anosorae/IRRA, QinYang79/RDE); the person pre-training of LUPerson-MLLM, HAM and GA-DMS has those of IRRA.
"""

import re
from collections.abc import Iterable

from torch import Tensor

from cada_plugin.errors import CheckpointError

_PREFIX = re.compile(r"^base_model\.")
_SIGNS = {"visual.conv1.weight", "token_embedding.weight"}
_IMAGE, _TEXT = "visual_encoder.model.", "text_encoder.model."
_PARTS = (  # OpenAI, ours
    ("visual.conv1.", _IMAGE + "embeddings.patch_embedding."),
    ("visual.class_embedding", _IMAGE + "embeddings.class_embedding"),
    ("visual.ln_pre.", _IMAGE + "pre_layrnorm."),
    ("visual.ln_post.", _IMAGE + "post_layernorm."),
    ("visual.transformer.resblocks.", _IMAGE + "encoder.layers."),
    ("transformer.resblocks.", _TEXT + "encoder.layers."),
    ("token_embedding.", _TEXT + "embeddings.token_embedding."),
    ("positional_embedding", _TEXT + "embeddings.position_embedding.weight"),
    ("ln_final.", _TEXT + "final_layer_norm."),
    ("logit_scale", "loss_itc.logit_scale"),
    # IRRA
    ("classifier.", "loss_id.classifier."),
    ("cross_attn.", "reasoning.cross_attention."),
    ("ln_pre_t.", "reasoning.norm_text."),
    ("ln_pre_i.", "reasoning.norm_image."),
    ("ln_post.", "reasoning.norm."),
    ("cross_modal_transformer.resblocks.", "reasoning.layers."),
    ("mlm_head.dense.", "reasoning.head.0."),
    ("mlm_head.ln.", "reasoning.head.2."),
    ("mlm_head.fc.", "reasoning.head.3."),
    # RDE
    ("visul_emb_layer.fc.", "image_selection.linear."),
    ("texual_emb_layer.linear.", "text_selection.linear."),
    ("visul_emb_layer.mlp.", "image_selection.mlp."),
    ("texual_emb_layer.mlp.", "text_selection.mlp."),
)
_LAYER = {  # within a transformer layer of the encoders
    ".attn.out_proj.": ".self_attn.out_proj.",
    ".ln_1.": ".layer_norm1.",
    ".ln_2.": ".layer_norm2.",
    ".mlp.c_fc.": ".mlp.fc1.",
    ".mlp.c_proj.": ".mlp.fc2.",
}
_REASONING = {  # of IRRA's relation reasoning, which is torch's own transformer layer in our model
    ".attn.": ".self_attn.",
    ".ln_1.": ".norm1.",
    ".ln_2.": ".norm2.",
    ".mlp.c_fc.": ".linear1.",
    ".mlp.c_proj.": ".linear2.",
}
_SELECTION = {".mlp.layers.0.": ".mlp.0.", ".mlp.bns.0.": ".mlp.1.", ".mlp.layers.1.": ".mlp.3."}
_JOINT = re.compile(r"(.*)\.attn\.in_proj_(weight|bias)$")
_UNUSED = re.compile(
    # sizes that OpenAI's file has beside its weights, and layers of RDE that its forward pass never calls
    r"(input_resolution|context_length|vocab_size)$|visul_emb_layer\.linear\.|(visul|texual)_emb_layer\.mlp\.bns\.1\."
)


def is_openai_clip(names: Iterable[str]) -> bool:
    """Whether parameters have the names of OpenAI's CLIP."""
    return {_PREFIX.sub("", name) for name in names} >= _SIGNS


def from_openai_clip(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """The weights under our names, and the names of those that were dropped.

    The joint projection of queries, keys and values becomes three, and the two projections to the common space, which
    CLIP multiplies from the right, are transposed.

    Raises:
        CheckpointError: a joint projection is no stack of three, or a projection no matrix.
    """
    renamed: dict[str, Tensor] = {}
    dropped = []
    for source, tensor in state.items():
        name = _PREFIX.sub("", source)
        joint = _JOINT.match(name)
        if _UNUSED.match(name):
            dropped.append(source)
        elif name in ("visual.proj", "text_projection"):
            if tensor.ndim != 2:
                raise CheckpointError(
                    f"{source} has shape {tuple(tensor.shape)}, expected a matrix: the file is damaged"
                )
            renamed["vision_proj.weight" if name == "visual.proj" else "text_proj.weight"] = tensor.T
        elif name == "visual.positional_embedding":
            renamed["visual_encoder.pos_embed"] = tensor[None]
        elif joint and not name.startswith("cross_modal_transformer."):
            layer, kind = _new_name(joint[1] + "."), joint[2]
            if tensor.ndim == 0 or len(tensor) % 3:
                raise CheckpointError(
                    f"{source} has shape {tuple(tensor.shape)}, expected a stack of three: the file is damaged"
                )
            for letter, part in zip("qkv", tensor.chunk(3), strict=True):
                renamed[f"{layer}self_attn.{letter}_proj.{kind}"] = part
        else:
            renamed[_new_name(name)] = tensor
    return renamed, dropped


def _new_name(name: str) -> str:
    for theirs, ours in _PARTS:
        if name.startswith(theirs):
            name = ours + name.removeprefix(theirs)
            inner = _REASONING if ours.startswith("reasoning.") else _SELECTION if "_selection." in ours else _LAYER
            for old, new in inner.items():
                name = name.replace(old, new)
            return name
    return name
