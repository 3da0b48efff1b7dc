"""The names of the package are imported when they are first used, and are otherwise as if they were at once."""

import ast
import pickle
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import ckrm_kernels


def test_type_checkers_see_what_is_imported():
    tree = ast.parse(Path(ckrm_kernels.__file__).read_text())
    (checked,) = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    seen = {
        alias.name: statement.module.removeprefix("ckrm_kernels.")
        for statement in checked.body
        for alias in statement.names
    }
    assert seen == ckrm_kernels._MODULE_OF
    assert ckrm_kernels.__all__ == sorted(seen)


def test_no_module_has_the_name_of_a_function():
    """Importing it would put it in the function's place."""
    modules = {module.name for module in pkgutil.iter_modules(ckrm_kernels.__path__)}
    assert not modules & set(ckrm_kernels.__all__)


@pytest.mark.parametrize("name", ckrm_kernels.__all__)
def test_a_name_is_that_of_its_module(name, monkeypatch):
    monkeypatch.delitem(vars(ckrm_kernels), name, raising=False)
    value = getattr(ckrm_kernels, name)
    assert value.__name__ == name
    assert vars(ckrm_kernels)[name] is value
    assert pickle.loads(pickle.dumps(value)) is value


def test_each_name_is_imported_when_it_is_used():
    """Even then not under a mode of torch that is on at the time, here that of fake tensors."""
    code = """
import sys
import ckrm_kernels
assert ckrm_kernels.__version__
assert set(ckrm_kernels.__all__) < set(dir(ckrm_kernels))
assert not {"torch", "numpy"} & set(sys.modules)

from ckrm_kernels import pairwise_psi
assert ckrm_kernels.functional.pairwise_psi is pairwise_psi  # a module, by its path
assert not {"ckrm_kernels.measurement", "ckrm_kernels.report", "ckrm_kernels.sampling"} & set(sys.modules)
import torch
for operators in (torch.ops.ckrm, torch.ops.ckrm_triton, torch.ops.ckrm_cuda):
    assert operators.pairwise_psi

from torch._subclasses.fake_tensor import FakeTensorMode
with FakeTensorMode(), torch.device("meta"):
    exec("from ckrm_kernels import *")
assert set(ckrm_kernels.__all__) <= set(globals())
(layer,) = measure(torch.nn.Conv2d(3, 8, 3), backend="reference").layers
assert layer.redundancy is not None
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr


@pytest.mark.parametrize("name", ["pairwise_ps", "__wrapped__", "_homes"])
def test_a_name_that_there_is_not(name):
    assert not hasattr(ckrm_kernels, name)
    with pytest.raises(AttributeError, match=f"module 'ckrm_kernels' has no attribute '{name}'"):
        getattr(ckrm_kernels, name)


def test_the_first_use_may_be_in_a_compiled_function(monkeypatch):
    monkeypatch.delitem(vars(ckrm_kernels), "pairwise_psi", raising=False)
    weight = torch.randn(4, 2, 3, 3)
    compiled = torch.compile(lambda weight: ckrm_kernels.pairwise_psi(weight), fullgraph=True, backend="eager")
    assert torch.equal(compiled(weight), ckrm_kernels.pairwise_psi(weight))
