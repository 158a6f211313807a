"""Questions asked of a model and of what was measured of it; the answers are findings."""
