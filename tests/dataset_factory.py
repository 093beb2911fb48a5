"""Write tiny data sets in each layout for tests: ``write_cuhk(tmp_path)`` and others write files and return records.

``train``, ``val`` and ``test`` are numbers of people, each with ``images`` images. To test a damaged data set, change
the returned records and call ``write_json``.
"""

import csv
import json
from pathlib import Path

from PIL import Image

CUHK_FOLDERS = ("CUHK01", "CUHK03", "Market", "cam_a", "cam_b", "test_query", "train_query")


def write_image(path: Path, shade: int = 128) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 16), (shade % 256, 90, 160)).save(path)


def write_json(path: Path, content) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def caption(person: int, image: int, turn: int) -> str:
    return f"Person {person} wears a coat, seen in image {image}, told the {('first', 'second')[turn]} time."


def _people(splits: dict[str, int], first_id: int, images: int):
    person = first_id
    for split, ids in splits.items():
        for _ in range(ids):
            for image in range(images):
                yield split, person, image
            person += 1


def write_cuhk(root: Path, train: int = 3, val: int = 1, test: int = 2, images: int = 2) -> list[dict]:
    records = []
    splits = {"train": train, "val": val, "test": test}
    for number, (split, person, image) in enumerate(_people(splits, 1, images)):
        file_path = f"{CUHK_FOLDERS[number % len(CUHK_FOLDERS)]}/{person:04d}_{image}.png"
        write_image(root / "imgs" / file_path, number)
        captions = [caption(person, image, turn) for turn in range(2)]
        records.append(
            {"split": split, "captions": captions, "file_path": file_path, "processed_tokens": [], "id": person}
        )
    write_json(root / "reid_raw.json", records)
    return records


def write_icfg(
    root: Path, ann_file: str = "ICFG-PEDES.json", train: int = 3, test: int = 2, images: int = 2
) -> list[dict]:
    records = []
    for number, (split, person, image) in enumerate(_people({"train": train, "test": test}, 0, images)):
        file_path = f"{('train', 'test')[number % 2]}/{person:04d}/{person:04d}_000_01_{image}.jpg"
        write_image(root / "imgs" / file_path, number)
        captions = [caption(person, image, 0)]
        records.append(
            {"split": split, "captions": captions, "file_path": file_path, "processed_tokens": [], "id": person}
        )
    write_json(root / ann_file, records)
    return records


def write_rstp(root: Path, train: int = 3, val: int = 1, test: int = 1, images: int = 5) -> list[dict]:
    records = []
    for number, (split, person, image) in enumerate(_people({"train": train, "val": val, "test": test}, 0, images)):
        img_path = f"{person:04d}_c{image + 1}_{number:04d}.jpg"
        write_image(root / "imgs" / img_path, number)
        captions = [caption(person, image, turn) for turn in range(2)]
        records.append({"id": person, "img_path": img_path, "captions": captions, "split": split})
    write_json(root / "data_captions.json", records)
    return records


def write_ufine(root: Path, train: int = 3, test: int = 2, images: int = 2) -> list[dict]:
    records = []
    for number, (split, person, image) in enumerate(_people({"train": train, "test": test}, 1, images)):
        file_path = f"images/{number + 1}.jpg"
        write_image(root / file_path, number)
        captions = [caption(person, image, turn) for turn in range(2)]
        records.append({"split": split, "id": person, "file_path": file_path, "captions": captions})
    write_json(root / "UFine6926_Annotations_1024.json", records)
    return records


def write_synth(root: Path, train: int = 3, images: int = 2) -> list[dict]:
    records = []
    for number, (_, person, image) in enumerate(_people({"train": train}, 7, images)):
        file_path = f"Part{1 + number % 11}/{person}/{image}.jpg"
        write_image(root / file_path, number)
        records.append(
            {
                "id": person,
                "file_path": file_path,
                "attributes": ["man,black hair,black shirt,pink shorts,black shoes,unknown"],
                "captions": [caption(person, image, turn) for turn in range(2)],
                "prompt_caption": ["A man with black hair."],
            }
        )
    write_json(root / "synthpedes_dataset.json", records)
    return records


def write_mals(root: Path, train: int = 4) -> list[list[dict]]:
    """Two annotation files, whose records are returned."""
    files: list[list[dict]] = [[], []]
    for number in range(train):
        name = ("4x", "c_g_a_0")[number % 2]
        image = f"gene_crop/{name}/{number}.jpg"
        write_image(root / image, number)
        record = {"image": image, "caption": caption(number, 0, 0), "image_id": f"{name}_{number}", "label": [1, 0, -1]}
        files[number % 2].append(record)
    for name, records in zip(("g_4x_attrs", "g_c_g_a_0_attrs"), files, strict=True):
        write_json(root / "gene_attrs" / f"{name}.json", records)
    return files


def write_custom(root: Path, train: int = 3, test: int = 2, images: int = 2) -> list[dict]:
    records = []
    for number, (split, person, image) in enumerate(_people({"train": train, "test": test}, 10, images)):
        file_path = f"shop/{person}_{image}.png"
        write_image(root / file_path, number)
        captions = [caption(person, image, turn) for turn in range(2)]
        records.append({"file_path": file_path, "captions": captions, "id": person, "split": split, "camera_id": image})
    write_json(root / "annotations.json", records)
    return records


def write_custom_csv(root: Path, rows: list[dict], encoding: str = "utf-8") -> None:
    """One row per caption; images are written too."""
    for row in rows:
        write_image(root / row["file_path"])
    with open(root / "annotations.csv", "w", newline="", encoding=encoding) as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
