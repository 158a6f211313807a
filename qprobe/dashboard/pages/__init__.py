"""The pages, in the order of the navigation."""

from qprobe.dashboard.context import Page
from qprobe.dashboard.pages import overview

PAGES: tuple[Page, ...] = (overview.PAGE,)
