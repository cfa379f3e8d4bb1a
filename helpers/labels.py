"""Words in a figure, moved as little as it takes to read each of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from math import hypot
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle
    from matplotlib.path import Path
    from matplotlib.text import Annotation, Text
    from matplotlib.transforms import Bbox

MOVABLE, ABOVE_BARS = "movable", "movable, above bars"
PAD = 3.0  # pixels around a word
SHIFTS = sorted(product(range(-60, 61, 6), range(-60, 61, 6)), key=lambda shift: hypot(*shift))  # points
# What a place costs, in points that a word would rather be moved.
ON_A_WORD, ON_A_BAR, ON_A_LINE = 1000.0, 100.0, 20.0
ACROSS = (0.0, 0.25, 0.5, 0.75, 1.0)  # of a bar
RISES = (0, 1, -1, 2, -2, 3)  # of a word's height
BOX = {"facecolor": "white", "edgecolor": "none", "alpha": 0.92, "pad": 1}


def word(
    panel: Axes,
    at: tuple[float, float],
    text: str,
    offset: tuple[float, float] = (0, 0),
    *,
    above_bars: bool = False,
    **style: Any,
) -> Annotation:
    """A word `offset` points from a place in the data, until `spread` moves it. Of two words that want the same room the
    one with the higher `zorder` stays; else the one that was made first."""
    return panel.annotate(
        text,
        at,
        xytext=offset,
        textcoords="offset points",
        gid=ABOVE_BARS if above_bars else MOVABLE,
        in_layout=False,  # it goes by its panel's size, not the other way round
        **style,
    )


def spread(figure: Figure) -> None:
    """Move what `word` made, so that each lies within its panel, on no other word and, where it can be had, on no line."""
    figure.draw_without_rendering()
    point = figure.dpi / 72  # pixels
    for panel in figure.axes:
        free = [text for text in panel.texts if text.get_gid() in (MOVABLE, ABOVE_BARS)]
        taken = [_box(text) for text in panel.texts if text not in free]
        taken += [line.get_window_extent() for line in panel.lines if line.get_marker() != "None"]
        lines, bars = _lines(panel), [bar.get_window_extent() for bar in panel.patches]
        for text in sorted(free, key=lambda text: -text.get_zorder()):
            here, best, least = _box(text), (0.0, 0.0), float("inf")
            for shift in SHIFTS:
                if hypot(*shift) >= least:
                    break  # the others are farther yet
                there = here.translated(shift[0] * point, shift[1] * point)
                cost = hypot(*shift) + _cost(there, panel.bbox, taken, lines)
                if text.get_gid() == ABOVE_BARS:
                    cost += ON_A_BAR * there.count_overlaps(bars)
                if cost < least:
                    best, least = shift, cost
            x, y = text.xyann
            text.xyann = x + best[0], y + best[1]
            taken.append(here.translated(best[0] * point, best[1] * point))


def put_on_bars(panel: Axes, names: Mapping[Text, Iterable[Rectangle]]) -> None:
    """Move each word of a panel that was drawn onto bars of its own: where most of it is on them, and it on nothing else."""
    lines, taken = _lines(panel), []
    for text, own in names.items():
        bars = [bar.get_window_extent() for bar in own if bar.get_height() > 0]
        here = _box(text)
        middle = sum(map(_x, bars)) / len(bars)
        highest = max(bar.height for bar in bars)
        least, best = float("inf"), here
        for bar, part, rise in product(bars, ACROSS, RISES):
            x, y = bar.x0 + part * bar.width, _y(bar) + rise * here.height
            there = _within(panel.bbox, here.translated(x - _x(here), y - _y(here)))
            beside = 1 - sum(_shared(there, each) for each in bars) / (there.width * there.height)
            cost = ON_A_BAR * (beside + abs(rise) / 4 + (1 - bar.height / highest) / 5)
            cost += _cost(there, panel.bbox, taken, lines) + abs(_x(there) - middle) / 50
            if cost < least:
                best, least = there, cost
        text.set_position(panel.transData.inverted().transform((_x(best), _y(best))))
        taken.append(best)


def _box(text: Text) -> Bbox:
    return text.get_window_extent().padded(PAD)


def _lines(panel: Axes) -> list[Path]:
    """Of all but those in the background."""
    return [
        line.get_transform().transform_path(line.get_path()) for line in panel.lines if line.get_zorder() > 0
    ]


def _cost(box: Bbox, room: Bbox, taken: Sequence[Bbox], lines: Sequence[Path]) -> float:
    outside = 1 - _shared(box, room) / (box.width * box.height)
    crossed = sum(path.intersects_bbox(box, filled=False) for path in lines)
    return ON_A_WORD * (box.count_overlaps(taken) + (outside > 1e-6) + outside) + ON_A_LINE * crossed


def _shared(one: Bbox, other: Bbox) -> float:
    """Pixels that both cover."""
    width = min(one.x1, other.x1) - max(one.x0, other.x0)
    height = min(one.y1, other.y1) - max(one.y0, other.y0)
    return max(width, 0.0) * max(height, 0.0)


def _within(room: Bbox, box: Bbox) -> Bbox:
    """The box, moved as little as it takes to be in the room."""
    x = max(room.x0 - box.x0, 0) or min(room.x1 - box.x1, 0)
    y = max(room.y0 - box.y0, 0) or min(room.y1 - box.y1, 0)
    return box.translated(x, y)


def _x(box: Bbox) -> float:
    return (box.x0 + box.x1) / 2


def _y(box: Bbox) -> float:
    return (box.y0 + box.y1) / 2
