"""What importing the package loads; `lint-imports` checks which module may import which."""

import subprocess
import sys

EXTRAS = (
    *("PIL", "matplotlib", "pandas", "pydantic", "pydicom", "rich", "safetensors", "scipy", "sklearn", "tensorboard"),
    *("torchmetrics", "triton", "typer"),
)


def modules_loaded_by(statement: str) -> set[str]:
    command = f"import sys\n{statement}\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    found = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True)
    return set(found.stdout.split())


def test_the_core_imports_no_extra():
    loaded = modules_loaded_by("import torch, ckrm_kernels, ckrm_kernels.state_dicts")
    assert "ckrm_kernels" in loaded
    assert loaded & set(EXTRAS) <= modules_loaded_by("import torch")
