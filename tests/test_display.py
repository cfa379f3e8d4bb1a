from __future__ import annotations

import pandas as pd
from hypothesis import given
from hypothesis import strategies as st

from helpers import display


@given(st.lists(st.text("abc-é/", min_size=1, max_size=130), min_size=1, max_size=30))
def test_wrapping_cuts_no_word_and_loses_none(words):
    wrapped = display.wrap(" ".join(words))
    assert wrapped.split() == words
    assert all(len(line) <= display.WIDTH or " " not in line.strip() for line in wrapped.splitlines())


def test_what_follows_on_is_indented_and_lines_stay_apart():
    assert display.wrap("one\ntwo " + "x" * 90) == "one\ntwo\n  " + "x" * 90


def test_text_is_on_the_left_and_numbers_on_the_right_without_a_bare_index():
    shown = display.frame(pd.DataFrame({"what": ["a < b"], "minutes": [5.9], "whole": [3]}))
    assert '<th style="text-align:left; white-space:nowrap">what</th>' in shown
    assert '<td style="text-align:left; white-space:nowrap">a &lt; b</td>' in shown
    assert '<td style="text-align:right; white-space:nowrap">5.9</td>' in shown
    assert '<td style="text-align:right; white-space:nowrap">3</td>' in shown
    assert ">0<" not in shown


def test_an_index_that_says_something_is_a_column():
    shown = display.frame(pd.DataFrame({"good": ["✓"]}, index=["runs as"]))
    assert '<td style="text-align:left; white-space:nowrap">runs as</td>' in shown


def test_times_have_whole_seconds_and_what_is_not_there_is_empty():
    when = pd.to_datetime(["2026-11-23T13:35:51.083Z", None])
    shown = display.frame(pd.DataFrame({"started": when, "code": [None, 137.0], "reason": [None, "x"]}))
    assert ">2026-11-23 13:35:51<" in shown
    assert ">137<" in shown
    assert not {"NaT", "nan", "None", "137.0"} & set(shown.replace("<", ">").split(">"))


def test_a_number_keeps_the_decimals_that_it_needs_and_no_more_than_three():
    texts = [display._texts(pd.Series(values)) for values in ([1.0, 2.0], [0.5, 10.0], [1 / 3], [12345.5])]
    assert texts == [["1", "2"], ["0.5", "10.0"], ["0.333"], ["12,345.5"]]


def test_a_table_that_is_too_long_or_has_levels_is_left_to_pandas():
    assert display.frame(pd.DataFrame({"n": range(display.MOST_ROWS + 1)})) is None
    assert display.frame(pd.DataFrame({"n": [1]}, index=pd.MultiIndex.from_tuples([(1, 2)]))) is None


def test_a_kernel_shows_tables_so():
    from IPython.core.formatters import DisplayFormatter

    formatters = DisplayFormatter().formatters
    display.show_frames(formatters)
    shown = formatters["text/html"](pd.DataFrame({"n": [1]}))
    assert shown == display.frame(pd.DataFrame({"n": [1]}))
    assert "<table" in formatters["text/html"](pd.DataFrame({"n": range(100)}))


def test_plain_text_is_not_cut_either_and_the_settings_of_pandas_stay_as_they_are():
    from IPython.core.formatters import DisplayFormatter

    formatters = DisplayFormatter().formatters
    display.show_frames(formatters)
    event = "(service shop) " + "was unable to place a task. " * 20 + "end"
    many = pd.DataFrame({"message": [event] * (display.MOST_ROWS + 1)})
    with pd.option_context("display.max_colwidth", 33):
        for shown in (many[:2], many["message"][:2]):
            assert event in formatters["text/plain"](shown)
        assert event in formatters["text/html"](many)
        assert pd.get_option("display.max_colwidth") == 33


def test_code_in_a_table_is_set_as_code():
    assert "<code>sudo x</code>" in display.table(["do"], [["`sudo x`"]])
