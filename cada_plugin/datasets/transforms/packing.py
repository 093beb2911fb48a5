"""The last transform of a pipeline: packs tensors for the model and a data sample for the metric."""

import torch

from cada_plugin.registry import TRANSFORMS
from cada_plugin.structures import PersonDataSample

_META = ("sample_index", "person_id", "label", "image_id", "img_path", "camera_id", "slices")
_PER_TOKEN = {
    "masked_ids": torch.long,
    "masked_positions": torch.bool,
    "phrase_index": torch.long,
    "false_ids": torch.long,
}


@TRANSFORMS.register_module()
class PackPersonInputs:
    """Item -> ``{'inputs': {'image', 'input_ids': [one tensor per caption], ...}, 'data_samples': PersonDataSample}``.

    A data set of another package must give the fields ``person_id`` and ``img_path``; the other fields of the sample
    are optional. If ``sample_index`` is absent, MMEngine's ``sample_idx`` takes its place.
    """

    def __call__(self, item: dict) -> dict:
        inputs = {"image": item["image"], "input_ids": [torch.tensor(e.input_ids) for e in item["encoded"]]}
        inputs.update({k: torch.tensor(item[k], dtype=dtype) for k, dtype in _PER_TOKEN.items() if k in item})
        if "said_phrases" in item:
            inputs.update({key: item[key] for key in ("said_phrases", "known")})
        item = {"sample_index": item.get("sample_idx"), **item}
        captions = item["captions"] if "captions" in item else [item["caption"]]
        meta = {"captions": captions, **{key: item[key] for key in _META if key in item}}
        return {"inputs": inputs, "data_samples": PersonDataSample(metainfo=meta)}
