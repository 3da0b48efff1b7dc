"""Compiles the libraries ahead of time where torch and compilers are at hand; the metadata is in pyproject.toml.

The CUDA library is built where torch has CUDA and nvcc is there, or where FORCE_CUDA=1 says so, for the GPUs of
TORCH_CUDA_ARCH_LIST, else those that are here, else a list that runs on all since Ampere.
"""

import os
import runpy
import shutil
import sys
import sysconfig
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


class WheelForEveryPython(bdist_wheel):
    """The library uses no Python ABI: py3-none-<platform>, or py3-none-any without it."""

    def get_tag(self):
        return "py3", "none", super().get_tag()[2]


class PackageWithSources(build_py):
    """Puts the sources, which stand at the top of the repository, into the package: they are built on first use."""

    def run(self):
        super().run()
        if self.editable_mode:
            return
        shutil.rmtree(Path(self.build_lib, "ckrm_kernels/csrc"), ignore_errors=True)  # of earlier builds
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
        explain("CUDA", error)


def cuda_is_wanted():
    """Also names the GPUs to compile for where torch can't find out."""
    import torch
    from torch.utils.cpp_extension import CUDA_HOME

    nvcc = Path(CUDA_HOME, "bin", "nvcc") if CUDA_HOME else None
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
                try:
                    super().run()
                    built.append(library)
                except Exception as error:
                    explain("CUDA" if "_cuda_" in library.name else "CPU", error)
            self.extensions = self.distribution.ext_modules = built
            if not built:
                shutil.rmtree(folder, ignore_errors=True)
                self.get_finalized_command("bdist_wheel").root_is_pure = True

    return {"ext_modules": list(extensions()), "cmdclass": {"build_ext": BuildLibraries}}


def explain(title, error):
    print(
        f"ckrm-kernels: the {title} library is not built ahead of time ({type(error).__name__}: {error}). "
        "The package builds it on first use if it can, else it runs on plain PyTorch.",
        file=sys.stderr,
    )


try:
    build = library_build()
except Exception as error:
    explain("CPU", error)
    build = {}

setup(
    packages=find_packages(include=["ckrm_kernels", "ckrm_kernels.*"]),
    package_data={"": ["*.html.jinja", "*.css", "*.js"], "ckrm_kernels": ["py.typed"]},
    ext_modules=build.get("ext_modules", []),
    cmdclass={"bdist_wheel": WheelForEveryPython, "build_py": PackageWithSources, **build.get("cmdclass", {})},
)
