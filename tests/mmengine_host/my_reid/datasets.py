from pathlib import Path

from mmengine.dataset import BaseDataset

from .registry import DATASETS


@DATASETS.register_module()
class ShopWindow(BaseDataset):
    """``people.txt`` beside the pictures: one line ``file;person;caption`` for each caption."""

    def load_data_list(self) -> list[dict]:
        folder = Path(self.data_root)
        rows = [line.split(";") for line in (folder / "people.txt").read_text().splitlines()]
        if not self.test_mode:
            return [
                {"img_path": str(folder / file), "person_id": int(person), "caption": caption}
                for file, person, caption in rows
            ]
        pictures = {}
        for file, person, caption in rows:
            item = {"img_path": str(folder / file), "person_id": int(person), "captions": []}
            pictures.setdefault(file, item)["captions"].append(caption)
        return list(pictures.values())
