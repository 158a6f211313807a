"""Colours, type and the settings that every chart and grid shares, in light and in dark."""

from functools import cache
from typing import Any, Final
from urllib.parse import quote

import plotly.graph_objects as go

FONT: Final = "Inter, system-ui, sans-serif"
MONO: Final = "'JetBrains Mono', ui-monospace, monospace"

#: Five lines, at least 3:1 on the panel and apart for every kind of colour vision.
LINES_LIGHT: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#333333")
LINES_DARK: Final = ("#56B4E9", "#E69F00", "#2FBF8F", "#E39BC4", "#F0E442")
#: After five colours the dash tells lines apart.
DASHES: Final = ("solid", "dash", "dot", "dashdot")

#: Bright is worst: its lightness rises evenly, also without red or green.
SEQUENTIAL: Final = "Cividis"
DIVERGING_LIGHT: Final = "RdBu_r"
DIVERGING_DARK: Final = [
    [0.0, "#8ed1ff"], [0.17, "#3f9be0"], [0.33, "#1f5f93"], [0.5, "#2b2d31"],
    [0.67, "#8f4a1c"], [0.83, "#d9752b"], [1.0, "#ffbf87"],
]  # fmt: skip

#: Nothing leaves the machine: plotly's own button would hand the data to its makers' site.
GRAPH_CONFIG: Final[Any] = {
    "displaylogo": False,
    "showSendToCloud": False,
    "plotlyServerURL": "",
    "responsive": True,
    "modeBarButtonsToRemove": ["select2d", "lasso2d", "autoScale2d"],
}

MANTINE: Final[dict[str, Any]] = {
    "primaryColor": "indigo",
    "primaryShade": {"light": 7, "dark": 5},
    "autoContrast": True,
    "fontFamily": FONT,
    "fontFamilyMonospace": MONO,
    "defaultRadius": "md",
    "fontSizes": {"sm": "13px", "md": "14px"},
}

#: AG Grid takes its colours from Mantine's variables, so a change of theme needs no callback.
GRID_THEME: Final = {
    "function": "themeQuartz.withParams({"
    "backgroundColor:'var(--mantine-color-body)',foregroundColor:'var(--mantine-color-text)',"
    "borderColor:'var(--mantine-color-default-border)',"
    "headerBackgroundColor:'var(--mantine-color-default-hover)',"
    "accentColor:'var(--mantine-primary-color-filled)',"
    "fontFamily:'inherit',fontSize:13,rowHeight:34,headerHeight:36,browserColorScheme:'inherit'})"
}

# The scheme is set before anything is painted, so that a dark page never flashes white.
BOOT: Final = (
    "try{var s=localStorage.getItem('mantine-color-scheme-value')||'auto';"
    "if(s==='auto')s=matchMedia('(prefers-color-scheme: dark)').matches?'dark':'light';"
    "document.documentElement.setAttribute('data-mantine-color-scheme',s)}catch(e){}"
)
# The mark, a tile of four cells one of which fails; as part of the page it is asked for once.
_CELLS: Final = ((0, 0, "35456c"), (11, 0, "fee838"), (0, 11, "35456c"), (11, 11, "7d7c78"))
ICON: Final = (
    '<link rel="icon" href="data:image/svg+xml,'
    + quote(
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 20 20">'
        + "".join(
            f'<rect x="{x}" y="{y}" width="9" height="9" rx="1.5" fill="#{colour}"/>'
            for x, y, colour in _CELLS
        )
        + "</svg>"
    )
    + '">'
)
INDEX: Final = (
    '<!DOCTYPE html><html lang="en"><head>{%metas%}<meta name="color-scheme" content="light dark">'
    "<title>{%title%}</title>"
    + ICON
    + "{%css%}<script>"
    + BOOT
    + "</script></head><body>{%app_entry%}<footer>{%config%}{%scripts%}{%renderer%}</footer>"
    "</body></html>"
)


def lines(dark: bool) -> tuple[str, ...]:
    """Colours of lines and points."""
    return LINES_DARK if dark else LINES_LIGHT


def line(number: int, dark: bool) -> dict[str, str]:
    """Colour and dash of a line by its place, which stays its own whatever else is shown.

    >>> line(0, False)
    {'color': '#0072B2', 'dash': 'solid'}
    >>> line(5, False)
    {'color': '#0072B2', 'dash': 'dash'}
    """
    colours = lines(dark)
    turn, place = divmod(number, len(colours))
    return {"color": colours[place], "dash": DASHES[turn % len(DASHES)]}


def diverging(dark: bool) -> Any:
    """The scale about zero: red, or orange on dark, is worse than the baseline."""
    return DIVERGING_DARK if dark else DIVERGING_LIGHT


def ink(dark: bool) -> str:
    """Text in charts."""
    return "#c9cdd3" if dark else "#343a40"


def panel(dark: bool) -> str:
    """What lies above a chart and is read."""
    return "#2e2e2e" if dark else "#ffffff"


def ink_on(share: float) -> str:
    """Text on the sequential scale, at a share of its length: at least 4.5:1 everywhere.

    >>> ink_on(0.0), ink_on(1.0)
    ('#ffffff', '#000000')
    """
    return "#ffffff" if share < 0.47 else "#000000"


def rule(dark: bool) -> str:
    """Grid lines."""
    return "#3a3d42" if dark else "#e6e8eb"


def absent(dark: bool) -> str:
    """Cells in which nothing was measured."""
    return "#3a3d42" if dark else "#dfe2e6"


@cache
def template(dark: bool) -> go.layout.Template:
    """What every chart looks like; transparent, so that it takes the colour of its card."""
    axis = {
        "gridcolor": rule(dark),
        "linecolor": rule(dark),
        "zerolinecolor": rule(dark),
        "automargin": True,
        "title": {"standoff": 8},
        # Where the pointer is. Less than nothing takes the border off, whose colour plotly takes
        # from a paper that is transparent: it would be white in the dark.
        "spikecolor": "#868e96",
        "spikethickness": -2,
    }
    layout = go.Layout(
        font={"family": FONT, "size": 12, "color": ink(dark)},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        colorway=list(lines(dark)),
        margin={"l": 48, "r": 16, "t": 16, "b": 40},
        xaxis=axis,
        yaxis=axis,
        # Plotly's own is white, in the dark under bright words.
        hoverlabel={
            "bgcolor": panel(dark), "bordercolor": "#868e96",
            "font": {"family": FONT, "size": 12, "color": ink(dark)},
        },
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        modebar={
            "bgcolor": "rgba(0,0,0,0)", "color": "#868e96", "activecolor": ink(dark),
            "orientation": "v",
        },
    )  # fmt: skip
    return go.layout.Template(layout=layout)
