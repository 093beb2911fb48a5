"""A gallery in the browser: a JSON API, and the page that uses it."""

from .api import create_app

__all__ = ["create_app"]
