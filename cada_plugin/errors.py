"""Typed errors of the plugin. Each message names the thing, what was expected and what to do next."""


class CADAError(Exception):
    """Base of every error that the plugin raises for input it cannot use."""


class AnnotationError(CADAError, ValueError):
    """An annotation file cannot be read as the data set it should describe."""


class ImageError(CADAError, ValueError):
    """An image file is missing, damaged, not an image, or too large to decode safely."""


class CheckpointError(CADAError, ValueError):
    """A file is not a checkpoint, belongs to another architecture, or cannot be loaded safely."""


class MissingExtraError(CADAError, ImportError):
    """An optional dependency, or the data it needs, is not installed."""


class ConfigError(CADAError, ValueError):
    """A setting is impossible, or contradicts another one."""
