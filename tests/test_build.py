"""setup.py: what a wheel holds, how it is tagged, and that nothing of Python is in the library."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from small_tree import REPOSITORY, copy_checkout, needs_compiler, run_python

import ckrm_kernels
from ckrm_kernels import native
from ckrm_kernels.build_config import CPU

LOAD_LIBRARY = (
    "import sys, torch; torch.ops.load_library({!r}); print(torch.ops.ckrm.probe(), 'ckrm_kernels' in sys.modules)"
)
PSI = (
    "import warnings\n"
    "with warnings.catch_warnings(record=True) as caught:\n"
    "    warnings.simplefilter('always')\n"
    "    import torch, ckrm_kernels\n"
    "    psi = [ckrm_kernels.pairwise_psi(torch.ones(3, 2, 3, 3)).tolist() for _ in range(2)]\n"
    "print(psi, sum('plain PyTorch' in str(warning.message) for warning in caught))\n"
)


WITHOUT_CUDA = {"CUDA_HOME": "nowhere"}  # whatever torch and nvcc are here


def build_wheel(checkout: Path, **environment: str) -> Path:
    """Builds as `pip wheel --no-build-isolation` does and unpacks the wheel; the folder has the wheel's name."""
    code = "import setuptools.build_meta as backend; print('wheel', backend.build_wheel('dist'))"
    output, _ = run_python(code, checkout, **WITHOUT_CUDA, **environment)
    wheel = checkout / "dist" / output.split()[-1]
    unpacked = checkout / "unpacked" / wheel.stem
    shutil.rmtree(unpacked, ignore_errors=True)
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(unpacked)
    return unpacked


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built with a compiler, after a build of other sources in the same checkout."""
    checkout = copy_checkout(tmp_path_factory.mktemp("with_compiler") / "checkout")
    probe = checkout / "csrc" / "cpu" / "probe.cpp"
    build_wheel(checkout)
    probe.rename(probe.with_name("renamed.cpp"))
    return build_wheel(checkout)


@pytest.fixture(scope="module")
def pure_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built where the compiler does not work."""
    checkout = copy_checkout(tmp_path_factory.mktemp("without_compiler") / "checkout")
    return build_wheel(checkout, CXX="/bin/false", CC="/bin/false")


@needs_compiler
def test_the_wheel_serves_every_python(wheel: Path) -> None:
    assert wheel.name.startswith(f"ckrm_kernels-{ckrm_kernels.__version__}-")
    assert "-py3-none-" in wheel.name
    assert not wheel.name.endswith("-any")
    metadata = next(wheel.glob("*.dist-info/WHEEL")).read_text()
    assert "Root-Is-Purelib: false" in metadata
    assert f"Tag: {'-'.join(wheel.name.split('-')[2:])}\n" in metadata


@needs_compiler
def test_the_wheel_holds_the_library_and_its_sources(wheel: Path) -> None:
    package = wheel / "ckrm_kernels"
    assert {path.relative_to(package).as_posix() for path in (package / "csrc").rglob("*.*")} == {
        "csrc/answer.h",
        "csrc/cpu/renamed.cpp",
        "csrc/cuda/probe.cu",
        "csrc/cuda/probe.cuh",
    }
    [library] = (package / "lib").iterdir()
    assert library.name == CPU.file_name(package / "csrc") + ".so"
    assert {path.name for path in wheel.iterdir() if not path.name.endswith(".dist-info")} == {"ckrm_kernels"}
    assert (package / "py.typed").exists()
    assert templates(package) == templates(REPOSITORY / "ckrm_kernels") != set()


@needs_compiler
def test_the_library_loads_by_itself(wheel: Path) -> None:
    [library] = (wheel / "ckrm_kernels" / "lib").iterdir()
    output, _ = run_python(LOAD_LIBRARY.format(str(library)), wheel.parent)
    assert output == "7 False"


@needs_compiler
def test_the_installed_package_takes_its_library(wheel: Path, tmp_path: Path) -> None:
    code = "from ckrm_kernels import native; print(native.load_cpu(), native.cpu_status().origin)"
    output, errors = run_python(code, wheel, CXX="no-such-compiler", TORCH_EXTENSIONS_DIR=str(tmp_path))
    assert output == "True prebuilt", errors


