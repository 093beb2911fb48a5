"""A gallery in a Milvus collection: a server or cluster that several machines share."""

import json
import logging
import math
import os
import re
import socket
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

from cada_plugin.errors import ConfigError, GalleryError, first_line, needs_extra
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

# Read when gRPC is loaded. It would print each keep-alive that a server declines; what fails raises an error anyway.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
with needs_extra("search"):
    from pymilvus import DataType, MilvusClient, MilvusException

# pymilvus prints the traceback of every error that it raises; here they become messages that say what to do
logging.getLogger("pymilvus").setLevel(logging.CRITICAL)

_TEXTS = ("id", "path", "hash", "camera", "person")
_NUMBERS = {"size": DataType.INT64, "mtime_ns": DataType.INT64, "hubness": DataType.DOUBLE, "time": DataType.DOUBLE}
_FIELDS = (*_TEXTS, *_NUMBERS)
_LONGEST_TEXT = 65_535  # bytes; the most that Milvus allows
_IDS_AT_ONCE = 1000
# 5,000 rows of D = 512 are 10 MB, and Milvus takes 64 MB in a message.
_ROWS_AT_ONCE = 5000
_TIMEOUT = 10.0  # seconds to connect in
# A writer says that it is there by a row of the meta collection. Milvus cannot tell whether the process behind it still
# lives, so the row is renewed while it does, and no longer counts some time after. Clocks of hosts may differ by less.
_RENEWED_EVERY = 30.0  # seconds
_WRITER_LASTS = 300.0  # seconds


def parse_uri(uri: str) -> tuple[str, str]:
    """Address and collection of ``http://host:19530/name``, or of ``folder/file.db/name`` for Milvus Lite.

    Raises:
        ConfigError: the URI has another form.
    """
    address, _, collection = uri.rpartition("/")
    is_address = re.fullmatch(r"https?://[^/]+", address) or ("://" not in address and address.endswith(".db"))
    if not is_address or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,249}", collection):
        raise ConfigError(
            f"{uri!r} is no address of a gallery: write http://HOST:19530/NAME, with a name of letters, digits and _"
        )
    return address, collection


