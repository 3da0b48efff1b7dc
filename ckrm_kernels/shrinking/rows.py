"""What a plan says of each layer, and of the whole network before and after."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ShrunkLayer:
    """One layer of a traced network, with the filters that it keeps.

    name, kind: the module's path and class
    coupling: the name of the coupling that its filters belong to; "" where they can't leave
    kept: ascending indices of the filters that stay
    width, wanted, reached: how many filters: before, as the choice of widths asked for, and that stay
    why: why none left, or fewer than wanted; "" where all did
    redundancy, chance: lambda^t of the layer's own weight and its chance level, scale-free; None where its slices are
        single numbers or its filters are no two
    psi: mean over the dropped filters of their largest signed Psi to one that is kept; None where none was dropped
    deviation: of the proof, relative to the output's scale; None where there was nothing to prove
    error: the relative error that the coupling's consumers are estimated to have at this width; None without
        calibration
    error_before, error_after: relative error of this layer's output as a consumer, plainly shrunk and after the fold;
        None before `apply`, without calibration, and where it could not be folded
    """

    name: str
    kind: str
    coupling: str
    kept: tuple[int, ...]
    width: int
    wanted: int
    reached: int
    why: str
    redundancy: float | None = None
    chance: float | None = None
    psi: float | None = None
    deviation: float | None = None
    error: float | None = None
    error_before: float | None = None
    error_after: float | None = None

    @property
    def shrinks(self) -> bool:
        """Whether any filter leaves it."""
        return self.reached < self.width


@dataclass(frozen=True)
class Totals:
    """What a network takes.

    parameters: numbers in its parameters; of shared ones, once
    multiply_adds: of one example
    file_bytes: of its state as a safetensors file
    latency: seconds of one forward pass of the example inputs, with one thread
    """

    parameters: int
    multiply_adds: int
    file_bytes: int
    latency: float
