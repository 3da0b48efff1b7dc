"""The scalars of psi as part of a configuration, and in words."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from decimal import Decimal

from ckrm_kernels.functional import ALPHA, BETA, EPS, GAMMA, PsiOptions, checked_psi

_DEFAULT_EXPONENTS = {"alpha": ALPHA, "beta": BETA, "gamma": GAMMA}


@dataclass(frozen=True)
class PsiConfig:
    """Which psi is computed; see `PsiOptions` for the fields.

    Raises TypeError or ValueError unless the exponents and eps are finite numbers >= 0.
    """

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    alpha: float = ALPHA
    beta: float = BETA
    gamma: float = GAMMA
    eps: float = EPS
    scale_free: bool = False

    def __post_init__(self) -> None:
        scalars = checked_psi(self.alpha, self.beta, self.gamma, self.eps)
        for name, value in zip(("alpha", "beta", "gamma", "eps"), scalars, strict=True):
            object.__setattr__(self, name, value)  # a plain float, whatever number it was
        object.__setattr__(self, "scale_free", bool(self.scale_free))

    @property
    def depends_on_scale(self) -> bool:
        """Whether psi of a layer changes with how large its weights are."""
        return self.eps > 0 and not self.scale_free

    @classmethod
    def of(cls, options: PsiOptions) -> PsiConfig:
        """What the keyword arguments of the functions on weights ask for."""
        return cls(**{name: value for name, value in options.items() if name != "backend"})  # type: ignore[arg-type]

    def options(self) -> PsiOptions:
        """The keyword arguments of the functions on weights."""
        return PsiOptions(**asdict(self))  # type: ignore[typeddict-item]

    def in_words(self) -> str:
        """Such as "eps 1e-4 absolute" or "alpha 1, eps 1e-3 relative to each layer's scale"."""
        values = asdict(self)
        exponents = [
            f"{name} {written(values[name])}, " for name, usual in _DEFAULT_EXPONENTS.items() if values[name] != usual
        ]
        scale = " relative to each layer's scale" if self.scale_free else " absolute"
        return f"{''.join(exponents)}eps {written(self.eps)}{scale if self.eps else ''}"


def written(number: float) -> str:
    """A number with all its digits, a small or a large one by its power of ten: 0.25, 1e-4."""
    exact = Decimal(repr(float(number))).normalize()
    return f"{exact:f}" if not number or 0.01 <= abs(number) < 1e4 else f"{exact:e}".replace("e+", "e")
