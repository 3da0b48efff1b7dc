"""Tests of what a machine lacks are skipped, with the reason, and no others."""

from __future__ import annotations

import re

import lacking
import numpy as np
import pytest

from ckrm_kernels import extras


@pytest.mark.parametrize(
    ("of_triton", "of_numpy", "runs"),
    [("3.6.0", "2.4.0", False), ("3.6.0", "2.5.2", False), ("3.6.0", "2.3.9", True), ("3.7.0", "2.5.2", True)],
)
def test_which_triton_s_interpreter_runs_with_which_numpy(of_triton, of_numpy, runs, monkeypatch):
    triton = pytest.importorskip("triton")
    monkeypatch.setattr(triton, "__version__", of_triton)
    monkeypatch.setattr(np, "__version__", of_numpy)
    reason = lacking.interpreter_failure()
    assert (reason == "") is runs
    assert runs or re.search(rf"Triton {of_triton} .* NumPy {of_numpy} refuses", reason)


def test_where_a_kernel_starts_in_an_interpreter_that_can_not_run(monkeypatch):
    interpreter = pytest.importorskip("triton.runtime.interpreter")
    monkeypatch.setattr(lacking, "interpreter_failure", lambda: "the interpreter can't run")
    lacking.skip_what_is_lacking(monkeypatch)
    executor = object.__new__(interpreter.GridExecutor)
    with pytest.raises(pytest.skip.Exception, match="the interpreter can't run"):
        executor()


def test_where_a_package_that_is_not_installed_is_asked_for(monkeypatch):
    monkeypatch.setattr(lacking, "installed", lambda module: module not in ("pydicom", "triton"))
    lacking.skip_what_is_lacking(monkeypatch)
    with pytest.raises(pytest.skip.Exception, match="pydicom is not installed"), extras.require("files", "pydicom"):
        raise ModuleNotFoundError(name="pydicom")
    with pytest.raises(pytest.skip.Exception, match="pydicom is not installed"):
        raise extras._missing("files", "pydicom")
    with pytest.raises(ImportError, match="the report needs pandas"), extras.require("the report", "pandas"):
        raise ModuleNotFoundError(name="pandas")  # as where a test takes it away
