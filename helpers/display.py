"""How results look in a notebook: lines end between words, text stands on the left, AWS times have whole seconds."""

from __future__ import annotations

import html
import re
import textwrap
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from pandas import DataFrame, Series

WIDTH = 92  # characters; a line that JupyterLab has no room for is cut anywhere, mostly in a word
SHORT = 24  # characters of a table's cell that stays on one line
MOST_ROWS = 60  # of a table that is shown whole; pandas has the same limit
MOST_DECIMALS = 3
T = TypeVar("T")


def wrap(text: str, indent: str = "  ") -> str:
    """`text` in lines of at most WIDTH characters; a word that is longer stays whole. What follows on is indented."""
    return "\n".join(
        textwrap.fill(line, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
        for line in text.splitlines()
    )


def table(head: Sequence[str], rows: Iterable[Sequence[str]], numeric: Iterable[int] = ()) -> str:
    """HTML; `code` between backticks is set as code. Columns whose place is in `numeric` are set to the right."""
    right = set(numeric)

    def style(place: int, cell: str) -> str:
        whole = "; white-space:nowrap" if len(cell) <= SHORT else ""
        return f"text-align:{'right' if place in right else 'left'}{whole}"

    def row(kind: str, cells: Sequence[str]) -> str:
        told = (
            f'<{kind} style="{style(place, cell)}">{_html(cell)}</{kind}>' for place, cell in enumerate(cells)
        )
        return f"<tr>{''.join(told)}</tr>"

    return f"<table>{row('th', head)}{''.join(row('td', cells) for cells in rows)}</table>"


def box(text: str) -> str:
    """HTML of preformatted `text`, itself HTML: a long one scrolls in place, so that the page stays short."""
    style = "line-height:1.3; max-height:32em; overflow:auto; white-space:pre; font-family:var(--jp-code-font-family, monospace)"
    return f'<pre style="{style}">{text}</pre>'


def frame(data: DataFrame) -> str | None:
    """HTML of a table, its index only where it says something; None for one that is too long or has levels."""
    from pandas import RangeIndex
    from pandas.api.types import is_bool_dtype, is_numeric_dtype

    if len(data) > MOST_ROWS or data.index.nlevels + data.columns.nlevels > 2 or not data.columns.is_unique:
        return None
    shown = data if isinstance(data.index, RangeIndex) else data.reset_index(names=data.index.name or "")
    columns = [shown.iloc[:, place] for place in range(shown.shape[1])]
    numeric = [
        place
        for place, column in enumerate(columns)
        if is_numeric_dtype(column.dtype) and not is_bool_dtype(column.dtype)
    ]
    return table([str(name) for name in shown.columns], zip(*map(_texts, columns), strict=True), numeric)


def show_frames(formatters: dict) -> None:
    """From now on a kernel with these `display_formatter.formatters` shows pandas' tables as `frame` does, and cuts no
    text in them, nor in plain text: an event that is cut off is no event."""

    def show(data: DataFrame) -> str | None:
        told = frame(data)
        return _uncut(data._repr_html_) if told is None else told

    def say(data: DataFrame | Series, printer: Any, cycle: bool) -> None:
        printer.text(_uncut(data.__repr__))

    for module in ("pandas", "pandas.core.frame"):  # before version 3 it is the second
        formatters["text/html"].for_type_by_name(module, "DataFrame", show)
        formatters["text/plain"].for_type_by_name(module, "DataFrame", say)
    for module in ("pandas", "pandas.core.series"):
        formatters["text/plain"].for_type_by_name(module, "Series", say)


def _uncut(told: Callable[[], T]) -> T:
    from pandas import option_context

    with option_context("display.max_colwidth", None):
        return told()


def _texts(column: Series) -> list[str]:
    from pandas import isna
    from pandas.api.types import is_datetime64_any_dtype, is_float_dtype

    if is_datetime64_any_dtype(column.dtype):
        return ["" if isna(moment) else f"{moment:%Y-%m-%d %H:%M:%S}" for moment in column]
    if is_float_dtype(column.dtype):
        decimals = next(
            (n for n in range(MOST_DECIMALS) if (column.round(n) - column).abs().max() < 1e-9), MOST_DECIMALS
        )
        return ["" if isna(value) else f"{value:,.{decimals}f}" for value in column]
    return ["" if value is None or value != value else str(value) for value in column]


def _html(text: str) -> str:
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text))
