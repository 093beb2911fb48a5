"""Image transforms: loading a file, and torchvision's common transforms registered as ``torchvision/<Class>``."""

from functools import partial

from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from cada_plugin.portable.pictures import load_person_image
from cada_plugin.registry import TRANSFORMS


@TRANSFORMS.register_module()
class LoadPersonImage:
    """Decode ``img_path`` into ``image``, an RGB uint8 tensor (3, H, W). Raises ImageError if the file is unusable."""

    def __call__(self, item: dict) -> dict:
        return {**item, "image": functional.pil_to_tensor(load_person_image(item["img_path"]))}


class TorchvisionTransform:
    """Apply a transform of ``torchvision.transforms.v2`` to ``image``. Random ones use torch's generator."""

    def __init__(self, name: str, **kwargs: object) -> None:
        self.transform = getattr(v2, name)(**kwargs)

    def __call__(self, item: dict) -> dict:
        return {**item, "image": self.transform(item["image"])}


for _name in ("Resize", "CenterCrop", "Pad", "RandomCrop", "RandomHorizontalFlip", "RandomErasing", "ColorJitter"):
    TRANSFORMS.register_module(name=f"torchvision/{_name}", module=partial(TorchvisionTransform, _name))
