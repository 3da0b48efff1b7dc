"""How far a loop has come, where the error output is no terminal."""

import sys

import pytest

from ckrm_kernels.presentation.progress import tracked


@pytest.mark.parametrize("rich", [True, False])
def test_lines_in_place_of_a_bar(capsys, monkeypatch, rich):
    if not rich:
        monkeypatch.setitem(sys.modules, "rich.console", None)
    assert list(tracked("abc", "reading", "letters")) == ["a", "b", "c"]
    out, err = capsys.readouterr()
    assert (out, err.splitlines()) == ("", [f"reading: {done} of 3 letters" for done in (1, 2, 3)])


@pytest.mark.parametrize("rich", [True, False])
def test_without_lines_nothing_is_shown(capsys, monkeypatch, rich):
    if not rich:
        monkeypatch.setitem(sys.modules, "rich.console", None)
    assert list(tracked("abc", lines=False)) == ["a", "b", "c"]
    assert capsys.readouterr() == ("", "")


def test_a_bar_on_a_terminal(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")  # has rich take the error output for a terminal
    assert list(tracked("abc", lines=False)) == ["a", "b", "c"]
    out, err = capsys.readouterr()
    assert not out
    assert "measuring" in err
