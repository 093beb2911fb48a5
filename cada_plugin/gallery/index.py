"""What is new in a folder of pictures, compared with the rows of its gallery. Nothing is decoded here."""

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from cada_plugin.gallery.store import GalleryRow
from cada_plugin.portable.pictures import find_images


@dataclass(frozen=True)
class File:
    """A picture on the disk; ``path`` is relative to the folder, with forward slashes."""

    path: str
    size: int
    mtime_ns: int


@dataclass
class Changes:
    """What indexing a folder has to do.

    Attributes:
        new: files to encode: at paths without a row, or with another content than the row's.
        changed: those of ``new`` whose path had a row.
        moved: (old row, file) with the same content at another path; the embedding is kept.
        touched: (row, file) with the same content and another time; only the row is brought up to date.
        removed: rows whose file is gone.
        unchanged: rows whose file has the same size and time.
        unreadable: what is wrong with a file, by its path.
    """

    new: list[File] = field(default_factory=list)
    changed: set[str] = field(default_factory=set)
    moved: list[tuple[GalleryRow, File]] = field(default_factory=list)
    touched: list[tuple[GalleryRow, File]] = field(default_factory=list)
    removed: list[GalleryRow] = field(default_factory=list)
    unchanged: list[GalleryRow] = field(default_factory=list)
    unreadable: dict[str, str] = field(default_factory=dict)


def compare(folder: Path, rows: Iterable[GalleryRow]) -> Changes:
    """Compare a folder with the rows of its gallery by path, size and time; contents are read only where these differ.

    A file at a new path is *moved* if it has the size and the content of a row whose file is gone.

    Raises:
        ImageError: a sub-folder cannot be read.
    """
    known = {row.path: row for row in rows}
    changes = Changes()
    unknown: list[File] = []
    for full in find_images(folder):
        path = os.path.relpath(full, folder).replace(os.sep, "/")
        if not _is_text(path):
            changes.unreadable[path] = "its name is no Unicode text: rename the file"
            continue
        try:
            status = os.stat(full)
        except OSError as error:  # gone since it was listed, or a link to nowhere: a row of it goes with it
            changes.unreadable[path] = f"cannot be read ({error.strerror})"
            continue
        file, row = File(path, status.st_size, status.st_mtime_ns), known.pop(path, None)
        if row is None:
            unknown.append(file)
        elif (row.size, row.mtime_ns) == (file.size, file.mtime_ns):
            changes.unchanged.append(row)
        elif row.size == file.size and digest_or_none(folder / path) == row.hash:
            changes.touched.append((row, file))
        else:
            changes.new.append(file)
            changes.changed.add(path)
    gone: dict[int, list[GalleryRow]] = defaultdict(list)
    for row in known.values():
        gone[row.size].append(row)
    for file in unknown:
        digest = digest_or_none(folder / file.path) if gone[file.size] else None
        row = next((row for row in gone[file.size] if row.hash == digest), None)
        if row is None:
            changes.new.append(file)
        else:
            gone[file.size].remove(row)
            changes.moved.append((row, file))
    changes.removed = [row for rows in gone.values() for row in rows]
    return changes


def _is_text(path: str) -> bool:
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:  # bytes of another encoding, which Python holds as lone surrogates
        return False
    return True


def digest_or_none(path: Path) -> str | None:
    """Digest of a file's content; None where it cannot be read."""
    digest = hashlib.blake2b(digest_size=16)
    try:
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError:
        return None
    return digest.hexdigest()


def row_id(path: str) -> str:
    """The id of a row: paths can be longer than an engine allows for a key."""
    return hashlib.blake2b(path.encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()
