"""The images of our data sets as image data sets of torchreid, for its models, engines and samplers.

    from cada_plugin.integrations.torchreid import register

    register()
    datamanager = torchreid.data.ImageDataManager(root='data', sources='procedural_pedes', height=128, width=64)

Captions stay behind: torchreid's world is image to image. Queries are the first image of each test person, the gallery
is every other one; the two get cameras of their own, because torchreid drops gallery images of the query's camera.
"""

from collections.abc import Sequence
from pathlib import Path

from cada_plugin.compat import import_torchreid
from cada_plugin.datasets import CUHKPEDES, ICFGPEDES, ProceduralPEDES, RSTPReid, TextPersonDataset

# What is drawn for 'procedural_pedes' where its folder is missing.
PROCEDURAL_BUILD = {"seed": 1, "identities": {"train": 1200, "val": 100, "test": 400}, "images_per_identity": 3}

_DATASETS: dict[str, tuple[type[TextPersonDataset], str, dict]] = {
    "cuhk_pedes": (CUHKPEDES, "CUHK-PEDES", {}),
    "icfg_pedes": (ICFGPEDES, "ICFG-PEDES", {}),
    "rstpreid": (RSTPReid, "RSTPReid", {}),
    "procedural_pedes": (ProceduralPEDES, "procedural_pedes", {"build": PROCEDURAL_BUILD}),
}

Entry = tuple[str, int, int]  # image path, person, camera


def register() -> list[str]:
    """Register ``cuhk_pedes``, ``icfg_pedes``, ``rstpreid`` and ``procedural_pedes`` with torchreid; a second call
    changes nothing. Works with both layouts of torchreid.

    A data set is looked for in ``<root>/<its folder>`` (``CUHK-PEDES``, ``ICFG-PEDES``, ``RSTPReid``,
    ``procedural_pedes``), where ``root`` is the data manager's.

    Returns:
        The names.

    Raises:
        MissingExtraError: torchreid cannot be imported.
    """
    torchreid = import_torchreid()
    for name, (dataset, folder, arguments) in _DATASETS.items():
        ours = _image_dataset(torchreid.data.ImageDataset, name, dataset, folder, arguments)
        try:
            torchreid.data.register_image_dataset(name, ours)
        except ValueError:  # its only error: the name is taken, by an earlier call of ours
            continue
    return list(_DATASETS)


def _image_dataset(base: type, name: str, dataset: type[TextPersonDataset], folder: str, arguments: dict) -> type:
    """A torchreid ``ImageDataset`` class of one of our data sets."""

    def __init__(self: object, root: str = "", **kwargs: object) -> None:
        data_root = Path(root).expanduser() / folder
        splits = [
            dataset(data_root=str(data_root), split=s, test_mode=True, **arguments).records for s in ("train", "test")
        ]
        train, query, gallery = torchreid_lists(*splits)
        base.__init__(self, train, query, gallery, **kwargs)

    doc = f"Images of {dataset.NAME} for torchreid."
    return type(name, (base,), {"__init__": __init__, "__doc__": doc, "dataset_dir": folder})


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
