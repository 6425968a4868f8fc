"""The strict interpreter's arithmetic: bfloat16 as in torch, dots as in tensor cores, scans by any function."""

import pytest
import torch
import triton
import triton.language as tl
from checking import relative_error
from strict_interpreter import strict


@pytest.fixture(autouse=True)
def counters():
    """The tests here begin `strict` themselves, in the place of the folder's fixture."""


@triton.jit
def multiply(A, B, To, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr, PRECISION: tl.constexpr):
    m, n, k = tl.arange(0, M)[:, None], tl.arange(0, N)[None, :], tl.arange(0, K)
    a, b = tl.load(A + m * K + k[None, :]), tl.load(B + k[:, None] * N + n)
    to = tl.dot(
        a, b, input_precision=PRECISION, out_dtype=tl.float64 if To.dtype.element_ty == tl.float64 else tl.float32
    )
    tl.store(To + m * N + n, to)


def same(x: torch.Tensor, y: torch.Tensor) -> bool:
    """Equal in every number and the sign of every zero; one NaN is as good as another."""
    either = (x == y) & (x.signbit() == y.signbit()) | x.isnan() & y.isnan()
    return x.dtype == y.dtype and bool(either.all())


@triton.jit
def convert(From, To, BLOCK: tl.constexpr, ROUNDING: tl.constexpr):
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(To + place, tl.load(From + place).to(To.dtype.element_ty, fp_downcast_rounding=ROUNDING))


def hard_numbers() -> torch.Tensor:
    """float32: random bits, which subnormal numbers and NaN are among; ties of bfloat16, and their neighbours."""
    generator = torch.Generator().manual_seed(0)
    anything = torch.randint(-(2**31), 2**31, (4096,), generator=generator).to(torch.int32)
    ties = (anything & ~0xFFFF) | 0x8000
    special = torch.tensor([0.0, -0.0, torch.inf, -torch.inf, torch.nan, 3.4e38, -3.4e38, 1e-40]).repeat(512)
    return torch.cat(
        [anything.view(torch.float32), *((ties + each).view(torch.float32) for each in (-1, 0, 1)), special]
    )


