"""Galleries that are kept: encoded pictures in a database, brought up to date and searched by sentences."""

from .facts import Facts, NamePattern, read_facts
from .gallery import Gallery
from .query import Query
from .searching import GalleryHit
from .store import Filter, GalleryRow, Store

__all__ = ["Facts", "Filter", "Gallery", "GalleryHit", "GalleryRow", "NamePattern", "Query", "Store", "read_facts"]
