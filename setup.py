"""Compiles the CPU library ahead of time where torch and a compiler are at hand; the metadata is in pyproject.toml."""

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
        for source in CONFIG["sources"](CSRC) + CONFIG["headers"](CSRC):
            target = Path(self.build_lib, "ckrm_kernels", source)
            self.mkpath(str(target.parent))
            self.copy_file(str(source), str(target))


def library_build():
    """The extension and the command that builds it."""
    if os.environ.get("CKRM_KERNELS_BUILD") == "0":
        raise RuntimeError("CKRM_KERNELS_BUILD=0 is set")
    if sys.platform == "win32":
        raise RuntimeError("the sources need GCC or Clang, which torch does not build with on Windows")
    from torch.utils.cpp_extension import BuildExtension, CppExtension

    class BuildLibrary(BuildExtension):
        """Builds the library without a Python ABI suffix; where that fails, says so and goes on without it."""

        def __init__(self, *args, **kwargs):
            super().__init__(*args, no_python_abi_suffix=True, **kwargs)

        def run(self):
            folder = Path(self.get_ext_fullpath(self.extensions[0].name)).parent
            shutil.rmtree(folder, ignore_errors=True)  # libraries of earlier sources
            self.mkpath(str(folder))
            try:
                super().run()
            except Exception as error:
                shutil.rmtree(folder, ignore_errors=True)
                self.extensions = self.distribution.ext_modules = []
                self.get_finalized_command("bdist_wheel").root_is_pure = True
                explain(error)

    library = CppExtension(
        name="ckrm_kernels.lib." + CONFIG["library_name"](CSRC),
        sources=[str(path) for path in CONFIG["sources"](CSRC)],
        include_dirs=[str(CSRC.resolve())],
        extra_compile_args=CONFIG["COMPILE_FLAGS"],
        extra_link_args=CONFIG["LINK_FLAGS"],
        py_limited_api=True,  # no libtorch_python
    )
    return {"ext_modules": [library], "cmdclass": {"build_ext": BuildLibrary}}


def explain(error):
    print(
        f"ckrm-kernels: the CPU library is not built ahead of time ({type(error).__name__}: {error}). "
        "The package builds it on first use if it can, else it runs on plain PyTorch.",
        file=sys.stderr,
    )


try:
    build = library_build()
except Exception as error:
    explain(error)
    build = {}

setup(
    packages=find_packages(include=["ckrm_kernels", "ckrm_kernels.*"]),
    package_data={"ckrm_kernels": ["py.typed"]},
    ext_modules=build.get("ext_modules", []),
    cmdclass={"bdist_wheel": WheelForEveryPython, "build_py": PackageWithSources, **build.get("cmdclass", {})},
)
