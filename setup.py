"""Compiles the libraries ahead of time where torch and compilers are at hand; the metadata is in pyproject.toml.

The CUDA library is built where torch has CUDA and nvcc is there, or where FORCE_CUDA=1 says so, for the GPUs of
TORCH_CUDA_ARCH_LIST, else those that are here, else a list that runs on all since Ampere.
"""

import contextlib
import os
import runpy
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

from setuptools import __version__, find_packages, setup
from setuptools.command.build_py import build_py

if int(__version__.split(".")[0]) < 77:
    sys.exit(f'setuptools must be 77 or newer, got {__version__}: pip install --upgrade "setuptools>=77" ninja')

from setuptools.command.bdist_wheel import bdist_wheel

CSRC = Path("csrc")
CONFIG = runpy.run_path("ckrm_kernels/build_config.py")
# ninja installed beside this Python is found even where its virtual environment is not activated.
os.environ["PATH"] += os.pathsep + sysconfig.get_path("scripts")
FAILURES = {}  # why a library is not built ahead of time, with what the compilers printed


class WheelForEveryPython(bdist_wheel):
    """The library uses no Python ABI: py3-none-<platform>, or py3-none-any without it."""

    def get_tag(self):
        return "py3", "none", super().get_tag()[2]


class PackageWithSources(build_py):
    """Puts the sources, which stand at the top of the repository, into the package: they are built on first use."""

    def run(self):
        super().run()
        if self.editable_mode:
            keep_failures(Path("ckrm_kernels/lib"))
            return
        for folder in ("csrc", "lib"):  # of earlier builds
            shutil.rmtree(Path(self.build_lib, "ckrm_kernels", folder), ignore_errors=True)
        keep_failures(Path(self.build_lib, "ckrm_kernels/lib"))
        for library in CONFIG["LIBRARIES"]:
            for source in library.sources(CSRC) + library.headers(CSRC):
                target = Path(self.build_lib, "ckrm_kernels", source)
                self.mkpath(str(target.parent))
                self.copy_file(str(source), str(target))


def extensions():
    """What to build; a library that can't be is explained and left out."""
    from torch.utils.cpp_extension import CppExtension, CUDAExtension

    yield extension(CppExtension, CONFIG["CPU"], CONFIG["CPU"].compile_flags)
    try:
        if cuda_is_wanted():
            flags = {"cxx": [], "nvcc": list(CONFIG["CUDA"].compile_flags)}
            yield extension(CUDAExtension, CONFIG["CUDA"], flags)
    except Exception as error:
        explain(CONFIG["CUDA"], error)


def cuda_is_wanted():
    """Also tells torch what it can't find out: where the toolkit is, which GPUs to compile for."""
    import torch
    from torch.utils import cpp_extension

    cpp_extension.CUDA_HOME = CONFIG["cuda_home"](cpp_extension.CUDA_HOME)
    nvcc = Path(cpp_extension.CUDA_HOME, "bin", "nvcc") if cpp_extension.CUDA_HOME else None
    if os.environ.get("FORCE_CUDA") == "1":
        if torch.version.cuda is None:
            raise RuntimeError("FORCE_CUDA=1 is set, but this torch has no CUDA")
        if nvcc is None or not nvcc.exists():
            raise RuntimeError("FORCE_CUDA=1 is set, but nvcc was not found: set CUDA_HOME")
    elif torch.version.cuda is None or nvcc is None or not nvcc.exists():
        return False
    found = CONFIG["architectures"](nvcc, torch.cuda.device_count())
    if found:
        os.environ["TORCH_CUDA_ARCH_LIST"] = found
    return True


def extension(kind, library, compile_flags):
    return kind(
        name="ckrm_kernels.lib." + library.file_name(CSRC),
        sources=[str(path) for path in library.sources(CSRC)],
        include_dirs=[str(CSRC.resolve())],
        extra_compile_args=compile_flags if isinstance(compile_flags, dict) else list(compile_flags),
        extra_link_args=list(library.link_flags),
        py_limited_api=True,  # no libtorch_python
    )


def library_build():
    """The extensions and the command that builds them."""
    if os.environ.get("CKRM_KERNELS_BUILD") == "0":
        raise RuntimeError("CKRM_KERNELS_BUILD=0 is set")
    if sys.platform == "win32":
        raise RuntimeError("the sources need GCC or Clang, which torch does not build with on Windows")
    from torch.utils.cpp_extension import BuildExtension

    class BuildLibraries(BuildExtension):
        """Builds the libraries without a Python ABI suffix, each on its own: where one fails, says so and goes on."""

        def __init__(self, *args, **kwargs):
            super().__init__(*args, no_python_abi_suffix=True, **kwargs)

        def run(self):
            folder = Path(self.get_ext_fullpath(self.extensions[0].name)).parent
            shutil.rmtree(folder, ignore_errors=True)  # libraries of earlier sources
            self.mkpath(str(folder))
            wanted, built, compiler = self.extensions, [], self.compiler
            for library in wanted:
                self.extensions, self.compiler = [library], compiler
                with tempfile.NamedTemporaryFile("r", encoding="utf-8", errors="replace") as log:
                    try:
                        with output_copied_to(log.name):
                            super().run()
                        built.append(library)
                    except Exception as error:
                        explain(CONFIG["CUDA" if "_cuda_" in library.name else "CPU"], error, log.read())
            keep_failures(folder)
            self.extensions = self.distribution.ext_modules = built
            if not built:
                self.get_finalized_command("bdist_wheel").root_is_pure = True

    return {"ext_modules": list(extensions()), "cmdclass": {"build_ext": BuildLibraries}}


@contextlib.contextmanager
def output_copied_to(file):
    """Copies what this process and the compilers that it starts print."""
    flush()
    ours = os.dup(1), os.dup(2)
    with subprocess.Popen(["tee", file], stdin=subprocess.PIPE) as tee:
        for descriptor in (1, 2):
            os.dup2(tee.stdin.fileno(), descriptor)
        try:
            yield
        finally:
            flush()
            for descriptor, before in zip((1, 2), ours, strict=True):
                os.dup2(before, descriptor)
                os.close(before)


def flush():
    sys.stdout.flush()
    sys.stderr.flush()


def explain(library, error, output=""):
    FAILURES[library] = f"{type(error).__name__}: {error}\n{output}"
    reason = CONFIG["first_error"](FAILURES[library])
    print(
        f"ckrm-kernels: the {library.title} library is not built ahead of time ({reason}). "
        "The package builds it on first use if it can, else it runs on plain PyTorch.",
        file=sys.stderr,
    )


def keep_failures(folder):
    """A log in the place of each library that is not there, which `ckrm doctor` reads."""
    for library, log in FAILURES.items():
        folder.mkdir(parents=True, exist_ok=True)
        Path(folder, library.file_name(CSRC) + ".log").write_text(log, encoding="utf-8")


try:
    build = library_build()
except Exception as error:
    explain(CONFIG["CPU"], error)
    build = {}

setup(
    packages=find_packages(include=["ckrm_kernels", "ckrm_kernels.*"]),
    package_data={"": ["*.html.jinja", "*.css", "*.js"], "ckrm_kernels": ["py.typed"]},
    ext_modules=build.get("ext_modules", []),
    cmdclass={"bdist_wheel": WheelForEveryPython, "build_py": PackageWithSources, **build.get("cmdclass", {})},
)
