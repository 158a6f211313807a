"""The pages, in the order of the navigation."""

from qprobe.dashboard.context import Page
from qprobe.dashboard.pages import layer, layers, overview

PAGES: tuple[Page, ...] = (overview.PAGE, layers.PAGE, layer.PAGE)
