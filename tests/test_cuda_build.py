"""The CUDA library without a GPU: what nvcc makes of its kernels, and how it is built, loaded and done without."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import torch
from exhaustive import also
from small_tree import COMPILER, copy_checkout, needs_compiler, run_python, start_python, write_sources

from ckrm_kernels import build_config, native
from ckrm_kernels.build_config import CPU, CUDA

CSRC = Path(__file__).parents[1] / "csrc"
# Not what is before nvcc on the PATH: that may be a link to it.
CUDA_HOME = next(
    (home for home in (os.environ.get("CUDA_HOME"), "/usr/local/cuda") if home and Path(home, "bin", "nvcc").exists()),
    str(Path(shutil.which("nvcc") or "/usr/local/cuda/bin/nvcc").resolve().parents[1]),
)
NVCC = Path(CUDA_HOME, "bin", "nvcc")
needs_nvcc = pytest.mark.skipif(not NVCC.exists(), reason="there is no CUDA compiler (nvcc)")

# ---- machine code ----------------------------------------------------------------------------------------------------

SOURCES = [path.name for path in CUDA.sources(CSRC)]
# A kernel's name ends in its template arguments, the last of which is its arithmetic.
FLOAT32_KERNEL = re.compile(r"_kernel(I|I.*E)fE")
FLOAT64_PREPARE = re.compile(r"prepare_kernelI.*EdE")
FLOAT64_CODE = re.compile(r"\b(DADD|DMUL|DFMA|DSETP|DMNMX|MUFU\.\w*64H?)\b|\.F64\b")


def compiled(source: str, architecture: str, folder: Path) -> tuple[str, Path]:
    """ptxas's report and the object file, with the flags of the library and those that torch adds."""
    import torch.utils.cpp_extension as cpp_extension

    target = folder / f"{Path(source).stem}.o"
    run = subprocess.run(
        [str(NVCC), "-c", str(CSRC / "cuda" / source), "-o", str(target), "-std=c++20", f"-arch={architecture}"]
        + ["-Xptxas=-v", "-Xcompiler=-fPIC", f"-I{CSRC}", *cpp_extension.COMMON_NVCC_FLAGS, *CUDA.compile_flags]
        + [f"-I{path}" for path in cpp_extension.include_paths()],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    return run.stderr, target


@needs_nvcc
@pytest.mark.parametrize("source", ["listed.cu", *also(*(name for name in SOURCES if name != "listed.cu"))])
@pytest.mark.parametrize("architecture", ["sm_90", *also("sm_80", "sm_100", "sm_120")])
def test_machine_code(architecture, source, tmp_path):
    """No kernel keeps registers in memory, and none that computes in float32 holds an instruction for float64."""
    report, target = compiled(source, architecture, tmp_path)
    spills = re.findall(r"Function properties for (\w+)\n.*?(\d+) bytes spill stores, (\d+) bytes spill loads", report)
    assert [name for name, *counts in spills if counts != ["0", "0"]] == []
    kernels = machine_code(target)
    if source == "register.cu":
        assert not spills
        return
    assert len(spills) >= len(kernels) > 0
    in_float32 = {name: code for name, code in kernels.items() if FLOAT32_KERNEL.search(name)}
    assert 0 < len(in_float32) < len(kernels)
    assert [name for name, code in in_float32.items() if FLOAT64_CODE.search(code)] == []
    # the search finds what it looks for
    assert all(FLOAT64_CODE.search(code) for name, code in kernels.items() if FLOAT64_PREPARE.search(name))


def machine_code(target: Path) -> dict[str, str]:
    """Each kernel's, by its mangled name."""
    tool = shutil.which("cuobjdump") or _cuobjdump_of_triton()
    if tool is None:
        pytest.skip("there is no cuobjdump to read the machine code")
    text = subprocess.run([tool, "-sass", str(target)], capture_output=True, text=True, check=True).stdout
    _, *functions = text.split("Function : ")
    return {function.split("\n")[0].strip(): function for function in functions}


def _cuobjdump_of_triton() -> str | None:
    try:
        import triton
    except ImportError:
        return None
    found = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    return str(found) if found.exists() else None


# ---- what to build ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        ("compute_75 compute_80 compute_90 compute_100 compute_120", "8.0;9.0;10.0;12.0+PTX"),
        ("compute_70 compute_80 compute_90", "8.0;9.0+PTX"),
        ("compute_100 compute_103", "10.0+PTX"),
    ],
)
def test_default_architectures_are_those_that_nvcc_knows(known, expected, tmp_path, monkeypatch):
    nvcc = fake_nvcc(tmp_path, known)
    monkeypatch.delenv("TORCH_CUDA_ARCH_LIST", raising=False)
    assert build_config.architectures(nvcc, 0) == expected
    assert build_config.architectures(nvcc, 1) is None
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "native")
    assert build_config.architectures(nvcc, 0) == expected
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "9.0a")
    assert build_config.architectures(nvcc, 0) is None


