"""Procedural pedestrians with captions: a stand-in for CUHK-PEDES, so that everything runs without a download."""

from cada_plugin.datasets.procedural.build import build_procedural

__all__ = ["build_procedural"]
