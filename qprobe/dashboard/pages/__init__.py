"""The pages, in the order of the navigation."""

from qprobe.dashboard.context import Page
from qprobe.dashboard.pages import (
    attention,
    branches,
    compare,
    curvature,
    layer,
    layers,
    live,
    overview,
    predictions,
    recovery,
)

PAGES: tuple[Page, ...] = (
    overview.PAGE,
    layers.PAGE,
    layer.PAGE,
    attention.PAGE,
    branches.PAGE,
    recovery.PAGE,
    curvature.PAGE,
    predictions.PAGE,
    compare.PAGE,
    live.PAGE,
)
