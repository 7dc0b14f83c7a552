"""Plots as files, without a display."""

from __future__ import annotations

from io import BytesIO
from typing import Any


def canvas(width: float, height: float, columns: int = 1) -> tuple[Any, Any]:
    """A figure of this size in inches, and its axes; an array of them for several columns."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(1, columns)


def png(figure: Any) -> bytes:
    """The figure as PNG."""
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()
