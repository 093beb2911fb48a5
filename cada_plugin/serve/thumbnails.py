"""Pictures of a gallery as JPEG, large and small. A picture is asked for by the id of its row, and is always decoded
and encoded anew: whatever lies at its path, nothing but pixels leaves this machine."""

import io
import threading
from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path

from PIL import Image

from cada_plugin.errors import CADAError, GalleryError
from cada_plugin.gallery import Gallery, GalleryRow
from cada_plugin.portable.pictures import load_person_image

_THUMBNAIL = (240, 360)  # pixels (W, H): twice the size on the page, for dense screens
_LARGE = (2048, 2048)
_CACHE_BYTES = 64 * 2**20  # about 6,000 thumbnails
_CACHE_ROWS = 20_000


class NoImageError(CADAError, LookupError):
    """The gallery has no such image, or it cannot be read any more."""


class Pictures:
    """The pictures of one gallery. Several threads may use it."""

    def __init__(self, gallery: Gallery) -> None:
        self._gallery = gallery
        self._cache: OrderedDict[str, bytes] = OrderedDict()
        self._rows: OrderedDict[str, GalleryRow] = OrderedDict()
        self._bytes, self._lock = 0, threading.Lock()

    def remember(self, rows: Iterable[GalleryRow]) -> None:
        """Keep rows that were found: their pictures are asked for next, and to look up a row by its id reads the ids of
        the whole gallery (70 ms in 100,000 images)."""
        with self._lock:
            for row in rows:
                self._rows[row.id] = row
                self._rows.move_to_end(row.id)
            while len(self._rows) > _CACHE_ROWS:
                self._rows.popitem(last=False)

    def row(self, row_id: str) -> GalleryRow:
        """Raises NoImageError if there is none."""
        return self._rows.get(row_id) or self.row_now(row_id)

    def row_now(self, row_id: str) -> GalleryRow:
        """As :meth:`row`, by the gallery as it is now."""
        try:
            return self._gallery.store.get([row_id])[0][0]
        except GalleryError as error:
            raise NoImageError(f"the gallery has no image {row_id}: search again, it may have been removed") from error

    def path(self, row_id: str) -> Path:
        """Where the picture of a row lies, links resolved.

        Raises:
            NoImageError: there is no such row or file, or the file lies outside of the folder that was indexed.
        """
        row = self.row(row_id)
        try:
            root = self._gallery.root.resolve(strict=True)
            path = (root / row.path).resolve(strict=True)
        except (OSError, RuntimeError, ValueError) as error:
            raise NoImageError(f"the picture of {row_id} is not on this machine any more: index again") from error
        if not path.is_relative_to(root) or not path.is_file():
            raise NoImageError(f"the picture of {row_id} lies outside of the folder of the gallery: not shown")
        return path

    def large(self, row_id: str) -> bytes:
        return self._jpeg(row_id, _LARGE)

    def thumbnail(self, row_id: str) -> bytes:
        key = self.row(row_id).hash  # a file that changed and was indexed again has another one
        with self._lock:
            if key in self._cache:
                self._cache.move_to_end(key)
                return self._cache[key]
        content = self._jpeg(row_id, _THUMBNAIL)
        with self._lock:
            if key not in self._cache:
                self._cache[key] = content
                self._bytes += len(content)
            while self._bytes > _CACHE_BYTES:
                self._bytes -= len(self._cache.popitem(last=False)[1])
        return content

    def _jpeg(self, row_id: str, size: tuple[int, int]) -> bytes:
        path = self.path(row_id)
        try:
            image = load_person_image(path)
        except CADAError as error:  # its message names a path, which is nobody's business
            raise NoImageError(f"the picture of {row_id} cannot be read any more: index again") from error
        image.thumbnail(size, Image.Resampling.LANCZOS)
        file = io.BytesIO()
        image.save(file, "JPEG", quality=88)
        return file.getvalue()
