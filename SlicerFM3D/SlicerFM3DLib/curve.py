"""The training curve, painted with Qt alone: a picture of the loss over time, and where versions came out.

A pixmap and not a widget with a ``paintEvent``, because PythonQt does not call every method that Python overrides.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import qt

from . import wording
from .train_status import EarlyVersion
from .translation import tr as _

LEFT, RIGHT, TOP, BOTTOM = 44, 8, 16, 18  # pixels around the plot
LINE_COLOR, MARK_COLOR = "#0072b2", "#d55e00"


def paint(
    points: Sequence[tuple[float, float]], versions: Sequence[EarlyVersion], width: int, height: int, ink: Any
) -> Any:
    """The curve as a pixmap.

    :param points: (seconds, loss), at least two.
    :param versions: marked where they came out.
    :param width, height: pixels.
    :param ink: QColor of axes and figures.
    """
    width = max(width, 200)
    pixmap = qt.QPixmap(width, height)
    pixmap.fill(qt.QColor(qt.Qt.transparent))
    painter = qt.QPainter(pixmap)
    painter.setRenderHint(qt.QPainter.Antialiasing)
    font = painter.font()
    font.setPointSize(8)
    painter.setFont(font)
    marked = [version.seconds for version in versions if version.seconds is not None]
    first, last = min([points[0][0], *marked]), max(points[-1][0], points[0][0] + 1e-6)
    losses = [loss for _seconds, loss in points]
    low, high = min(losses), max(losses)
    high = high if high > low else low + 1.0

    def x(seconds: float) -> float:
        return LEFT + (width - LEFT - RIGHT) * min(1.0, (seconds - first) / (last - first))

    def y(loss: float) -> float:
        return TOP + (height - TOP - BOTTOM) * (high - loss) / (high - low)

    painter.setPen(qt.QPen(ink))
    painter.drawLine(LEFT, height - BOTTOM, width - RIGHT, height - BOTTOM)
    painter.drawLine(LEFT, TOP, LEFT, height - BOTTOM)
    painter.drawText(2, TOP - 4, _("loss"))
    painter.drawText(2, int(y(high)) + 10, f"{high:.2f}")
    painter.drawText(2, int(y(low)), f"{low:.2f}")
    painter.drawText(LEFT, height - 4, wording.duration(first))
    _text(painter, width - RIGHT, height - 4, wording.duration(last))
    for version in versions:
        if version.seconds is not None:
            place = int(x(version.seconds))
            painter.setPen(qt.QPen(qt.QColor(MARK_COLOR)))
            painter.drawLine(place, TOP, place, height - BOTTOM)
            _text(painter, place, TOP - 4, _("version {n}").format(n=version.number))
    pen = qt.QPen(qt.QColor(LINE_COLOR))
    pen.setWidth(2)
    painter.setPen(pen)
    for (a, one), (b, other) in itertools.pairwise(points):
        painter.drawLine(int(x(a)), int(y(one)), int(x(b)), int(y(other)))
    painter.end()
    return pixmap


def _text(painter: Any, right: int, bottom: int, text: str) -> None:
    """Text that ends at ``right``, or as far left as the picture goes."""
    metrics = painter.fontMetrics()
    wide = metrics.horizontalAdvance(text) if hasattr(metrics, "horizontalAdvance") else metrics.width(text)
    painter.drawText(max(LEFT + 2, right - wide), bottom, text)
