"""Pictures of results: ranked galleries, explanations of a match, and the reliability of a calibration."""

from cada_plugin.visualization.explanation import draw_explanation
from cada_plugin.visualization.gallery import RankedQuery, draw_ranked_galleries
from cada_plugin.visualization.reliability import draw_reliability

__all__ = ["RankedQuery", "draw_explanation", "draw_ranked_galleries", "draw_reliability"]
