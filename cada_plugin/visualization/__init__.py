"""Pictures for people: ranked galleries."""

from cada_plugin.visualization.gallery import Row, draw_ranked_galleries

__all__ = ["Row", "draw_ranked_galleries"]
