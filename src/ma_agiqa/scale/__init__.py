"""The same scorer on many machines: one callable for their engines, and jobs that survive kills."""

from ma_agiqa.scale.table import SCHEMA, ScoreTable

__all__ = ["SCHEMA", "ScoreTable"]
