from __future__ import annotations

import pickle

from IPython.core.interactiveshell import InteractiveShell

from helpers.errors import CheckFailed, LoadFailed, ServiceNotSteady, SetupError, StackFailed, TutorialError


def test_says_what_happened_what_was_seen_and_what_to_do():
    error = TutorialError("The kettle is cold.", seen="19 °C", next="Switch it on.")
    assert str(error) == "The kettle is cold.\nSeen: 19 °C\nNext: Switch it on."


def test_says_only_what_it_was_told():
    assert str(TutorialError("The kettle is cold.")) == "The kettle is cold."


def test_is_one_family():
    for kind in (CheckFailed, LoadFailed, ServiceNotSteady, SetupError, StackFailed):
        assert issubclass(kind, TutorialError)


def test_survives_a_trip_between_processes():
    error = pickle.loads(pickle.dumps(StackFailed("It failed.", seen="this", next="that")))
    assert str(error) == "It failed.\nSeen: this\nNext: that"


def test_a_notebook_shows_no_traceback(capsys):
    shell = InteractiveShell.instance()
    try:
        shell.run_cell(
            "from helpers.errors import StackFailed\nraise StackFailed('It failed.', next='Mend it.')"
        )
    finally:
        InteractiveShell.clear_instance()
    printed = "".join(capsys.readouterr())
    assert "StackFailed: It failed." in printed
    assert "Next: Mend it." in printed
    assert "Traceback" not in printed
