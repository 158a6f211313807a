"""Every layer as a row of a grid, each cell coloured by its rank among the layers."""

from typing import Any

from qprobe.dashboard.context import Context
from qprobe.dashboard.layer_table import LayerTable
from qprobe.dashboard.measures import Measure
from qprobe.dashboard.numerals import plain


def columns(measures: tuple[Measure, ...]) -> list[dict[str, Any]]:
    """The layer, and a column for each measure."""
    first = {"field": "name", "headerName": "layer", "cellRenderer": "Link", "pinned": "left",
             "width": 260, "tooltipField": "name", "cellClass": "mono"}  # fmt: skip
    return [
        first,
        *(
            {
                "field": f"m{place}",
                "headerName": measure.title,
                "headerTooltip": measure.name,
                "type": "numericColumn",
                "width": 132,
                "valueFormatter": {"function": "measured(params)"},
                "cellStyle": {"function": "heat(params)"},
                "sortingOrder": ["asc", "desc"] if measure.higher_is_better else ["desc", "asc"],
            }
            for place, measure in enumerate(measures)
        ),
    ]


def rows(context: Context, run: str, table: LayerTable) -> list[dict[str, Any]]:
    """Values ``m0``…, ranks ``r0``…, and words ``t0``… for what is no finite number."""
    shares = table.shares
    found = []
    for number, site in enumerate(table.sites):
        row: dict[str, Any] = {
            "name": site,
            "name_href": context.link("/layer", run=run, layer=site),
        }
        for place in range(len(table.measures)):
            if not table.there[number, place]:
                continue
            value, share = float(table.values[number, place]), float(shares[number, place])
            finite = abs(value) < float("inf")
            row[f"m{place}"] = value if finite else None
            row[f"r{place}"] = round(share, 3)
            if not finite:
                row[f"t{place}"] = plain(value)
        found.append(row)
    return found
