import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ckrm_kernels.extras import EXTRAS, check_installed, extra_of, project, require

ROOT = Path(__file__).parents[1]
DEVELOPMENT = {"test", "bench", "docs", "dev"}  # extras whose packages the package itself does not import


def projects() -> dict[str, set[str]]:
    """The packages of each extra in pyproject.toml, those of other extras left out."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    names: dict[str, set[str]] = {}
    for extra, requirements in listed.items():
        names[extra] = set()
        for requirement in requirements:
            name, marker = re.match(r"([\w-]+)[^;]*(.*)", requirement).groups()
            if name != "ckrm-kernels" and not ("python_version < '3.11'" in marker and sys.version_info >= (3, 11)):
                names[extra].add(name)
    return names


def test_the_table_holds_what_the_extras_install():
    listed = projects()
    assert set(EXTRAS) == set(listed) - DEVELOPMENT
    for extra, modules in EXTRAS.items():
        assert {project(module) for module in modules} == listed[extra]
        assert len(set(modules)) == len(modules)


def test_every_module_has_one_extra():
    modules = [module for of_extra in EXTRAS.values() for module in of_extra]
    assert len(set(modules)) == len(modules)
    assert extra_of("sklearn.datasets") == "train"
    assert extra_of("safetensors") == "cli"
    assert extra_of("numpy") is None
    assert extra_of("pandasql") is None


def test_what_needs_a_missing_module_and_its_extra_are_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ImportError) as caught, require("the picture", "PIL"):
        import PIL.Image  # noqa: F401
    assert str(caught.value) == 'the picture needs Pillow: pip install "ckrm-kernels[train]"'
    assert isinstance(caught.value.__cause__, ModuleNotFoundError)


def test_where_the_module_is_there_and_one_that_it_needs_is_not_that_one_is_named():
    with pytest.raises(ImportError) as caught, require("the digits", "sklearn"):
        raise ModuleNotFoundError("No module named 'scipy'", name="scipy.sparse")
    assert str(caught.value) == 'the digits needs scipy: pip install "ckrm-kernels[train]"'


def test_other_errors_pass():
    with pytest.raises(ZeroDivisionError), require("the picture", "PIL"):
        raise ZeroDivisionError


def test_a_module_of_no_extra_is_refused():
    with pytest.raises(ValueError, match="module must be one of EXTRAS, got 'numpy'"), require("the sum", "numpy"):
        pass


def test_what_is_not_installed_is_named_before_it_is_needed(monkeypatch):
    check_installed("the work", "scipy", "sklearn")
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(ImportError) as caught:
        check_installed("the work", "scipy", "sklearn")
    assert str(caught.value) == 'the work needs scikit-learn: pip install "ckrm-kernels[train]"'


def test_every_optional_import_is_required_by_its_own_name():
    """Each `with require(what, module)` imports that module, or torch's interface to it."""
    found = 0
    for path in (ROOT / "ckrm_kernels").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.With) or not isinstance(call := node.items[0].context_expr, ast.Call):
                continue
            if getattr(call.func, "id", "") != "require":
                continue
            module = ast.literal_eval(call.args[1])
            assert extra_of(module) or module == "tomli", path  # which newer Pythons do without
            for each in node.body:
                names = [each.module] if isinstance(each, ast.ImportFrom) else [alias.name for alias in each.names]
                assert all(name.split(".")[0] == module or name == f"torch.utils.{module}" for name in names), path
            found += 1
    assert found >= 15


def test_the_core_and_what_it_keeps_on_disk_need_no_extra():
    code = f"""
import sys, torch
sys.modules.update(dict.fromkeys({[module for of_extra in EXTRAS.values() for module in of_extra]}))
import ckrm_kernels
assert "filelock" not in sys.modules  # which only builds need
ckrm_kernels.measure(torch.nn.Conv2d(1, 4, 3), backend="reference").to_json()
from ckrm_kernels.storage import built_once, files, lock, settings
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