def templates(package: Path) -> set[str]:
    """Of its pages, with their style sheets and scripts."""
    return {str(path.relative_to(package)) for kind in ("*.jinja", "*.css", "*.js") for path in package.rglob(kind)}


def test_an_install_does_not_fail_for_want_of_a_compiler(pure_wheel: Path, tmp_path: Path) -> None:
    assert pure_wheel.name.endswith("-py3-none-any")
    assert "Root-Is-Purelib: true" in next(pure_wheel.glob("*.dist-info/WHEEL")).read_text()
    [reason] = (pure_wheel / "ckrm_kernels" / "lib").iterdir()
    assert reason.name == CPU.file_name(pure_wheel / "ckrm_kernels" / "csrc") + ".log"
    assert "/bin/false" in reason.read_text()
    assert templates(pure_wheel / "ckrm_kernels") == templates(REPOSITORY / "ckrm_kernels") != set()
    output, errors = run_python(PSI, pure_wheel, CXX="/bin/false", TORCH_EXTENSIONS_DIR=str(tmp_path))
    assert output == "[[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]] 1", errors


@needs_compiler
def test_a_pure_wheel_builds_on_first_use_and_says_why(pure_wheel: Path, tmp_path: Path) -> None:
    code = "from ckrm_kernels import native; s = native.cpu_status(); print(s.loaded, s.origin, s.failure, sep='; ')"
    output, errors = run_python(code, pure_wheel, TORCH_EXTENSIONS_DIR=str(tmp_path))
    assert output.startswith("True; built on first use; no library was built when the package was installed ("), errors
    assert "/bin/false" in output


@pytest.mark.exhaustive
@needs_compiler
def test_an_install_in_place_keeps_the_compilers_reason_until_it_succeeds(tmp_path: Path) -> None:
    checkout = copy_checkout(tmp_path / "checkout")
    library, probe = checkout / "ckrm_kernels" / "lib", checkout / "csrc" / "cpu" / "probe.cpp"
    install = "import setuptools.build_meta as backend; backend.build_editable('dist')"
    source = probe.read_text()
    probe.write_text(source + "int nonsense = undeclared;\n")
    _, errors = run_python(install, checkout, **WITHOUT_CUDA)
    assert "undeclared" in errors
    name = CPU.file_name(checkout / "csrc")
    assert [path.name for path in library.iterdir()] == [name + ".log"]
    failure = "from ckrm_kernels import native; print(native.cpu_failure())"
    output, _ = run_python(failure, checkout, CKRM_KERNELS_BUILD="0", TORCH_EXTENSIONS_DIR=str(tmp_path / "cache"))
    assert output.startswith("no library was built when the package was installed (")
    assert "error: 'undeclared' was not declared" in output.replace("\u2018", "'").replace("\u2019", "'")
    assert f"the whole output is in {library / name}.log); there is no library for these sources" in output
    probe.write_text(source)
    run_python(install, checkout, **WITHOUT_CUDA)
    assert [path.name for path in library.iterdir()] == [CPU.file_name(checkout / "csrc") + ".so"]


@pytest.mark.skipif(sys.platform != "linux" or shutil.which("readelf") is None, reason="needs Linux and readelf")
def test_nothing_of_python_is_in_the_kernels() -> None:
    status = native.cpu_status()
    if status.path is None:
        pytest.skip(status.failure)
    read = ["readelf", "--wide", "--dynamic", "--dyn-syms", str(status.path)]
    text = subprocess.run(read, capture_output=True, text=True, check=True).stdout
    needed = [line.split("[")[1].rstrip("]") for line in text.splitlines() if "(NEEDED)" in line]
    undefined = [line.split()[-1] for line in text.splitlines() if " UND " in line and len(line.split()) > 7]
    assert any(name.startswith("libtorch_cpu") for name in needed)
    assert any(name.startswith("aoti_torch_") for name in undefined)
    assert not [name for name in needed if "python" in name]
    assert not [name for name in undefined if name.startswith(("Py", "_Py", "_ZN8pybind11"))]
    # C++ classes of torch are not part of its stable ABI.
    assert not [
        name for name in undefined if name.startswith(("_ZN2at", "_ZN3c10", "_ZN5torch", "_ZNK2at", "_ZNK3c10"))
    ]
