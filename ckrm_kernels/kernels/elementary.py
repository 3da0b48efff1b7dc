"""The arithmetic that the kernels of every similarity share, as Triton device functions.

Approximate instructions (lg2, ex2, rcp .approx.ftz, within 2 units in the last place) make a term cost little more than
the special-function instructions that it needs. Triton reaches them through inline assembly for NVIDIA's GPUs only:
in its interpreter, on other GPUs and for float64, every function has a plain form.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from triton.runtime.interpreter import InterpretedFunction


@triton.jit
def _probe():
    pass


# Whether kernels run in Triton's interpreter, on the CPU: TRITON_INTERPRET=1 when this was imported.
INTERPRETED = isinstance(_probe, InterpretedFunction)
APPROXIMATE = tl.constexpr(not INTERPRETED and not torch.version.hip)

# Counts as 0 in |x|^(exponent - 1), which stays finite in float32 so.
_SMALLEST_BASE = tl.constexpr(2.0**-100)
# The inverse of the largest float64: a smaller denominator counts as 0.
_SMALLEST_DENOMINATOR = tl.constexpr(2.0**-1024)


_TIMES_ABS = tl.constexpr("{.reg .f32 t; abs.f32 t, $2; mul.ftz.f32 $0, $1, t;}")


@triton.jit
def log2(x):
    """The logarithm to base 2."""
    if APPROXIMATE and x.dtype == tl.float32:
        return tl.inline_asm_elementwise("lg2.approx.ftz.f32 $0, $1;", "=f,f", [x], tl.float32, is_pure=True, pack=1)
    else:
        return tl.log2(x)


@triton.jit
def log2_abs(x):
    """log2 |x|"""
    if APPROXIMATE and x.dtype == tl.float32:
        return tl.inline_asm_elementwise(
            "{.reg .f32 t; abs.f32 t, $1; lg2.approx.ftz.f32 $0, t;}",
            "=f,f",
            [x],
            tl.float32,
            is_pure=True,
            pack=1,
        )
    else:
        return tl.log2(tl.abs(x))


@triton.jit
def exp2(x):
    """2^x"""
    if APPROXIMATE and x.dtype == tl.float32:
        return tl.inline_asm_elementwise("ex2.approx.ftz.f32 $0, $1;", "=f,f", [x], tl.float32, is_pure=True, pack=1)
    else:
        return tl.exp2(x)


@triton.jit
def reciprocal(x):
    """1 / x"""
    if APPROXIMATE and x.dtype == tl.float32:
        return tl.inline_asm_elementwise("rcp.approx.ftz.f32 $0, $1;", "=f,f", [x], tl.float32, is_pure=True, pack=1)
    else:
        return 1.0 / x


@triton.jit
def times(x, y, SIGNED: tl.constexpr):
    """x y, or x |y| unless SIGNED; in assembly, too, where it could do without: ptxas then takes fewer registers."""
    if APPROXIMATE and x.dtype == tl.float32:
        code: tl.constexpr = "mul.ftz.f32 $0, $1, $2;" if SIGNED else _TIMES_ABS
        return tl.inline_asm_elementwise(code, "=f,f,f", [x, y], tl.float32, is_pure=True, pack=1)
    elif SIGNED:
        return x * y
    else:
        return x * tl.abs(y)


@triton.jit
def ratio_or_one(numerator, denominator):
    """numerator / denominator, and the limit 1 of 0 / 0. For float64, where no eps keeps a denominator from 0."""
    zero = denominator < _SMALLEST_DENOMINATOR
    return tl.where(zero, 1.0, numerator / tl.where(zero, 1.0, denominator))


@triton.jit
def inverse_or_zero(x):
    """1 / x, and 0 where x is 0."""
    zero = x < _SMALLEST_DENOMINATOR
    return tl.where(zero, 0.0, 1.0 / tl.where(zero, 1.0, x))


@triton.jit
def constants_of(scalars, NUMBER: tl.constexpr, DOUBLE: tl.constexpr):
    """The scale of weights, what every covariance has added to it, and what else a similarity's functions take.

    scalars: NUMBER of float32; where DOUBLE, a table of float64: Triton passes a number as float32
    """
    if DOUBLE:
        constants = ()
        for index in tl.static_range(NUMBER):
            constants = constants + (tl.load(scalars + index),)  # type: ignore[assignment]  # noqa: RUF005
        return constants
    else:
        return scalars


@triton.jit
def power(x, exponent, KIND: tl.constexpr):
    """|x|^exponent; KIND: 0 or 1 where that is the exponent, else 2. A plain 1 where it is 0."""
    if KIND == 0:
        return 1.0
    elif KIND == 1:
        return tl.abs(x)
    else:
        return exp2(exponent * log2_abs(x))


@triton.jit
def product_of_powers(x, y, z, a, b, c):
    """|x|^a |y|^b |z|^c, by one power of 2. In one piece of assembly: ptxas spills what it puts together itself."""
    if APPROXIMATE and x.dtype == tl.float32:
        return tl.inline_asm_elementwise(
            """{.reg .f32 t, sum;
            abs.f32 t, $1; lg2.approx.ftz.f32 t, t; mul.ftz.f32 sum, $4, t;
            abs.f32 t, $2; lg2.approx.ftz.f32 t, t; fma.rn.ftz.f32 sum, $5, t, sum;
            abs.f32 t, $3; lg2.approx.ftz.f32 t, t; fma.rn.ftz.f32 sum, $6, t, sum;
            ex2.approx.ftz.f32 $0, sum;}""",
            "=f,f,f,f,f,f,f",
            [x, y, z, a, b, c],
            tl.float32,
            is_pure=True,
            pack=1,
        )
    else:
        return exp2(a * log2_abs(x) + b * log2_abs(y) + c * log2_abs(z))


@triton.jit
def slope(x, exponent, KIND: tl.constexpr):
    """|x|^(exponent - 1) for an exponent above 0; at x = 0 the limit from above if that is finite, else 0."""
    if KIND == 1:
        return 1.0
    else:
        size = tl.abs(x)
        smallest: tl.constexpr = _SMALLEST_BASE if x.dtype == tl.float32 else 0.0
        return tl.where(size <= smallest, 0.0, exp2((exponent - 1.0) * log2(size)))


@triton.jit
def slope_and_power(x, exponent, KIND: tl.constexpr):
    """`slope`, 0 where the exponent is 0, and `power`, from one logarithm."""
    if KIND == 0:
        return 0.0, 1.0
    else:
        of_power = slope(x, exponent, KIND)
        return of_power, of_power * tl.abs(x)


@triton.jit
def with_sign_of(x, sign):
    """x, or -x where sign is negative."""
    if x.dtype == tl.float32:
        negative = sign.to(tl.int32, bitcast=True) & -2147483648
        return (x.to(tl.int32, bitcast=True) ^ negative).to(tl.float32, bitcast=True)
    else:
        return tl.where(sign < 0.0, -x, x)


@triton.jit
def tf32_parts(x):
    """x as the sum of two numbers, exactly, of which a tensor core reads all bits but the last few of the second.

    Not pure, so that the compiler converts the parts to the layout of a dot product instead of computing x anew in it.
    """
    if APPROXIMATE:
        return tl.inline_asm_elementwise(
            "{and.b32 $0, $2, 0xffffe000; sub.f32 $1, $2, $0;}",
            "=&f,=f,f",
            [x],
            (tl.float32, tl.float32),
            is_pure=False,
            pack=1,
        )
    else:
        high = (x.to(tl.int32, bitcast=True) & -8192).to(tl.float32, bitcast=True)
        return high, x - high


@triton.jit
def summand(product):
    """The result of a dot product, to be added outside of the tensor cores, which cut off the sums that they add to.

    Otherwise the compiler would make the sum the dot product's own: a long one would shrink.
    """
    if APPROXIMATE and product.dtype == tl.float32:
        return tl.inline_asm_elementwise("mov.b32 $0, $1;", "=f,f", [product], tl.float32, is_pure=True, pack=1)
    else:
        return product


@triton.jit
def beside(x, other):
    """x, of other's shape, in its layout. Not pure, so that the compiler computes nothing of x in a second layout."""
    if APPROXIMATE and x.dtype == tl.float32:
        return tl.inline_asm_elementwise("mov.b32 $0, $1;", "=f,f,f", [x, other], tl.float32, is_pure=False, pack=1)
    else:
        return x