class MilvusStore:
    """Rows in a Milvus collection, and :meth:`meta` in a second one, ``NAME_meta``. See ``Store`` for the methods.

    Vectors are fp16 on a server. Milvus Lite, a file, knows fp32 vectors only. Every read waits for all earlier writes
    (consistency level Strong). ``add`` and ``remove`` are done in requests of some thousand rows, each of which happens
    as a whole; only in Milvus Lite can a kill between two requests lose the rows that ``add`` replaces, which the next
    indexing finds to be new. A server finds neighbours by an index that it builds itself, which can miss some.

    Args:
        address: ``http://host:19530``, or a file ``*.db`` of Milvus Lite. The environment variable ``MILVUS_TOKEN``
            holds the token (``user:password``) where the server asks for one.
        collection: its name.
        dim: D, size of an embedding; None takes that of an existing gallery.
        create: begin a gallery where there is none.

    Raises:
        GalleryError: the server cannot be reached, or holds no such gallery, or one of another D.
    """

    most_found = 16_384  # more, Milvus does not allow

    def __init__(self, address: str, collection: str, dim: int | None, create: bool = False) -> None:
        self.address, self.collection = address, collection
        self._meta_collection = f"{collection}_meta"
        self._is_file = "://" not in address
        missing = GalleryError(f"no gallery {collection} at {address}: make one with `cada index`, or check the name")
        if self._is_file and not create and not Path(address).exists():  # Milvus Lite would create it
            raise missing
        with self._explained("reached"):
            token = os.environ.get("MILVUS_TOKEN", "")
            self._client = MilvusClient(address, token=token, timeout=_TIMEOUT)
        try:
            with self._explained("opened"):
                if not self._client.has_collection(collection):
                    if not create:
                        raise missing
                    if dim is None:
                        raise GalleryError(f"a new gallery at {address} needs the size of its embeddings")
                    self._create(dim, DataType.FLOAT_VECTOR if self._is_file else DataType.FLOAT16_VECTOR)
                fields = {field["name"]: field for field in self._client.describe_collection(collection)["fields"]}
                if not {"key", "vector", *_FIELDS} <= set(fields):
                    raise GalleryError(
                        f"the collection {collection} at {address} was not made by `cada index`: give another name"
                    )
                self._half = fields["vector"]["type"] == DataType.FLOAT16_VECTOR
                self.dim = int(fields["vector"]["params"]["dim"]) - 1
                if dim not in (None, self.dim):
                    raise GalleryError(
                        f"the gallery {collection} at {address} holds embeddings of size {self.dim}, not {dim}: use "
                        "the model that made it, or index into another collection"
                    )
                self._client.load_collection(collection)  # a server that was started again may not have it in memory
        except BaseException:
            self.close()
            raise

    def meta(self) -> dict:
        return self._meta_rows('key == "meta"').get("meta", {})

    def set_meta(self, meta: dict) -> None:
        self._set_meta_row("meta", meta)

    @contextmanager
    def only_writer(self) -> Iterator[None]:
        mine, over = f"w{uuid.uuid4().hex[:12]}", threading.Event()
        began = time.time()

        def tell() -> None:
            row = {"host": socket.gethostname(), "pid": os.getpid(), "began": began, "seen": time.time()}
            self._set_meta_row(mine, row)

        def tell_again() -> None:
            while not over.wait(_RENEWED_EVERY):
                with suppress(GalleryError):  # the next time may succeed; what is written reports its own errors
                    tell()

        # Each writer tells first and looks then, so that of two that begin at once at least one sees the other.
        tell()
        renewing = threading.Thread(target=tell_again, daemon=True)
        renewing.start()
        try:
            for key, row in self._meta_rows('key like "w%"').items():
                if key == mine:
                    continue
                if _is_over(row):
                    self._remove_meta_row(key)
                    continue
                since = time.strftime("%Y-%m-%d %H:%M", time.localtime(row["began"]))
                raise ConfigError(
                    f"{self.collection} at {self.address} is in use by an indexing run (process {row['pid']} on "
                    f"{row['host']}, since {since}): {SECOND_WRITER}. If it was killed, it counts until "
                    f"{_WRITER_LASTS / 60:.0f} minutes after it was last seen"
                )
            yield
        finally:
            over.set()
            renewing.join()
            with suppress(GalleryError):  # if this fails, the row no longer counts after a while
                self._remove_meta_row(mine)

    def add(self, rows: Sequence[GalleryRow], embed: np.ndarray) -> None:
        vectors = packed(rows, embed, self.dim, np.float16 if self._half else np.float32)
        with self._explained("written"):
            data = {row.id: _data(row, vector) for row, vector in zip(rows, vectors, strict=True)}
            for some in _chunks(list(data.values()), _ROWS_AT_ONCE):
                if self._is_file:  # upsert of Milvus Lite 3.2 keeps old values of dynamic fields that are not given
                    self._client.delete(self.collection, ids=[entity["key"] for entity in some])
                self._client.upsert(self.collection, some)

    def remove(self, ids: Sequence[str]) -> None:
        with self._explained("written"):
            for some in _chunks([_key(id_) for id_ in ids], _IDS_AT_ONCE):
                self._client.delete(self.collection, ids=some)

    def rows(self) -> Iterator[GalleryRow]:
        with self._explained("read"):
            iterator = self._client.query_iterator(
                self.collection, filter="", output_fields=[*_FIELDS, "$meta"], batch_size=_IDS_AT_ONCE
            )
            try:
                while batch := iterator.next():
                    yield from (_row(entity) for entity in batch)
            finally:
                iterator.close()

    def get(self, ids: Sequence[str]) -> tuple[list[GalleryRow], np.ndarray]:
        found: dict[str, tuple[GalleryRow, np.ndarray]] = {}
        with self._explained("read"):
            for some in _chunks([_key(id_) for id_ in dict.fromkeys(ids)], _IDS_AT_ONCE):
                entities = self._client.query(
                    self.collection, _is_in("key", some), output_fields=["*"], consistency_level="Strong"
                )
                found.update((entity["id"], (_row(entity), _vector(entity["vector"]))) for entity in entities)
        return in_order(ids, found, self.dim, f"{self.collection} at {self.address}")

    def nearest(
        self, vector: np.ndarray, k: int, only: Filter | None = None, hubness_weight: float = 0.0
    ) -> list[tuple[GalleryRow, float]]:
        query = query_vector(vector, self.dim, hubness_weight)
        if k > self.most_found:
            raise GalleryError(f"{k} images are wanted: Milvus finds {self.most_found} at most in one search")
        with self._explained("searched"):
            where = _where(only)
            if k < 1 or where is None:
                return []
            found = self._client.search(
                self.collection,
                data=[query.astype(np.float16) if self._half else query],
                filter=where,
                limit=min(k + MARGIN, self.most_found),
                output_fields=["*"],
                search_params={"metric_type": "IP"},
                anns_field="vector",
                consistency_level="Strong",
            )[0]
        rows = [_row(hit["entity"]) for hit in found]
        vectors = np.array([_vector(hit["entity"]["vector"]) for hit in found]).reshape(len(rows), self.dim + 1)
        return ranked(rows, vectors, vector, k, hubness_weight)

    def count(self, only: Filter | None = None) -> int:
        with self._explained("read"):
            where = _where(only)
            if where is None:
                return 0
            found = self._client.query(self.collection, where, output_fields=["count(*)"], consistency_level="Strong")
            return int(found[0]["count(*)"])

    def compact(self) -> None:
        with self._explained("written"):
            self._client.flush(self.collection)
            self._client.compact(self.collection)  # begins it; the server goes on by itself

    def close(self) -> None:
        with suppress(MilvusException):
            self._client.close()

    def _meta_rows(self, where: str) -> dict[str, dict]:
        """What :meth:`_set_meta_row` stored, by key."""
        with self._explained("read"):
            if not self._client.has_collection(self._meta_collection):
                return {}
            self._client.load_collection(self._meta_collection)
            found = self._client.query(
                self._meta_collection, where, output_fields=["key", "json"], consistency_level="Strong"
            )
            return {row["key"]: json.loads(row["json"]) for row in found}

    def _set_meta_row(self, key: str, content: dict) -> None:
        text = json.dumps(content)
        if len(text) > _LONGEST_TEXT:
            raise GalleryError(f"the description of a gallery has {len(text)} bytes: Milvus keeps {_LONGEST_TEXT}")
        with self._explained("written"):
            if not self._client.has_collection(self._meta_collection):
                schema = self._client.create_schema(auto_id=False)
                schema.add_field("key", DataType.VARCHAR, is_primary=True, max_length=16)
                schema.add_field("json", DataType.VARCHAR, max_length=_LONGEST_TEXT)
                schema.add_field("vector", DataType.FLOAT_VECTOR, dim=2)  # Milvus has no collection without one
                self._create_collection(self._meta_collection, schema)
            self._client.upsert(self._meta_collection, [{"key": key, "json": text, "vector": [0.0, 0.0]}])

    def _remove_meta_row(self, key: str) -> None:
        with self._explained("written"):
            self._client.delete(self._meta_collection, ids=[key])

    def _create(self, dim: int, kind: DataType) -> None:
        schema = self._client.create_schema(auto_id=False, enable_dynamic_field=True)
        schema.add_field("key", DataType.VARCHAR, is_primary=True, max_length=_LONGEST_TEXT)
        schema.add_field("vector", kind, dim=dim + 1)
        for name in _TEXTS:
            schema.add_field(name, DataType.VARCHAR, max_length=_LONGEST_TEXT)
        for name, number in _NUMBERS.items():
            schema.add_field(name, number, nullable=name == "time")
        self._create_collection(self.collection, schema)

    def _create_collection(self, name: str, schema: object) -> None:
        index = self._client.prepare_index_params()
        index.add_index("vector", index_type="AUTOINDEX", metric_type="IP")
        self._client.create_collection(name, schema=schema, index_params=index, consistency_level="Strong")

    @contextmanager
    def _explained(self, done: str) -> Iterator[None]:
        """Turn the errors of Milvus and of text that is no Unicode into a GalleryError."""
        try:
            yield
        except GalleryError:
            raise
        except UnicodeEncodeError as error:
            raise GalleryError(f"{error.object!r} is no Unicode text, which a gallery needs: rename it") from error
        except (MilvusException, OSError, ValueError, RuntimeError) as error:
            reason = getattr(error, "message", "") or first_line(error)
            raise GalleryError(
                f"the gallery {self.collection} at {self.address} cannot be {done} ({reason}): check the address and "
                "that the server is running, and MILVUS_TOKEN where it asks for one"
            ) from error


