"""Pictures of results: ranked galleries."""

from cada_plugin.visualization.gallery import RankedQuery, draw_ranked_galleries

__all__ = ["RankedQuery", "draw_ranked_galleries"]
