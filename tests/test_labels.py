"""Where words go in a figure, told from their boxes in pixels."""

from __future__ import annotations

import matplotlib
import pytest
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.text import Annotation

from helpers.labels import put_on_bars, spread, word

matplotlib.use("agg")


@pytest.fixture
def panel() -> Axes:
    figure, panel = pyplot.subplots(figsize=(4, 3))
    pyplot.close(figure)
    panel.set_xlim(0, 10)
    panel.set_ylim(0, 10)
    return panel


def box(text: Annotation):
    return text.get_window_extent()


def test_a_word_that_can_be_read_stays(panel):
    text = word(panel, (5, 5), "here", (3, 4), ha="center")
    spread(panel.figure)
    assert text.xyann == (3, 4)


def test_of_two_words_in_one_place_the_second_moves_and_no_farther_than_it_must(panel):
    first, second = (word(panel, (5, 5), name) for name in ("first", "second"))
    spread(panel.figure)
    assert first.xyann == (0, 0)
    assert not box(first).overlaps(box(second))
    assert max(map(abs, second.xyann)) <= 24


def test_the_higher_one_stays(panel):
    lower, higher = (word(panel, (5, 5), "a word", zorder=order) for order in (3, 6))
    spread(panel.figure)
    assert higher.xyann == (0, 0)
    assert lower.xyann != (0, 0)


@pytest.mark.parametrize("at", [(0, 0), (10, 10), (10, 0), (0, 10)])
def test_a_word_at_a_corner_comes_in(panel, at):
    text = word(panel, at, "in the corner", ha="center", va="center")
    spread(panel.figure)
    assert panel.bbox.x0 <= box(text).x0 < box(text).x1 <= panel.bbox.x1
    assert panel.bbox.y0 <= box(text).y0 < box(text).y1 <= panel.bbox.y1


def test_a_word_leaves_a_line_that_is_near_and_ignores_the_background(panel):
    panel.axhline(5)
    panel.axvline(2, zorder=0)
    on_the_line, behind = word(panel, (7, 5), "on it", va="center"), word(panel, (2, 8), "here", ha="center")
    spread(panel.figure)
    assert not box(on_the_line).y0 <= panel.transData.transform((0, 5))[1] <= box(on_the_line).y1
    assert behind.xyann == (0, 0)


def test_a_word_above_bars_lies_on_none(panel):
    bars = panel.bar([4, 5, 6], [7, 4, 7], width=1)
    text = word(panel, (5, 4), "a long word", ha="center", above_bars=True)
    spread(panel.figure)
    assert not box(text).count_overlaps([bar.get_window_extent() for bar in bars])


def test_names_lie_on_their_own_bars_and_in_the_panel_when_there_is_no_room_on_them(panel):
    low, high = panel.bar([2, 3], [6, 0.1], width=1), panel.bar([2, 3], [0.2, 3], width=1, bottom=[6, 0.1])
    names = [panel.text(0, 0, name, ha="center", va="center") for name in ("low", "high")]
    panel.figure.draw_without_rendering()
    put_on_bars(panel, dict(zip(names, (low.patches, high.patches), strict=True)))
    on = [bars[n].get_window_extent() for bars, n in ((low, 0), (high, 1))]
    for text, bar in zip(names, on, strict=True):
        assert bar.contains(*((box(text).min + box(text).max) / 2))
        assert panel.bbox.x0 <= box(text).x0 < box(text).x1 <= panel.bbox.x1
    assert not box(names[0]).overlaps(box(names[1]))
