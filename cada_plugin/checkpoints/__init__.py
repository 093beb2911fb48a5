"""Read weights safely, convert the names of other releases, fit them to a model, write them."""

from .convert import Conversion, detect_format, to_cada, to_hf_blip
from .fit import fit_state, resize_image_positions
from .io import read_weights, write_weights
from .load import LoadReport, load_checkpoint, load_into_runner

__all__ = [
    "Conversion",
    "LoadReport",
    "detect_format",
    "fit_state",
    "load_checkpoint",
    "load_into_runner",
    "read_weights",
    "resize_image_positions",
    "to_cada",
    "to_hf_blip",
    "write_weights",
]
