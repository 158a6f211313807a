"""What the models say: precision against recall, and how logits are spread."""

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from qprobe.dashboard import theme
from qprobe.dashboard.figures.frame import empty, frame, text
from qprobe.inference import average_precision_of_histograms, precision_recall

Named = Sequence[tuple[str, NDArray[np.int64]]]

#: Points of a curve: a staircase shows well before that.
_POINTS = 400
_BINS = 128
_LIMIT = 16.0


def curves(histograms: Named, *, dark: bool) -> go.Figure:
    """Precision against recall over all pixels of the test set, with the area under it."""
    usable = [(name, counts) for name, counts in histograms if counts[1].sum() > 0]
    if not usable:
        return empty("No run has predictions of pixels that are foreground.", dark=dark)
    traces = []
    for number, (name, counts) in enumerate(usable):
        precision, recall = precision_recall(counts)
        kept = np.unique(np.linspace(0, len(recall) - 1, _POINTS).astype(int))
        area = float(average_precision_of_histograms(counts))
        traces.append(go.Scatter(
            x=recall[kept].astype(np.float32),
            y=precision[kept].astype(np.float32),
            name=f"{text(name)}  {area:.3f}",
            mode="lines",
            line={**theme.line(number, dark), "width": 2, "shape": "hv"},
            hovertemplate="recall %{x:.3f}, precision %{y:.3f}",
        ))  # fmt: skip
    across = {"title": "recall", "range": [0, 1.01]}
    upwards = {"title": "precision", "range": [0, 1.02]}
    return frame(*traces, dark=dark, xaxis=across, yaxis=upwards)


def spread(histograms: Named, *, dark: bool) -> go.Figure:
    """How often each logit was given, apart for background and foreground pixels."""
    if not histograms:
        return empty("No run has predictions.", dark=dark)
    traces = []
    for number, (name, counts) in enumerate(histograms):
        size = counts.shape[1] // _BINS
        coarse = counts.reshape(2, _BINS, size).sum(2)
        x = (np.arange(_BINS) + 0.5) * (2 * _LIMIT / _BINS) - _LIMIT
        for side, (word, dash) in enumerate((("background", "dot"), ("foreground", "solid"))):
            traces.append(go.Scatter(
                x=x.astype(np.float32),
                y=np.where(coarse[side] > 0, coarse[side], np.nan),
                name=f"{text(name)}, {word}",
                mode="lines",
                line={"color": theme.line(number, dark)["color"], "dash": dash, "width": 2,
                      "shape": "hvh"},
                hovertemplate="logit %{x:.2f}: %{y:,} pixels",
            ))  # fmt: skip
    across = {"title": "logit (0 is a probability of one half)"}
    upwards = {"title": "pixels", "type": "log", "dtick": 1}
    return frame(*traces, dark=dark, xaxis=across, yaxis=upwards)
