"""The images of our data sets as image data sets of torchreid, for its models, engines and samplers.

    from cada_plugin.integrations.torchreid import register

    register()
    datamanager = torchreid.data.ImageDataManager(root='data', sources='procedural_pedes', height=128, width=64)

Captions stay behind: torchreid's world is image to image. Queries are the first image of each test person, the gallery
is every other one; the two get cameras of their own, because torchreid drops gallery images of the query's camera.
"""

import contextlib
from collections.abc import Sequence
from pathlib import Path

from cada_plugin.compat import import_torchreid
from cada_plugin.datasets import TextPersonDataset
from cada_plugin.datasets.catalogue import data_sets
from cada_plugin.engine.config import read_config
from cada_plugin.registry import DATASETS, build_part

Entry = tuple[str, int, int]  # image path, person, camera


def register() -> list[str]:
    """Register every data set that has a ``TORCHREID_NAME`` with torchreid, such as ``cuhk_pedes``; a second call
    registers what was added since. Works with both layouts of torchreid.

    A data set is looked for in ``<root>/<its folder>``, where ``root`` is the data manager's and the folder is the last
    part of ``data_root`` in the data set's config: ``CUHK-PEDES``, ``procedural_pedes``.

    Returns:
        The names.

    Raises:
        MissingExtraError: torchreid cannot be imported.
    """
    torchreid = import_torchreid()
    ours = {cls.TORCHREID_NAME: cls for cls in data_sets().values() if cls.TORCHREID_NAME}
    for name, dataset in ours.items():
        # its only error: the name is taken, by an earlier call of ours
        with contextlib.suppress(ValueError):
            torchreid.data.register_image_dataset(name, _image_dataset(torchreid.data.ImageDataset, dataset))
    return list(ours)


def _image_dataset(base: type, dataset: type[TextPersonDataset]) -> type:
    """A torchreid ``ImageDataset`` class of one of our data sets."""

    def __init__(self: object, root: str = "", **kwargs: object) -> None:
        # from its config, which knows the folder and, say, how many people are drawn; images need no pipeline
        arguments = read_config(dataset.CONFIG).train_dataloader.dataset.to_dict() | {"pipeline": [], "test_mode": True}
        self.dataset_dir = Path(arguments["data_root"]).name
        arguments["data_root"] = str(Path(root).expanduser() / self.dataset_dir)
        splits = [build_part(DATASETS, arguments | {"split": split}).records for split in ("train", "test")]
        train, query, gallery = torchreid_lists(*splits)
        base.__init__(self, train, query, gallery, **kwargs)

    doc = f"Images of {dataset.NAME} for torchreid."
    return type(dataset.TORCHREID_NAME, (base,), {"__init__": __init__, "__doc__": doc})


def torchreid_lists(
    train_records: Sequence[dict], test_records: Sequence[dict]
) -> tuple[list[Entry], list[Entry], list[Entry]]:
    """Train, query and gallery lists of (image path, person, camera).

    Train people are renumbered from 0, as torchreid's classifiers need. People of one image in the test split can
    answer no query and are in the gallery only.
    """
    label = {person: i for i, person in enumerate(sorted({r["person_id"] for r in train_records}))}
    train = [(r["img_path"], label[r["person_id"]], r["camera_id"] or 0) for r in train_records]
    images: dict[int, list[str]] = {}
    for record in test_records:
        images.setdefault(record["person_id"], []).append(record["img_path"])
    query = [(paths[0], person, 0) for person, paths in images.items() if len(paths) > 1]
    gallery = [
        (path, person, 1) for person, paths in images.items() for path in (paths[1:] if len(paths) > 1 else paths)
    ]
    return train, query, gallery