def test_an_nvcc_that_knows_none_of_them(tmp_path, monkeypatch):
    monkeypatch.delenv("TORCH_CUDA_ARCH_LIST", raising=False)
    with pytest.raises(RuntimeError, match="set TORCH_CUDA_ARCH_LIST"):
        build_config.architectures(fake_nvcc(tmp_path, "compute_61"), 0)


def fake_nvcc(folder: Path, known: str, top: str = "") -> Path:
    """Lists the GPUs that it knows and, with `top`, the folder that it takes for its toolkit's."""
    named = f"echo '#$ TOP={top}' >&2\n" if top else ""
    return write_script(folder / "nvcc", f"{named}printf '%s\\n' {known}")


def write_script(file: Path, text: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(0o755)
    return file


@pytest.mark.parametrize("calls", ["a script", "a link", "itself"])
def test_the_toolkit_is_that_of_the_nvcc_that_is_called(calls, tmp_path):
    home, found = tmp_path / "cuda-13.0", tmp_path / "local"
    nvcc = fake_nvcc(home / "bin", "compute_90", top=f"{home}/bin/..")
    if calls == "a script":
        write_script(found / "bin" / "nvcc", f'exec {nvcc} "$@"')
    elif calls == "a link":
        (found / "bin").mkdir(parents=True)
        (found / "bin" / "nvcc").symlink_to(nvcc)
    else:
        found = home
    assert build_config.cuda_home(str(found)) == str(home)


def test_a_toolkit_that_nvcc_does_not_name_is_where_torch_found_it(tmp_path):
    assert build_config.cuda_home(None) is None
    assert build_config.cuda_home(str(tmp_path)) == str(tmp_path)
    nvcc = fake_nvcc(tmp_path / "bin", "compute_90")
    assert build_config.cuda_home(str(tmp_path)) == str(tmp_path)
    fake_nvcc(tmp_path / "bin", "compute_90", top=str(tmp_path / "nowhere"))
    assert build_config.cuda_home(str(tmp_path)) == str(tmp_path)
    nvcc.chmod(0o644)
    assert build_config.cuda_home(str(tmp_path)) == str(tmp_path)


@pytest.mark.parametrize(
    ("log", "reason"),
    [
        ("RuntimeError: 1\n[1/2] c++ -c a.cpp\na.cpp:3: error: no\nb.cpp:4: error: nor\n", "a.cpp:3: error: no"),
        (
            "LinkError: 1\nld: cannot find -lcudart\ncollect2: error: ld returned 1 exit status\n",
            "ld: cannot find -lcudart",
        ),
        ("RuntimeError: 1\nnvcc fatal   : Unsupported gpu\n", "nvcc fatal   : Unsupported gpu"),
        ("\nRuntimeError: CKRM_KERNELS_BUILD=0 is set\n", "RuntimeError: CKRM_KERNELS_BUILD=0 is set"),
        ("", "no message"),
    ],
)
def test_the_reason_of_a_failed_build(log, reason):
    assert build_config.first_error(log) == reason


def test_each_library_has_its_own_name_and_files(tmp_path):
    csrc = write_sources(tmp_path / "csrc")
    first = CPU.file_name(csrc), CUDA.file_name(csrc)
    assert first[0].startswith("libckrm_cpu_")
    assert first[1].startswith("libckrm_cuda_")
    (csrc / "cuda" / "probe.cuh").write_text("// other\n")
    assert CPU.file_name(csrc) == first[0]
    assert CUDA.file_name(csrc) != first[1]


# ---- loading ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def fresh(tmp_path, monkeypatch, request):
    """native as in a new process of a torch with CUDA, on small sources, with an empty cache."""
    csrc = write_sources(tmp_path / "csrc", request.node.name)
    monkeypatch.setattr(native, "_statuses", {})
    monkeypatch.setattr(native, "_PACKAGE", tmp_path / "package")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr("torch.utils.cpp_extension.CUDA_HOME", CUDA_HOME)
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "cache"))
    for name in ("CKRM_KERNELS_BUILD", "FORCE_CUDA", "TORCH_CUDA_ARCH_LIST"):
        monkeypatch.delenv(name, raising=False)
    return csrc


