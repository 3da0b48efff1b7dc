"""The keyword arguments that every function on weights takes."""

from __future__ import annotations

from typing import Any, TypedDict

from ckrm_kernels.backends import Backend
from ckrm_kernels.similarity import Name, Similarity


class SimilarityOptions(TypedDict, total=False):
    """The keyword arguments that every function on weights takes.

    similarity: "psi", the paper's |L|^alpha C^beta |S|^gamma (the default), or "cosine", |<x, y>| / (|x| |y|) of slices
        as they are, without their means taken out; slices of zeros have a cosine of 0 with any
    alpha, beta, gamma: psi's exponents of luminance, contrast and structure, >= 0; 0.1, 1, 1 by default
    eps: psi's constant of the paper's equation 2, >= 0; 1e-4 by default, an absolute number, so that the redundancy of
        a layer falls as its weights grow
    signed: a slice and its negative are opposites, near -1, instead of alike: psi is |L|^alpha C^beta sign(S) |S|^gamma
        and the cosine keeps its sign; else both are absolute values
    scale_free: divide the weight by its root mean square first, so that eps is relative to the layer's scale
    backend: None picks; "reference", "cpu", "triton" or "cuda" forces
    """

    similarity: Name
    alpha: float
    beta: float
    gamma: float
    eps: float
    signed: bool
    scale_free: bool
    backend: Backend | None


_DEFAULT = Similarity()


def resolve(options: SimilarityOptions, function: str, *more: str) -> tuple[Similarity, Backend | None]:
    """The similarity and the backend that keyword arguments ask for; raises what `Similarity` does.

    function, more: its name and its own keyword arguments, for the TypeError about one that is unknown
    """
    if not options:
        return _DEFAULT, None
    for name in options:
        if name not in SimilarityOptions.__annotations__:
            accepted = ", ".join((*more, *SimilarityOptions.__annotations__))
            raise TypeError(f"{function}() got an unexpected keyword argument {name!r}; accepted are {accepted}")
    values: dict[str, Any] = {**options}
    backend = values.pop("backend", None)
    return Similarity(values.pop("similarity", "psi"), **values), backend
