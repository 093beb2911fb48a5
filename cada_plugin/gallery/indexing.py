"""Bringing a gallery up to date with its folder: what is new is encoded, what is known is kept, what is gone leaves."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cada_plugin.errors import ConfigError
from cada_plugin.gallery.facts import Facts
from cada_plugin.gallery.hubness import CaptionBank
from cada_plugin.gallery.index import Changes, File, compare, digest_or_none, row_id
from cada_plugin.gallery.store import GalleryRow, Store
from cada_plugin.gallery.tokens import TokenFiles
from cada_plugin.portable.hubness import hubness
from cada_plugin.progress import progress_bar

if TYPE_CHECKING:
    from cada_plugin.apis import Retriever

_CHUNK = 256  # pictures decoded, encoded and added at once: a kill loses at most their encoding


@dataclass(frozen=True)
class Indexer:
    """Indexes the pictures of ``root`` into ``store``. A process that is killed at any line can be followed by another,
    and the gallery ends as if it had not been killed.

    Attributes:
        place: of the gallery, as in ``Gallery.create``.
        root: the folder of the pictures.
        store: what holds the rows.
        retriever: the model that encodes.
        tokens: where tokens for stage 2 are kept, if its mode is not ``none``.
    """

    place: str
    root: Path
    store: Store
    retriever: "Retriever"
    tokens: TokenFiles

    def run(self, facts: Callable[[str], Facts | None], batch_size: int, progress: bool) -> Changes:
        """See ``Gallery.index``."""
        captions = self.store.meta().get("captions")
        bank = CaptionBank(Path(captions)) if captions else None
        changes = compare(self.root, self.store.rows())
        if changes.removed and not (changes.new or changes.moved or changes.touched or changes.unchanged):
            raise ConfigError(
                f"the folder {self.root} holds no picture any more, and the gallery {self.place} has "
                f"{len(changes.removed):,}: is its disk mounted? Nothing was changed. To empty a gallery, delete it"
            )
        if self.tokens.mode != "none":  # a token file that was lost, or removed because it was damaged, is made again
            lost = [row for row in changes.unchanged if not self.tokens.has(row.hash)]
            changes.new += [File(row.path, row.size, row.mtime_ns) for row in lost]
        self._keep(changes, facts)
        captions = None if bank is None else self._hubness_captions(bank, changes)
        bar = progress_bar(
            total=len(changes.new), desc="indexing", unit="image", delay=1, disable=not progress, leave=False
        )
        for start in range(0, len(changes.new), _CHUNK):
            some = changes.new[start : start + _CHUNK]
            self._add(some, facts, batch_size, changes, captions)
            bar.update(len(some))
        bar.close()
        gone = {row.id for row in changes.removed} | {row.id for row, _ in changes.moved}
        gone |= {row_id(path) for path in changes.unreadable if path in changes.changed}
        self.store.remove(sorted(gone))
        self.store.compact()
        if self.tokens.mode != "none" and (gone or changes.changed):
            self.tokens.keep_only({row.hash for row in self.store.rows()})
        return changes

    def _keep(self, changes: Changes, facts: Callable[[str], Facts | None]) -> None:
        """Write the rows of known pictures again where their file or their facts are new, with the embedding they
        have."""
        again = [(row, replace(row, **_facts(facts, row.path))) for row in changes.unchanged]
        kept = [(old, new) for old, new in again if old != new]
        kept += [
            (row, replace(row, size=file.size, mtime_ns=file.mtime_ns, **_facts(facts, file.path)))
            for row, file in changes.touched
        ]
        kept += [(row, _moved(row, file, facts)) for row, file in changes.moved]
        for start in range(0, len(kept), _CHUNK):
            some = kept[start : start + _CHUNK]
            _, embed = self.store.get([old.id for old, _ in some])
            self.store.add([new for _, new in some], embed)

    def _hubness_captions(self, bank: CaptionBank, changes: Changes) -> np.ndarray | None:
        """Embeddings (m, D) of the captions among which new rows get their hubness; None if no row needs them. Where
        the captions are not those of before, the rows that are there get their hubness here."""
        stale = self.store.meta().get("hubness_of") != bank.digest
        if not stale and not changes.new:
            return None
        folder = None if "://" in self.place else Path(self.place)
        embeddings = bank.embeddings(
            lambda texts: np.asarray(self.retriever.encode_text(texts).embed, np.float32), folder
        )
        if stale:
            # a run that is killed here leaves hubness of two banks, whichever of them the next run is given
            self.store.set_meta(self.store.meta() | {"hubness_of": None})
            self._measure_hubness(embeddings)
            self.store.set_meta(self.store.meta() | {"hubness_of": bank.digest})
        return embeddings

    def _measure_hubness(self, captions: np.ndarray) -> None:
        """Measure the hubness of all rows among captions (m, D)."""
        rows = list(self.store.rows())
        for start in range(0, len(rows), _CHUNK):
            some = rows[start : start + _CHUNK]
            _, embed = self.store.get([row.id for row in some])
            measured = zip(some, hubness(embed, captions), strict=True)
            self.store.add([replace(row, hubness=float(value)) for row, value in measured], embed)

    def _add(
        self,
        files: Sequence[File],
        facts: Callable,
        batch_size: int,
        changes: Changes,
        captions: np.ndarray | None,
    ) -> None:
        """Encode files and add their rows; those that cannot be read are noted in ``changes``."""
        readable: list[tuple[File, str]] = []
        for file in files:
            digest = digest_or_none(self.root / file.path)
            if digest is None:
                changes.unreadable[file.path] = "the file cannot be opened any more"
            else:
                readable.append((file, digest))
        encoded, bad = self.retriever.encode_readable([self.root / file.path for file, _ in readable], batch_size)
        for place, reason in bad.items():
            changes.unreadable[readable[place][0].path] = reason
        rows = [
            GalleryRow(row_id(file.path), file.path, file.size, file.mtime_ns, digest, **_facts(facts, file.path))
            for place, (file, digest) in enumerate(readable)
            if place not in bad
        ]
        if not rows:
            return
        if self.tokens.mode != "none":  # before the rows, so that no row waits for its tokens after a kill
            for row, tokens in zip(rows, encoded.tokens, strict=True):
                self.tokens.write(row.hash, tokens)
        embed = np.asarray(encoded.embed, np.float32)
        if captions is not None:
            values = hubness(embed, captions)
            rows = [replace(row, hubness=float(value)) for row, value in zip(rows, values, strict=True)]
        self.store.add(rows, embed)


def _moved(row: GalleryRow, file: File, facts: Callable[[str], Facts | None]) -> GalleryRow:
    return replace(row, id=row_id(file.path), path=file.path, mtime_ns=file.mtime_ns, **_facts(facts, file.path))


def _facts(facts: Callable[[str], Facts | None], path: str) -> Mapping[str, object]:
    return vars(facts(path) or Facts())
