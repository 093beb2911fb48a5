"""A gallery in a LanceDB database: a folder on this machine."""

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path

import numpy as np

from cada_plugin.errors import GalleryError, first_line, needs_extra
from cada_plugin.files import only_writer, write_json
from cada_plugin.gallery.store import (
    COLUMN,
    MARGIN,
    SECOND_WRITER,
    Filter,
    GalleryRow,
    column_of,
    in_order,
    name_of,
    packed,
    query_vector,
    ranked,
)

with needs_extra("search"):
    import lancedb
    import pyarrow as pa
    from lancedb.index import Bitmap, IvfFlat
    from lancedb.query import LanceQueryBuilder, LanceVectorQueryBuilder

_TABLE = "images"
_META = "gallery.json"
_INDEX = "vector_index"
# Rows that the index does not know are compared one by one, which is fast for this share of all of them. So many files
# of few rows are read without delay.
_UNINDEXED, _SMALL_FILES = 0.05, 100
_FILTERED = 4  # times as many partitions are read with a filter, as each holds fewer rows that may be found
# Columns that rows are found by; free columns are added to them. What a row holds stands in the last one as JSON:
# reading the hundred rows of a search took 1.3 ms for each column.
_FIELDS = {"id": pa.string(), "camera": pa.string(), "person": pa.string(), "time": pa.float64(), "row": pa.string()}
_IDS_AT_ONCE = 1000
_KEEP_VERSIONS = timedelta(hours=1)  # a search that began before a compaction can finish


@dataclass(frozen=True)
class IndexSettings:
    """When a gallery gets an index, and how it is searched by it.

    The index groups the vectors in partitions around centres (IVF), and a search reads the partitions whose centres are
    nearest, with the vectors as they are. docs/scale.md has the measurements behind these numbers.

    Attributes:
        from_rows: below this number of images a search reads every vector and is exact.
        partitions: their number, as a multiple of the square root of the number of images.
        probes: the partitions that a search reads.
    """

    from_rows: int = 200_000
    partitions: float = 2.0
    probes: int = 80


