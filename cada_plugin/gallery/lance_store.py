"""A gallery in a LanceDB database: a folder on this machine."""

import json
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
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
    from lancedb.index import HnswSq
    from lancedb.query import LanceQueryBuilder, LanceVectorQueryBuilder

_TABLE = "images"
_META = "gallery.json"
_INDEX = "vector_idx"
_FIELDS = {
    "id": pa.string(),
    "path": pa.string(),
    "size": pa.int64(),
    "mtime_ns": pa.int64(),
    "hash": pa.string(),
    "camera": pa.string(),
    "person": pa.string(),
    "time": pa.float64(),
    "hubness": pa.float64(),
}
# Below this a search reads every vector (0.2 GB at D = 512) and is exact. On two cores 40,000 vectors of D = 256 took
# 30 to 60 ms, so that this many of D = 512 take about 0.3 to 0.6 s; an index of those 40,000 took 28 s to build.
_INDEX_FROM = 200_000
# LanceDB recommends few partitions for HNSW, and more of them to build in less memory; its default is a million rows
# in each. With this size, the nprobes below still look at every partition up to 4 million rows.
_PARTITION = 200_000
_NPROBES = 20
# The index knows vectors in 8 bits, so more candidates than wanted are compared by their fp16 vectors. Of the best 128
# of 40,000 clustered vectors, 99% were found with 4 times as many (31 ms), 96% with 2 (25 ms), 91% with none (18 ms).
_REFINE = 4
_IDS_AT_ONCE = 1000
_KEEP_VERSIONS = timedelta(hours=1)  # a search that began before a compaction can finish


class LanceStore:
    """Rows in a LanceDB table, vectors in fp16. See ``Store`` for the methods.

    Several processes may read while one writes; each read sees the last complete write. ``add`` is one commit
    (``merge_insert``), after another that adds the columns which no row had yet: a process killed in between leaves
    columns without values, and no row is lost or half written.

    Args:
        folder: of the database.
        dim: D, size of an embedding; None takes that of an existing gallery.
        create: begin a gallery where there is none.

    Raises:
        GalleryError: the folder holds no gallery, one of another D, or a damaged one.
    """

    def __init__(self, folder: str | Path, dim: int | None, create: bool = False) -> None:
        self.folder = Path(folder)
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
                if name.startswith(COLUMN):
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
            names = [name for name in self._table.schema.names if name != "vector"]
            for batch in self._table.search().select(names).to_batches():
                yield from (_row(values) for values in batch.to_pylist())

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

            def search(exact: bool) -> tuple[list[GalleryRow], np.ndarray]:
                wanted = k + MARGIN
                builder = self._table.search(query, vector_column_name="vector").distance_type("dot").limit(wanted)
                if where:
                    builder = builder.where(where)  # before the search: LanceDB's default
                if exact:
                    builder = builder.bypass_vector_index()
                else:
                    builder = builder.nprobes(_NPROBES).ef(2 * _REFINE * wanted).refine_factor(_REFINE)
                return self._read(builder)

            indexed = self._has_index()
            rows, vectors = search(exact=not indexed)
            if indexed and len(rows) < k:  # a graph may not lead to the few rows that a filter keeps
                rows, vectors = search(exact=True)
        return ranked(rows, vectors, vector, k, hubness_weight)

    def count(self, only: Filter | None = None) -> int:
        with self._explained("read"):
            where = self._where(only)
            return 0 if where is None else self._table.count_rows(where or None)

    def compact(self) -> None:
        with self._explained("written"):
            if not self._has_index() and self._table.count_rows() >= _INDEX_FROM:
                index = HnswSq(distance_type="dot", target_partition_size=_PARTITION)
                self._table.create_index("vector", config=index, name=_INDEX)
            self._table.optimize(cleanup_older_than=_KEEP_VERSIONS)  # also adds new rows to the index

    def close(self) -> None:
        """Nothing is held open: every method opens the files that it reads."""

    def _has_index(self) -> bool:
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
        names = self._table.schema.names
        # a search for neighbours that does not ask for their distance prints a warning
        wanted = [*names, "_distance"] if isinstance(builder, LanceVectorQueryBuilder) else names
        table = builder.select(wanted).to_arrow().select(names)
        vectors = table["vector"].combine_chunks().flatten().to_numpy().astype(np.float32)
        rows = [_row(values) for values in table.drop_columns("vector").to_pylist()]
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
            if column not in self._table.schema.names:
                return None
            if values:
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


def _row(values: dict) -> GalleryRow:
    fields = {name: values[name] for name in _FIELDS}
    columns = {name_of(name): value for name, value in values.items() if name.startswith(COLUMN) and value is not None}
    return GalleryRow(**fields, columns=columns)


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