def test_casts_to_bfloat16_round_to_nearest_even():
    x = hard_numbers()
    with strict():
        for kind, rounding in ((x, None), (x, "rtne"), (x.double(), None), (x.half(), None)):
            to = torch.zeros(len(x), dtype=torch.bfloat16)
            convert[(len(x) // 4096,)](kind, to, 4096, rounding)
            assert same(to, kind.to(torch.bfloat16))
        convert[(len(x) // 4096,)](x, to, 4096, "rtz")
        finite = ~x.isnan()
        assert torch.equal(to[finite].view(torch.int16), (x[finite].view(torch.int32) >> 16).to(torch.int16))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.int32, torch.int8])
def test_casts_from_bfloat16(dtype):
    small = torch.arange(-2048, 2048).to(torch.bfloat16) / 32  # fits an int8
    x = hard_numbers().to(torch.bfloat16) if dtype.is_floating_point else small
    to, back = torch.zeros(len(x), dtype=dtype), torch.zeros_like(x)
    with strict():
        convert[(len(x) // 4096,)](x, to, 4096, None)
        assert same(to, x.to(dtype))
        convert[(len(x) // 4096,)](to, back, 4096, None)
        assert same(back, to.to(torch.bfloat16))


def test_explicit_rounding_to_float16_is_to_nearest_even():
    x = torch.cat([torch.randn(4096), torch.arange(4096) / 4096 * 8]) + 2048  # ties, and carries into the exponent
    to = torch.zeros(len(x), dtype=torch.float16)
    with strict():
        convert[(2,)](x, to, 4096, "rtne")
    assert torch.equal(to, x.half())


@triton.jit
def calculate(A, B, To, WHAT: tl.constexpr, BLOCK: tl.constexpr):
    place = tl.arange(0, BLOCK)
    a, b = tl.load(A + place), tl.load(B + place)
    if WHAT == "add":
        to = a + b
    elif WHAT == "subtract":
        to = a - b
    elif WHAT == "multiply":
        to = a * b
    elif WHAT == "divide":
        to = a / b
    elif WHAT == "maximum":
        to = tl.maximum(a, b)
    elif WHAT == "minimum":
        to = tl.minimum(a, b)
    elif WHAT == "fma":
        to = tl.fma(a, b, a)
    elif WHAT == "negate":
        to = -a
    elif WHAT == "abs":
        to = tl.abs(a)
    elif WHAT == "clamp":
        to = tl.clamp(a, -b, b)
    elif WHAT == "where":
        to = tl.where(a < b, a, b)
    elif WHAT == "compare":
        to = ((a < b) & (a > -b) | (a == b)).to(a.dtype)
    elif WHAT == "constants":
        to = 0.1 * a + 1.7
    elif WHAT == "in place":
        a += b
        to = a * a
    tl.store(To + place, to)


CALCULATIONS = {
    "add": torch.add,
    "subtract": torch.sub,
    "multiply": torch.mul,
    "divide": torch.div,
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "fma": lambda a, b: (a.double() * b.double() + a.double()).to(torch.bfloat16),
    "negate": lambda a, b: -a,
    "abs": lambda a, b: a.abs(),
    "clamp": lambda a, b: torch.clamp(a, -b, b),
    "where": lambda a, b: torch.where(a < b, a, b),
    "compare": lambda a, b: ((a < b) & (a > -b) | (a == b)).to(torch.bfloat16),
    "constants": lambda a, b: a * torch.tensor(0.1).bfloat16() + torch.tensor(1.7).bfloat16(),
    "in place": lambda a, b: (a + b) * (a + b),
}


@pytest.mark.parametrize("what", CALCULATIONS)
def test_bfloat16_arithmetic_is_torchs(what):
    generator = torch.Generator().manual_seed(1)
    a, b = (torch.randn(1024, generator=generator).to(torch.bfloat16) for _ in range(2))
    b = b.abs() if what == "clamp" else b
    b[:64] = a[:64]
    to = torch.zeros_like(a)
    with strict():
        calculate[(1,)](a, b, to, what, 1024)
    assert torch.equal(to, CALCULATIONS[what](a, b))


@triton.jit
def reduce_rows(X, Sum, Max, Arg, Prefix, Rest, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    row = tl.arange(0, ROWS)
    place = row[:, None] * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    x = tl.load(X + place)
    tl.store(Sum + row, tl.sum(x, axis=1))
    tl.store(Max + row, tl.max(x, axis=1))
    tl.store(Arg + row, tl.argmax(x, axis=1))
    tl.store(Prefix + place, tl.cumsum(x, 1))
    tl.store(Rest + place, tl.associative_scan(x, 1, tl.standard._sum_combine, reverse=True))


def test_bfloat16_reductions():
    x = torch.randint(-8, 8, (4, 16)).to(torch.bfloat16)  # exact sums
    sums, greatest, places = torch.zeros_like(x[:, 0]), torch.zeros_like(x[:, 0]), torch.zeros(4, dtype=torch.int32)
    prefix, rest = torch.zeros_like(x), torch.zeros_like(x)
    with strict():
        reduce_rows[(1,)](x, sums, greatest, places, prefix, rest, 4, 16)
    assert torch.equal(sums, x.sum(1)) and torch.equal(greatest, x.amax(1))
    assert torch.equal(x.gather(1, places[:, None].long())[:, 0], greatest)
    assert torch.equal(prefix, x.cumsum(1)) and torch.equal(rest, x.flip(1).cumsum(1).flip(1))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_dots_multiply_exactly_and_add_widely(dtype):
    a, b = torch.randn(16, 32).to(dtype), torch.randn(32, 16).to(dtype)
    to = torch.zeros(16, 16, dtype=torch.float64 if dtype == torch.float64 else torch.float32)
    with strict():
        multiply[(1,)](a, b, to, 16, 16, 32, "ieee")
    exact = a.double() @ b.double()
    assert (to - exact).norm() / exact.norm() < (1e-14 if dtype == torch.float64 else 3e-7)


def test_dots_of_float32_round_to_tf32_unless_told_otherwise():
    a, b, to = torch.randn(16, 32), torch.randn(32, 16), torch.zeros(16, 16)
    exact = a.double() @ b.double()
    with strict():
        errors = {}
        for precision in ("ieee", "tf32"):
            multiply[(1,)](a, b, to, 16, 16, 32, precision)
            errors[precision] = ((to - exact).norm() / exact.norm()).item()
    assert errors["ieee"] < 3e-7 and 1e-4 < errors["tf32"] < 1e-3


@triton.jit
def _compose(factor, term, next_factor, next_term):
    return factor * next_factor, next_factor * term + next_term


@triton.jit
def _later(value, place, other, other_place):
    first = (value > other) | ((value == other) & (place < other_place))
    return tl.where(first, value, other), tl.where(first, place, other_place)


@triton.jit
def recur(Factors, Terms, To, Last, Greatest, LENGTH: tl.constexpr, REVERSE: tl.constexpr, AXIS: tl.constexpr):
    row, step = tl.arange(0, 4)[:, None], tl.arange(0, LENGTH)[None, :]
    place = row * LENGTH + step
    factor, term = tl.load(Factors + place), tl.load(Terms + place)
    tl.store(To + place, tl.associative_scan((factor, term), AXIS, _compose, reverse=REVERSE)[1])
    tl.store(Last + tl.arange(0, 4), tl.reduce((factor, term), AXIS, _compose)[1])
    _, where = tl.reduce((tl.reshape(term, [4 * LENGTH]), tl.arange(0, 4 * LENGTH)), 0, _later)
    tl.store(Greatest, where)


@pytest.mark.parametrize("length, reverse, axis", [(1, False, 1), (2, True, 1), (16, False, -1), (16, True, 1)])
@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-14), (torch.bfloat16, 2e-2)])
def test_scans_and_reductions_by_a_function(length, reverse, axis, dtype, tolerance):
    factors, terms = torch.rand(4, length).to(dtype), torch.randn(4, length).to(dtype)
    to, last, greatest = torch.zeros_like(terms), torch.zeros(4).to(dtype), torch.zeros(1, dtype=torch.int32)
    with strict():
        recur[(1,)](factors, terms, to, last, greatest, length, reverse, axis)
    forwards = recurrence(factors, terms)
    expected = recurrence(factors.flip(1), terms.flip(1)).flip(1) if reverse else forwards
    assert relative_error(to, expected) < tolerance and relative_error(last, forwards[:, -1]) < tolerance
    assert greatest.item() == terms.flatten().argmax()


def recurrence(factors: torch.Tensor, terms: torch.Tensor) -> torch.Tensor:
    values = [terms[:, 0].double()]
    for step in range(1, terms.shape[1]):
        values.append(factors[:, step].double() * values[-1] + terms[:, step].double())
    return torch.stack(values, 1)