def _is_over(writer: dict) -> bool:
    """Whether a writer that told of itself is gone: not seen for long, or a process of this host that has ended."""
    if time.time() - writer["seen"] > _WRITER_LASTS:
        return True
    if writer["host"] != socket.gethostname():
        return False
    try:
        os.kill(writer["pid"], 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # it lives, and belongs to somebody else
        pass
    return False


def _key(id_: str) -> str:
    """The primary key of an id, in letters and digits: pymilvus puts keys between quotes as they are to read on after
    the last row of a page, and would read the same page for ever where one holds a quote."""
    return id_.encode().hex()


def _data(row: GalleryRow, vector: np.ndarray) -> dict:
    fields = {name: getattr(row, name) for name in _FIELDS}
    for text in (*(fields[name] for name in _TEXTS), *row.columns.values()):
        text.encode()  # an error here names the text, and that of pymilvus does not
    return {"key": _key(row.id), "vector": vector, **fields} | {
        column_of(name): value for name, value in row.columns.items()
    }


def _row(entity: dict) -> GalleryRow:
    columns = {name_of(name): value for name, value in entity.items() if name.startswith(COLUMN)}
    return GalleryRow(**{name: entity[name] for name in _FIELDS}, columns=columns)


def _vector(stored: object) -> np.ndarray:
    """A vector as fp32; pymilvus returns fp16 ones as bytes, which a query wraps in a list."""
    if isinstance(stored, list) and stored and isinstance(stored[0], bytes):
        stored = stored[0]
    if isinstance(stored, bytes):
        stored = np.frombuffer(stored, dtype=np.float16)
    return np.asarray(stored, dtype=np.float32)


def _where(only: Filter | None) -> str | None:
    """A filter as an expression of Milvus: "" for one that keeps every row, None for one that keeps none."""
    if only is None:
        return ""
    terms = [_is_in("camera", only.cameras)] if only.cameras else []
    for sign, bound in ((">=", only.after), ("<", only.before)):
        if bound is None:
            continue
        if math.isinf(bound):  # Milvus has no such number
            if (bound > 0) == (sign == ">="):
                return None
            terms.append("time is not null")
        else:
            terms.append(f"time {sign} {float(bound)!r}")
    for name, values in only.columns.items():
        if values:
            terms.append(_is_in(name if name in ("camera", "person") else column_of(name), values))
    return " and ".join(terms)


def _is_in(field: str, values: Sequence[str]) -> str:
    return f"{field} in [{', '.join(_quoted(value) for value in values)}]"


def _quoted(value: str) -> str:
    """A text for an expression. The server has templates for this (``filter_params``), and Milvus Lite has not."""
    escapes = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r"}
    return '"' + "".join(escapes.get(letter, letter) for letter in value) + '"'


def _chunks(items: list, size: int) -> Iterator[list]:
    return (items[start : start + size] for start in range(0, len(items), size))