def failure_of_load() -> str:
    assert [native.load_cuda() for _ in range(2)] == [False, False]
    assert not native.cuda_status().loaded
    return native.cuda_failure()


def test_a_torch_without_cuda(fresh, monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setenv("FORCE_CUDA", "1")
    monkeypatch.setattr(native, "_load", lambda library: pytest.fail("nothing is to be loaded"))
    assert failure_of_load() == "this torch has no CUDA"


def test_no_gpu(fresh):
    assert "no GPU to build one for" in failure_of_load()
    assert not (fresh.parent / "cache").exists()


def test_no_nvcc(fresh, monkeypatch):
    monkeypatch.setenv("FORCE_CUDA", "1")
    monkeypatch.setattr("torch.utils.cpp_extension.CUDA_HOME", None)
    assert "no CUDA compiler (nvcc was not found); install the CUDA toolkit 13.0" in failure_of_load()
    native._statuses.clear()
    monkeypatch.setattr("torch.utils.cpp_extension.CUDA_HOME", str(fresh))
    assert f"no CUDA compiler ({fresh}/bin/nvcc was not found)" in failure_of_load()


def test_building_forbidden(fresh, monkeypatch):
    monkeypatch.setenv("CKRM_KERNELS_BUILD", "0")
    assert "CKRM_KERNELS_BUILD=0 forbids" in failure_of_load()


def test_libraries_are_kept_apart_by_gpu(fresh, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: [(9, 0), (8, 6), (9, 0)][index])
    assert native.build_directory(CUDA).name == native.build_directory().name + "-8.6_9.0"
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "8.0;9.0+PTX")
    assert native.build_directory(CUDA).name == native.build_directory().name + "-8.0_9.0+PTX"


@needs_compiler
def test_a_failing_build_leaves_the_cpu_library_alone(fresh, monkeypatch):
    monkeypatch.setenv("FORCE_CUDA", "1")
    (fresh / "cuda" / "probe.cu").write_text("int nonsense = undeclared;\n")
    monkeypatch.setattr("torch.utils.cpp_extension._check_cuda_version", lambda *_: None)
    if not NVCC.exists():
        fake_nvcc(fresh / "bin", "compute_90")
        monkeypatch.setattr("torch.utils.cpp_extension.CUDA_HOME", str(fresh))
    failure = failure_of_load()
    assert "the build failed" in failure
    log = native.build_directory(CUDA) / (CUDA.file_name(fresh) + ".log")
    assert str(log) in failure
    assert "TORCH_CUDA_ARCH_LIST" not in os.environ
    assert native.load_cpu()


