"""Registers the images of our data sets as torchreid image data sets, for torchreid's models, engines and samplers.

    from cada_plugin.integrations.torchreid import register

    register()
    datamanager = torchreid.data.ImageDataManager(root='data', sources='procedural_pedes', height=128, width=64)

Captions are not passed on, because torchreid retrieves images by images. The query of each test person is that person's
first image; all others are the gallery. Query and gallery get different camera numbers, because torchreid drops gallery
images of the query's person and camera.
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
    """Register every data set that has a ``TORCHREID_NAME``, such as ``cuhk_pedes``, with torchreid.

    A second call registers the data sets added since. Both package layouts of torchreid work. The files of a data set
    are expected in ``<root>/<folder>``: ``root`` is that of the data manager, and the folder is the last part of
    ``data_root`` in the data set's config, such as ``CUHK-PEDES`` or ``procedural_pedes``.

    Returns:
        The registered names, including those of earlier calls.

    Raises:
        MissingExtraError: torchreid cannot be imported.
    """
    torchreid = import_torchreid()
    ours = {cls.TORCHREID_NAME: cls for cls in data_sets().values() if cls.TORCHREID_NAME}
    for name, dataset in ours.items():
        # raised only if the name is registered already, that is by an earlier call
        with contextlib.suppress(ValueError):
            torchreid.data.register_image_dataset(name, _image_dataset(torchreid.data.ImageDataset, dataset))
    return list(ours)


def _image_dataset(base: type, dataset: type[TextPersonDataset]) -> type:
    """A torchreid ``ImageDataset`` class for one of our data sets."""

    def __init__(self: object, root: str = "", **kwargs: object) -> None:
        # The config has the folder and other arguments, such as the number of procedural people to render. The pipeline
        # is dropped, because torchreid loads the images itself.
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

    Training people are renumbered from 0, as torchreid's classifiers need. A test person with a single image cannot be
    a query, because no relevant image would be left, and is in the gallery only.
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
