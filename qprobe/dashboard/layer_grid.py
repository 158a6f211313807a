"""Every layer as a row of a grid, each cell coloured by its rank among the layers."""

from typing import Any

from qprobe.dashboard.context import Context
from qprobe.dashboard.layer_table import LayerTable
from qprobe.dashboard.numerals import plain

#: Pixels of a character of a name, of the space beside it, and of the narrowest and widest column.
_CHARACTER, _BESIDE, _NARROWEST, _WIDEST = 8, 36, 100, 260


def columns(table: LayerTable) -> list[dict[str, Any]]:
    """The layer, and a column for each measure."""
    # It stays while the others move: what it does not need is theirs, on a phone above all.
    longest = _BESIDE + _CHARACTER * max(map(len, table.sites), default=0)
    width = min(_WIDEST, max(_NARROWEST, longest))
    first = {"field": "name", "headerName": "layer", "cellRenderer": "Link", "pinned": "left",
             "width": width, "tooltipField": "name", "cellClass": "mono"}  # fmt: skip
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
            for place, measure in enumerate(table.measures)
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