@needs_nvcc
@needs_compiler
@pytest.mark.skipif(sys.platform != "linux", reason="stands in for libraries of Linux")
def test_builds_on_first_use(fresh, tmp_path, monkeypatch, caplog):
    """By a script that calls nvcc, and linked with empty stand-ins for what a CPU build of torch does not have."""
    write_script(tmp_path / "bin" / "nvcc", f'exec {NVCC} "$@"')
    monkeypatch.setattr("torch.utils.cpp_extension.CUDA_HOME", str(tmp_path))
    for name in ("c10_cuda", "torch_cuda"):
        stand_in = [COMPILER, "-shared", "-x", "c++", "/dev/null", "-o", str(tmp_path / f"lib{name}.so")]
        subprocess.run(stand_in, check=True)
    monkeypatch.setenv("LIBRARY_PATH", str(tmp_path))
    monkeypatch.setenv("FORCE_CUDA", "1")
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "9.0")
    monkeypatch.setattr("torch.utils.cpp_extension._check_cuda_version", lambda *_: None)
    assert native.load_cuda(), native.cuda_failure()
    assert native.cuda_status().path == native.build_directory(CUDA) / (CUDA.file_name(fresh) + ".so")
    assert native.cuda_status().origin == "built on first use"
    assert torch.ops.test_builds_on_first_use.cuda_probe() == 8
    assert [record.message.split(";")[0] for record in caplog.records] == ["compiling the CUDA kernels"]


# ---- setup.py --------------------------------------------------------------------------------------------------------


@needs_compiler
@pytest.mark.skipif(torch.version.cuda is not None, reason="this torch has CUDA")
def test_an_install_without_cuda_holds_the_cpu_library(tmp_path):
    checkout = copy_checkout(tmp_path / "checkout")
    code = "import setuptools.build_meta as backend; print('wheel', backend.build_wheel('dist'))"
    output, errors = run_python(code, checkout, FORCE_CUDA="1")
    assert "the CUDA library is not built ahead of time (RuntimeError: FORCE_CUDA=1 is set, but" in errors
    assert not output.endswith("-any.whl")
    assert built(checkout) == {CPU.file_name(checkout / "csrc") + ".so", CUDA.file_name(checkout / "csrc") + ".log"}


def built(checkout: Path) -> set[str]:
    return {path.name for path in checkout.glob("build/lib*/ckrm_kernels/lib/*")}


BUILD_WITH_CUDA = """
import torch
from torch.utils import cpp_extension

torch.version.cuda = "13.0"
cpp_extension.CUDA_HOME = {cuda_home!r}
cpp_extension._check_cuda_version = lambda *_: None
import setuptools.build_meta as backend

print("wheel", backend.build_wheel("dist"))
"""


@needs_nvcc
@needs_compiler
@pytest.mark.exhaustive
@pytest.mark.skipif(torch.version.cuda is not None, reason="this torch links with CUDA")
def test_a_cuda_library_that_does_not_link_is_left_out(tmp_path):
    checkout = copy_checkout(tmp_path / "checkout")
    output, errors = run_python(
        BUILD_WITH_CUDA.format(cuda_home=CUDA_HOME),
        checkout,
        PATH=os.pathsep.join([os.environ["PATH"], sysconfig.get_path("scripts")]),
        TORCH_CUDA_ARCH_LIST="",
    )
    assert "the CUDA library is not built ahead of time (" in errors
    assert "cannot find -l" in errors
    assert built(checkout) == {CPU.file_name(checkout / "csrc") + ".so", CUDA.file_name(checkout / "csrc") + ".log"}
    assert not output.endswith("-any.whl")


@needs_nvcc
@pytest.mark.skipif(torch.version.cuda is None, reason="this torch has no CUDA to link with")
def test_the_library_links_with_this_torch_and_loads(tmp_path):
    """By a script that calls nvcc, as a machine may have on its PATH; a build that is kept takes a minute once."""
    write_script(tmp_path / "bin" / "nvcc", f'exec {NVCC} "$@"')
    code = "from ckrm_kernels import native; print(native.load_cuda(), native.cuda_failure())"
    architecture = {} if torch.cuda.is_available() else {"TORCH_CUDA_ARCH_LIST": "9.0"}
    environment = {"FORCE_CUDA": "1", "CUDA_HOME": str(tmp_path), **architecture}
    output, errors = start_python(code, CSRC.parent, **environment).communicate(timeout=600)
    assert output.strip() == "True", errors
