"""Drawn pedestrians with captions: the embedded stand-in for CUHK-PEDES that lets everything run without a download."""

from cada_plugin.datasets.procedural.build import build_procedural

__all__ = ["build_procedural"]
