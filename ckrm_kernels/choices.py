"""What is chosen by its name, in functions, configurations and the command's options; importing this is quick."""

from __future__ import annotations

from typing import Literal

AblationName = Literal["vgnet"]
Chooser = Literal["error", "psi", "l1", "fpgm", "bn", "random"]
DataName = Literal["digits", "mnist", "fashion-mnist", "cifar100", "folder", "egd-cxr"]
PresetName = Literal["vgnet"]
Pointwise = Literal["skip", "slices", "vector"]
Sort = Literal["model", "name", "redundancy", "scale-free", "excess", "distinct", "dead", "filters"]
SearchRule = Literal["redundancy", "error"]
Tied = Literal["layer", "stage"]