class LanceStore:
    """Rows in a LanceDB table, vectors in fp16. See ``Store`` for the methods.

    Several processes may read while one writes; each read sees the last complete write. ``add`` is one commit
    (``merge_insert``), after another that adds the columns which no row had yet: a process killed in between leaves
    columns without values, and no row is lost or half written.

    Args:
        folder: of the database.
        dim: D, size of an embedding; None takes that of an existing gallery.
        create: begin a gallery where there is none.
        settings: of the index.

    Raises:
        GalleryError: the folder holds no gallery, one of another D, or a damaged one.
    """

    most_found = sys.maxsize

    def __init__(
        self, folder: str | Path, dim: int | None, create: bool = False, settings: IndexSettings | None = None
    ) -> None:
        self.folder, self.settings = Path(folder), settings or IndexSettings()
        with self._explained("opened"):
            if not create and not self.folder.is_dir():
                raise GalleryError(f"no gallery in {folder}: there is no such folder. Make one with `cada index`")
            if create:
                self.folder.mkdir(parents=True, exist_ok=True)
            # an interval of 0: a search server sees what an indexing process has just written
            self._db = lancedb.connect(self.folder, read_consistency_interval=timedelta(0))
            exists = (self.folder / f"{_TABLE}.lance").is_dir()
            if not exists and not create:
                raise GalleryError(f"no gallery in {folder}: make one with `cada index`, or give the folder of one")
            if not exists and dim is None:
                raise GalleryError(f"a new gallery in {folder} needs the size of its embeddings")
            if exists:
                self._table = self._db.open_table(_TABLE)
            else:
                self._table = self._db.create_table(_TABLE, schema=_schema(dim))
            self.dim = self._stored_dim()
        if dim not in (None, self.dim):
            raise GalleryError(
                f"the gallery {folder} holds embeddings of size {self.dim}, not {dim}: use the model that made it, or "
                "index into a new folder"
            )

    def meta(self) -> dict:
        path = self.folder / _META
        if not path.exists():
            return {}
        try:
            meta = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise GalleryError(f"{path} cannot be read ({error}): restore it, or make a new gallery") from error
        if not isinstance(meta, dict):
            raise GalleryError(f"{path} holds no description of a gallery: restore it, or make a new gallery")
        return meta

    def set_meta(self, meta: dict) -> None:
        with self._explained("written"):
            write_json(self.folder / _META, meta)

    def only_writer(self) -> AbstractContextManager[None]:
        return only_writer(self.folder, "indexing run", SECOND_WRITER)

    def add(self, rows: Sequence[GalleryRow], embed: np.ndarray) -> None:
        vectors = packed(rows, embed, self.dim, np.float16)
        if not rows:
            return
        last = list({row.id: place for place, row in enumerate(rows)}.values())  # an id that is there twice: the last
        rows, vectors = [rows[place] for place in last], vectors[last]
        with self._explained("written"):
            new = sorted({column_of(name) for row in rows for name in row.columns} - set(self._table.schema.names))
            if new:
                self._table.add_columns([pa.field(name, pa.string()) for name in new])
            # every column of the table: merge_insert leaves the old value of a column that is not given
            schema = self._table.schema
            data = {"vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), self.dim + 1)}
            for name in schema.names:
                if name == "row":
                    data[name] = [json.dumps(asdict(row), ensure_ascii=False) for row in rows]
                elif name.startswith(COLUMN):
                    data[name] = [row.columns.get(name_of(name)) for row in rows]
                elif name != "vector":
                    data[name] = [getattr(row, name) for row in rows]
            table = pa.table(data, schema=schema)
            self._table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all().execute(table)

    def remove(self, ids: Sequence[str]) -> None:
        with self._explained("written"):
            for some in _chunks(ids):
                self._table.delete(_is_in("id", some))

    def rows(self) -> Iterator[GalleryRow]:
        with self._explained("read"):
            for batch in self._table.search().select(["row"]).to_batches():
                yield from (_row(text) for text in batch["row"].to_pylist())

    def get(self, ids: Sequence[str]) -> tuple[list[GalleryRow], np.ndarray]:
        found: dict[str, tuple[GalleryRow, np.ndarray]] = {}
        with self._explained("read"):
            for some in _chunks(dict.fromkeys(ids)):
                rows, vectors = self._read(self._table.search().where(_is_in("id", some)))
                found.update((row.id, (row, vector)) for row, vector in zip(rows, vectors, strict=True))
        return in_order(ids, found, self.dim, str(self.folder))

    def nearest(
        self, vector: np.ndarray, k: int, only: Filter | None = None, hubness_weight: float = 0.0
    ) -> list[tuple[GalleryRow, float]]:
        query = query_vector(vector, self.dim, hubness_weight)
        with self._explained("read"):
            where = self._where(only)
            if k < 1 or where is None:
                return []

            def search() -> LanceVectorQueryBuilder:
                builder = self._table.search(query, vector_column_name="vector").distance_type("dot")
                return builder.where(where) if where else builder  # before the search: LanceDB's default

            if self._table.count_rows() >= self.settings.from_rows and self.indexed:
                probes = self.settings.probes * (_FILTERED if where else 1)
                rows, vectors = self._read(search().nprobes(probes).limit(k + MARGIN))
                if len(rows) >= k:  # else the nearest partitions hold too few of the rows that a filter keeps
                    return ranked(rows, vectors, vector, k, hubness_weight)
            rows, vectors = self._read(search().bypass_vector_index().limit(k + MARGIN))
        return ranked(rows, vectors, vector, k, hubness_weight)

    def count(self, only: Filter | None = None) -> int:
        with self._explained("read"):
            where = self._where(only)
            return 0 if where is None else self._table.count_rows(where or None)

    def compact(self) -> None:
        """Make many small files few, and build the index anew if much has changed.

        LanceDB's own way, ``optimize``, would add the new rows to the index. After that, a search took seven times as
        long as with an index that was built anew (300,000 rows, lancedb 0.40), so the index is dropped before.
        """
        with self._explained("written"):
            names = [index.name for index in self._table.list_indices()]
            rows = self._table.count_rows()
            if _INDEX in names and rows >= self.settings.from_rows:
                unindexed = self._table.index_stats(_INDEX).num_unindexed_rows
                files = self._table.stats()["fragment_stats"]["num_small_fragments"]
                if unindexed <= _UNINDEXED * rows and files <= _SMALL_FILES:
                    return
            for name in names:
                self._table.drop_index(name)
            self._table.optimize(cleanup_older_than=_KEEP_VERSIONS)
            if rows >= self.settings.from_rows:
                partitions = max(1, round(self.settings.partitions * rows**0.5))
                index = IvfFlat(distance_type="dot", num_partitions=partitions)
                self._table.create_index("vector", config=index, name=_INDEX)
                self._table.create_index("camera", config=Bitmap(), name="camera_index")

    def close(self) -> None:
        """Nothing is held open: every method opens the files that it reads."""

    @property
    def indexed(self) -> bool:
        """Whether the gallery has an index."""
        return any(index.name == _INDEX for index in self._table.list_indices())

    def _stored_dim(self) -> int:
        schema = self._table.schema
        kind = schema.field("vector").type if "vector" in schema.names else None
        if not set(_FIELDS) <= set(schema.names) or not pa.types.is_fixed_size_list(kind):
            raise GalleryError(
                f"the table {_TABLE} in {self.folder} was not made by `cada index`: give the folder of "
                "a gallery, or a new one"
            )
        return kind.list_size - 1

    def _read(self, builder: LanceQueryBuilder) -> tuple[list[GalleryRow], np.ndarray]:
        """Rows that a query finds, and their vectors (n, D+1) fp32."""
        names = ["row", "vector"]
        # a search for neighbours that does not ask for their distance prints a warning
        wanted = [*names, "_distance"] if isinstance(builder, LanceVectorQueryBuilder) else names
        table = builder.select(wanted).to_arrow().select(names)
        vectors = table["vector"].combine_chunks().flatten().to_numpy().astype(np.float32)
        rows = [_row(text) for text in table["row"].to_pylist()]
        return rows, vectors.reshape(len(rows), self.dim + 1)

    def _where(self, only: Filter | None) -> str | None:
        """A filter as SQL: "" for one that keeps every row, None for one that keeps none."""
        if only is None:
            return ""
        terms = [_is_in("camera", only.cameras)] if only.cameras else []
        terms += [f"time >= {_number(only.after)}"] if only.after is not None else []
        terms += [f"time < {_number(only.before)}"] if only.before is not None else []
        for name, values in only.columns.items():
            column = name if name in ("camera", "person") else column_of(name)
            if not values:
                continue
            if column not in self._table.schema.names:
                return None
            terms.append(_is_in(column, values))
        return " AND ".join(terms)

    @contextmanager
    def _explained(self, done: str) -> Iterator[None]:
        """Turn the errors of LanceDB, of files and of text that is no Unicode into a GalleryError."""
        try:
            yield
        except GalleryError:
            raise
        except UnicodeEncodeError as error:
            raise GalleryError(f"{error.object!r} is no Unicode text, which a gallery needs: rename it") from error
        except (OSError, RuntimeError, ValueError, KeyError, pa.ArrowException) as error:
            raise GalleryError(
                f"the gallery {self.folder} cannot be {done} ({first_line(error)}): check the disk and the rights of "
                "the folder; if it is damaged, restore it, or delete it and index again"
            ) from error


def _schema(dim: int) -> pa.Schema:
    fields = [pa.field(name, kind, nullable=name == "time") for name, kind in _FIELDS.items()]
    return pa.schema([*fields, pa.field("vector", pa.list_(pa.float16(), dim + 1), nullable=False)])


def _row(text: str) -> GalleryRow:
    return GalleryRow(**json.loads(text))


def _is_in(column: str, values: Sequence[str]) -> str:
    """SQL for ``column IN values``.

    The text is quoted here: in SQL a doubled quote is all there is to it, and ``lancedb.expr`` 0.40 fails to double
    quotes that already stand in pairs.
    """
    return f"{column} IN ({', '.join(_quoted(value) for value in values)})"


def _quoted(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def _number(value: float) -> str:
    return f"CAST('{float(value)!r}' AS DOUBLE)"  # as text: SQL has no literal for infinity


def _chunks(ids: Sequence[str]) -> Iterator[list[str]]:
    ids = list(ids)
    return (ids[start : start + _IDS_AT_ONCE] for start in range(0, len(ids), _IDS_AT_ONCE))
