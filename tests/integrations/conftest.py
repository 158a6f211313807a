"""Trainings of a second, for the adapter to the engine."""

from small_trainings import cache, small

__all__ = ["cache", "small"]
