"""Text-to-image person retrieval data: images of people, each with an identity and captions that describe it.

A training item is one (image, caption) pair, the unit that the losses see. An evaluation item is one image with all its
captions: all images together are the gallery, and all captions are the queries. The transforms of ``pipeline`` decode,
augment and tokenise; this class does not.
"""

import hashlib
import operator
import os
import struct
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from mmengine.dataset import BaseDataset
from mmengine.logging import print_log

from cada_plugin.datasets.annotations import Annotation, read_annotations, resolve_image_path, validate_records
from cada_plugin.datasets.images import verify_images
from cada_plugin.datasets.splits import DERIVED_SPLITS, split_people
from cada_plugin.errors import AnnotationError, ConfigError
from cada_plugin.portable.pictures import raise_for_bad_images
from cada_plugin.registry import TRANSFORMS, build_part

__all__ = ["TextPersonDataset", "mix_seed", "read_annotations", "validate_records"]


def mix_seed(seed: int, epoch: int, index: int) -> int:
    """One 64-bit seed hashed from three integers, so that neighbouring epochs and samples get unrelated seeds."""
    digest = hashlib.blake2b(struct.pack("<qqq", seed, epoch, index), digest_size=8).digest()
    return int.from_bytes(digest, "little")


class TextPersonDataset(BaseDataset):
    """Base of all data sets of the plugin. A subclass describes its data set by class attributes.

    Training items hold ``img_path, caption, person_id, label, image_id, camera_id, sample_index``; evaluation
    items hold ``captions`` (a list) instead of ``caption``, and ``slices`` if the annotation has them: for each caption
    the names of the groups of queries that it belongs to, which get metrics of their own. ``label`` is the class number
    ``0..num_ids-1``: the position of the person id among the sorted ids of the split. ``image_id`` is the position of
    the image in the split.

    Augmentation is reproducible: after ``set_epoch`` (``EpochSeedHook`` calls it) a random transform depends only on
    (seed, epoch, sample index), whichever worker or process runs it. To this end torch's CPU generator is seeded from
    the three before the pipeline and restored after it, so transforms must take random numbers from torch only. No
    sample is ever skipped or replaced by another one.

    Args:
        data_root: folder of the data set.
        split: one of ``SPLITS``.
        ann_file: annotation file, absolute or relative to ``data_root``; by default the first of ``ANN_FILES`` that
            exists there.
        image_dir: folder that image paths are relative to, absolute or relative to ``data_root``.
        pipeline: transforms, built ones or configs, each taking and returning an item.
        test_mode: False gives one item per (image, caption), True one per image.
        captions_per_image: keep only the first n captions of each image; None keeps all, as the published
            protocols do; the released CADA keeps two.
        verify_images: decode every image once before the first epoch and raise if any is bad; the result is cached.
        serialize_data: keep the items in one shared byte array, so that workers do not copy them.
        lazy_init: read nothing until ``full_init`` or the first access.

    Raises:
        AnnotationError: the annotation is missing or unusable; the message lists everything that was found.
        ImageError: with ``verify_images``, images are missing or damaged; the message counts all and lists ten.
        ConfigError: an argument is invalid.

    Attributes:
        NAME: the name in messages and papers, such as ``CUHK-PEDES``.
        ALIAS: the short name for ``cada check-data``, such as ``cuhk``.
        CONFIG: the config that trains on this data set: the name of one that ships with the plugin, or the path of a
            file. A yacs file for the data set is translated on top of this config, and the torchreid integration takes
            the folder and the other arguments of the data set from it.
        TORCHREID_NAME: the name for torchreid's data manager and in torchreid-style yacs files; needs a ``CONFIG``.
        ANN_FILES: possible names of the annotation file, the usual one first.
        IMAGE_DIR: folder that image paths are relative to, below the data set's own.
        PATH_KEY: key of the image path in a record.
        SPLITS: names of the splits; None allows any name in the file.
        SPLIT_OPTIONAL: True accepts a file without any split; ``split_people`` then divides its people.
        UNIQUE_IDENTITY: True refuses a file that lists one image with two ids. It is False for the released data sets,
            which are used as published.
        PUBLISHED: ids, images and captions of each split; None for a number that is not published.
        OUTDATED_IDS: numbers of ids per split by which an old release is recognised.
        IMAGE_HINTS: for each top folder of the images, where to get them.
        IMAGES_FROM: the larger data set that the images were taken from.

    ``ALIAS``, ``CONFIG`` and ``TORCHREID_NAME`` identify one class, so subclasses do not inherit them. A data set that
    leaves one of them empty (the default) is not available where that name or config is needed.
    """

    NAME = "a text-person data set"
    ALIAS = ""
    CONFIG = ""
    TORCHREID_NAME = ""
    ANN_FILES: tuple[str, ...] = ()
    IMAGE_DIR = "imgs"
    PATH_KEY = "file_path"
    SPLITS: tuple[str, ...] | None = ("train", "val", "test")
    SPLIT_OPTIONAL = False
    UNIQUE_IDENTITY = False
    PUBLISHED: dict[str, tuple[int | None, int, int]] = {}
    OUTDATED_IDS: dict[str, int] = {}
    IMAGE_HINTS: dict[str, str] = {}
    IMAGES_FROM = ""

    def __init_subclass__(cls, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        for fact in ("ALIAS", "CONFIG", "TORCHREID_NAME"):
            if fact not in vars(cls):  # an inherited name would stand for two data sets
                setattr(cls, fact, "")

    def __init__(
        self,
        data_root: str | os.PathLike,
        split: str = "train",
        ann_file: str | None = None,
        image_dir: str | None = None,
        pipeline: Sequence[dict | Callable] = (),
        test_mode: bool = False,
        captions_per_image: int | None = None,
        verify_images: bool = True,
        serialize_data: bool = True,
        lazy_init: bool = False,
    ) -> None:
        if self.SPLITS is not None and split not in self.SPLITS:
            raise AnnotationError(f"split {split!r} does not exist in {self.NAME}: use one of {', '.join(self.SPLITS)}")
        if captions_per_image is not None and (not isinstance(captions_per_image, int) or captions_per_image < 1):
            raise ConfigError(f"captions_per_image={captions_per_image!r}: use an integer from 1, or None for all")
        root = os.path.abspath(os.path.expanduser(data_root))
        self.split = split
        self.captions_per_image = captions_per_image
        self.verify_images = verify_images
        self.image_root = self.image_folder(root, image_dir)
        self._clock = torch.tensor([0, -1]).share_memory_()  # (seed, epoch), shared with running workers; -1: not set
        self._counts = (0, 0, 0)
        super().__init__(
            ann_file=os.fspath(ann_file) if ann_file else "",
            data_root=root,
            data_prefix={},
            serialize_data=serialize_data,
            # built here from our registry: MMEngine's Compose finds our transforms only with the prefix cada_plugin.
            pipeline=[build_part(TRANSFORMS, step) if isinstance(step, dict) else step for step in pipeline],
            test_mode=test_mode,
            lazy_init=True,
        )
        # Set here and not through the base class, which would try to read a file called "train".
        self._metainfo.update(dataset_name=self.NAME, split=split)
        if not lazy_init:
            self.full_init()

    # Facts and files: class methods, because the data check uses them without an instance

    @classmethod
    def image_folder(cls, root: str, image_dir: str | None = None) -> str:
        """Absolute folder that the image paths of the annotation are relative to."""
        return os.path.normpath(os.path.join(root, cls.IMAGE_DIR if image_dir is None else os.fspath(image_dir)))

    @classmethod
    def find_annotation(cls, root: str, ann_file: str | None = None) -> Path:
        """The annotation file: ``ann_file`` if it is given, else the first of ``ANN_FILES`` that exists in ``root``.

        Raises:
            AnnotationError: the folder or file does not exist; the message lists the .json and .csv files that do.
        """
        folder = Path(root)
        # os.path returns False for a name that is too long; Path would raise OSError
        if not os.path.isdir(folder):
            raise AnnotationError(f"data_root={root} is not a folder: give the folder that holds {cls.NAME}")
        names = (ann_file,) if ann_file else cls.ANN_FILES
        for name in names:
            if os.path.isfile(folder / name):
                return folder / name
        others = sorted(p.name for p in folder.iterdir() if p.suffix.lower() in (".json", ".csv"))
        hint = ""
        if "caption_all.json" in others:
            hint = ". caption_all.json is another file: it has no split and cannot replace it"
        raise AnnotationError(
            f"no annotation of {cls.NAME} in {root}: expected {' or '.join(names)}; "
            f"found {', '.join(others[:10]) or 'no .json or .csv file'}{hint}. Put it there or set ann_file."
        )

    @classmethod
    def read_annotation(cls, path: str | os.PathLike) -> Annotation:
        """Raw records in the JSON layout, not validated: one per image, or one per CSV row (see ``merge``)."""
        records = read_annotations(path)
        return Annotation(Path(path), records, range(len(records)))

    @classmethod
    def merge(cls, records: list[dict]) -> list[dict]:
        """Hook for layouts where one image has several raw records, to join them. It gets valid records only."""
        return records

    @classmethod
    def rules(cls) -> dict:
        """Keyword arguments for ``find_problems`` and ``validate_records`` that follow from the layout."""
        return {
            "path_key": cls.PATH_KEY,
            "splits": cls.SPLITS,
            "split_optional": cls.SPLIT_OPTIONAL,
            "unique_identity": cls.UNIQUE_IDENTITY,
        }

    @classmethod
    def parse_camera_id(cls, path: str) -> int | None:
        """Camera number in the image's file name; None if the data set does not write it there."""
        return None

    @classmethod
    def to_record(cls, raw: dict, image_root: str) -> dict:
        """A valid raw record as ``{img_path, captions, person_id, camera_id}``, perhaps with ``slices``."""
        path = raw[cls.PATH_KEY]
        camera_id = raw.get("camera_id")
        slices = {"slices": [list(names) for names in raw["slices"]]} if "slices" in raw else {}
        return {
            "img_path": resolve_image_path(image_root, path),
            "captions": list(raw["captions"]),
            "person_id": raw["id"],
            "camera_id": cls.parse_camera_id(path) if camera_id is None else camera_id,
            **slices,
        }

    # MMEngine's life cycle

    def load_data_list(self) -> list[dict]:
        """Read, validate and unfold the annotation; called once by ``full_init``."""
        path = self.find_annotation(self.data_root, self.ann_file)
        self.ann_file = str(path)
        annotation = self.read_annotation(path)
        validate_records(annotation, self.image_root, split=self.split, **self.rules())
        if not annotation.has_split:  # valid only where SPLIT_OPTIONAL
            self._derive_splits(annotation)
        raw = [r for r in annotation.records if r["split"] == self.split]
        records = [self.to_record(r, self.image_root) for r in self.merge(raw)]
        for record in records:
            for key in record.keys() & {"captions", "slices"}:
                record[key] = record[key][: self.captions_per_image]
        if self.verify_images:
            paths = {record["img_path"]: None for record in records}
            raise_for_bad_images(verify_images(paths), len(paths))
        labels = {person: label for label, person in enumerate(sorted({r["person_id"] for r in records}))}
        self._counts = (len(labels), len(records), sum(len(r["captions"]) for r in records))
        items = []
        for image_id, record in enumerate(records):
            item = {**record, "label": labels[record["person_id"]], "image_id": image_id}
            if self.test_mode:
                items.append(item)
            else:
                captions = item.pop("captions")
                item.pop("slices", None)
                items.extend({**item, "caption": caption} for caption in captions)
        self._prepare_transforms(records)
        return items

    def _prepare_transforms(self, records: Sequence[dict]) -> None:
        """Show all captions to transforms that ask for them, for example to tag each once, before training starts."""
        of_person: dict[int, list[str]] = {}
        for record in records:
            of_person.setdefault(record["person_id"], []).extend(record["captions"])
        captions = [caption for record in records for caption in record["captions"]]
        for transform in self.pipeline.transforms:
            if hasattr(transform, "prepare"):
                transform.prepare(captions)
            if hasattr(transform, "prepare_people"):
                transform.prepare_people(of_person)

    def _derive_splits(self, annotation: Annotation) -> None:
        if self.split not in DERIVED_SPLITS:
            raise AnnotationError(
                f"{annotation.source} has no 'split', so its people are divided into {', '.join(DERIVED_SPLITS)}: "
                f"use one of them, or add a split {self.split!r} to the records"
            )
        split_of = split_people(record["id"] for record in annotation.records)
        for record in annotation.records:
            record["split"] = split_of[record["id"]]
        people = Counter(split_of.values())
        counts = ", ".join(f"{people[name]:,} {name}" for name in DERIVED_SPLITS)
        print_log(
            f"{annotation.source} has no 'split': people are divided by a hash of their id ({counts}); this is the "
            f"{self.split} split",
            logger="current",
        )

    def get_data_info(self, idx: int) -> dict:
        """Item ``idx`` before the pipeline."""
        item = super().get_data_info(idx)
        item["sample_index"] = item.pop("sample_idx")
        return item

    def __getitem__(self, idx: int) -> dict:
        """Item ``idx`` after the pipeline. A bad item raises; it is never replaced by another one.

        Raises:
            IndexError: outside ``-len(self)..len(self)-1``.
            ImageError: the image cannot be read any more.
            ConfigError: a transform returned None.
        """
        index, length = operator.index(idx), len(self)
        if not -length <= index < length:
            raise IndexError(f"sample {index} of {length}")
        index %= length
        seed, epoch = self._clock.tolist()
        # Without set_epoch, random transforms use torch's generator as it is, like other data sets. Seeding with a
        # fixed epoch instead would repeat the same augmentation in every epoch.
        if epoch < 0:
            return self._transformed(index)
        with torch.random.fork_rng(devices=[]):
            # torch.manual_seed would reseed CUDA too, so that without workers the model's dropout masks would repeat.
            torch.default_generator.manual_seed(mix_seed(seed, epoch, index))
            return self._transformed(index)

    def _transformed(self, index: int) -> dict:
        item = self.prepare_data(index)
        if item is None:
            path = self.get_data_info(index)["img_path"]
            raise ConfigError(
                f"the pipeline returned None for sample {index} ({path}): every transform must return the item, "
                "because skipping samples would change results silently"
            )
        return item

    def set_epoch(self, epoch: int, seed: int | None = None) -> None:
        """Set the random state of the coming epoch, also in workers that already run. ``seed=None`` keeps the seed."""
        self._clock[1] = epoch
        if seed is not None:
            self._clock[0] = seed

    def _copy_without_annotation(self, memo: dict | None = None) -> "TextPersonDataset":
        other = super()._copy_without_annotation({} if memo is None else memo)
        other._clock = self._clock.clone().share_memory_()  # a deep copy would not be shared
        return other

    @property
    def num_ids(self) -> int:
        """Number of identities, and so of classes of ``label``. A subset reports that of the whole split."""
        self.full_init()
        return self._counts[0]

    @property
    def num_images(self) -> int:
        """Number of images of the whole split."""
        self.full_init()
        return self._counts[1]

    @property
    def num_captions(self) -> int:
        """Number of captions of the whole split, after ``captions_per_image``."""
        self.full_init()
        return self._counts[2]

    @property
    def records(self) -> list[dict]:
        """One ``{img_path, captions, person_id, camera_id}`` per image, built anew on each access."""
        records: dict[int, dict] = {}
        for index in range(len(self)):
            item = self.get_data_info(index)
            captions = item["captions"] if self.test_mode else [item["caption"]]
            if item["image_id"] in records:
                records[item["image_id"]]["captions"].extend(captions)
            else:
                kept = {key: item[key] for key in ("img_path", "person_id", "camera_id")}
                records[item["image_id"]] = {**kept, "captions": captions}
        return list(records.values())
