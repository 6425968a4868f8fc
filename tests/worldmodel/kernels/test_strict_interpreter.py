"""Each defect that the strict interpreter is for, in a small kernel that has it and in its correct twin."""

from contextlib import nullcontext

import pytest
import torch
import triton
import triton.language as tl
from checking import far_apart
from strict_interpreter import OutOfBounds, Race, strict
from triton.runtime import interpreter


@pytest.fixture(autouse=True)
def counters():
    """The tests here begin `strict` themselves, in the place of the folder's fixture."""


def caught(error: type | None, match: str | None = None):
    return nullcontext() if error is None else pytest.raises(error, match=match)


# Bounds ------------------------------------------------------------------------------------------------------------


@triton.jit
def copy(From, To, rows, COLUMNS: tl.constexpr, stride, FROM_ROWS: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)[:, None]
    column = tl.arange(0, COLUMNS)[None, :]
    x = tl.load(From + row * stride + column, mask=(row < FROM_ROWS) & (column < COLUMNS), other=0.0)
    tl.store(To + row * COLUMNS + column, x, mask=row < rows)


@pytest.mark.parametrize(
    "rows, from_rows, error", [(7, 7, None), (7, 8, "load of 4 of 16 "), (8, 7, "store of 4 of 16 ")]
)
def test_what_lies_beyond_a_tensor_is_out_of_bounds(rows, from_rows, error):
    x, to = torch.randn(7, 4), torch.zeros(7, 4)
    with (
        strict(),
        caught(error and OutOfBounds, rf"copy, program 1 at \(1, 0, 0\): {error}elements outside of a float32"),
    ):
        copy[(2,)](x, to, rows, 4, 4, from_rows, 4)
        assert torch.equal(x, to)


def test_only_a_views_own_elements_are_in_bounds():
    storage, to = torch.randn(4, 16), torch.zeros(4, 8)
    with strict():
        copy[(1,)](storage[:, 4:12], to, 4, 8, 16, 4, 4)
        assert torch.equal(to, storage[:, 4:12])
        with pytest.raises(OutOfBounds, match="load of 16 of 32 elements"):
            copy[(1,)](storage[:, 8:12], to, 4, 8, 16, 4, 4)
        with pytest.raises(OutOfBounds, match="first is element 0 of 0"):
            copy[(1,)](storage[:0], to, 4, 8, 16, 4, 4)
    with strict(bounds=False):
        copy[(1,)](storage[:, 4:12], to[:3], 4, 8, 16, 4, 4)
        assert torch.equal(to, storage[:, 4:12])


@triton.jit
def add_pair(First, Second, To, distance):
    place = tl.arange(0, 8)
    tl.store(To + place, tl.load(First + place) + tl.load(Second + distance + place))


def test_a_pointer_may_not_leave_its_own_tensor_for_another_of_the_launch():
    storage, to = torch.arange(16.0), torch.zeros(8)
    with strict():
        add_pair[(1,)](storage, storage, to, 8)
        assert torch.equal(to, storage[:8] + storage[8:])
        add_pair[(1,)](storage[:8], storage[8:], to, 0)
        assert torch.equal(to, storage[:8] + storage[8:])
        with pytest.raises(OutOfBounds):
            add_pair[(1,)](storage[8:], storage[:8], to, 8)


@triton.jit
def pick(First, Second, To, which):
    place = tl.arange(0, 8)
    tl.store(To + place, tl.load(tl.where(place < which, First, Second) + place))


def test_a_chosen_pointer_may_lead_into_either_tensor():
    first, second, to = torch.zeros(4), torch.ones(8), torch.full((8,), torch.nan)
    with strict():
        pick[(1,)](first, second, to, 4)
        assert to.tolist() == [0.0] * 4 + [1.0] * 4
        with pytest.raises(OutOfBounds, match="1 of 8 elements outside of any tensor"):
            pick[(1,)](first, second, to, 5)


@triton.jit
def count(Counts, places):
    place = tl.arange(0, 8)
    tl.atomic_add(Counts + place, 1, mask=place < places)


def test_atomic_operations_have_bounds():
    counts = torch.zeros(7, dtype=torch.int32)
    with strict() as counters:
        count[(3,)](counts, 7)
        assert counts.tolist() == [3] * 7
        assert (counters.load_bytes, counters.store_bytes) == (84, 84)
        with pytest.raises(OutOfBounds, match="atomic of 1 of 8"):
            count[(3,)](counts, 8)


@triton.jit
def claim(Owners):
    tl.atomic_cas(Owners + tl.program_id(0), 0, tl.program_id(0) + 1)


def test_compare_and_swap_has_bounds():
    owners = torch.tensor([0, 7, 0], dtype=torch.int32)
    with strict():
        claim[(3,)](owners)
        assert owners.tolist() == [1, 7, 3]
        with pytest.raises(OutOfBounds, match="atomic of 1 of 1"):
            claim[(4,)](owners)


@triton.jit
def double_rows(X, stride, WIDE: tl.constexpr):
    row = tl.program_id(0)
    if WIDE:
        row = row.to(tl.int64)
    place = row * stride + tl.arange(0, 4)
    tl.store(X + place, 2 * tl.load(X + place))


@pytest.mark.parametrize("wide", [False, True])
def test_offsets_beyond_int32_are_out_of_bounds(wide):
    x = far_apart(torch.arange(12.0).half().view(3, 4))
    assert x.stride(0) * 2 > 2**31
    with strict(), caught(None if wide else OutOfBounds):
        double_rows[(3,)](x, x.stride(0), wide)
        assert torch.equal(x, 2 * torch.arange(12.0).half().view(3, 4))


# Poison ------------------------------------------------------------------------------------------------------------


@triton.jit
def pad(X, To, length, OTHER: tl.constexpr):
    place = tl.arange(0, 8)
    x = tl.load(X + place, mask=place < length, other=0) if OTHER else tl.load(X + place, mask=place < length)
    tl.store(To + place, x)


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool]
)
def test_masked_loads_without_other_are_poisoned(dtype):
    x, to = torch.arange(7).to(dtype), torch.zeros(8, dtype=dtype)
    with strict():
        pad[(1,)](x, to, 7, False)
        assert torch.equal(to[:7], x)
        assert to[7].isnan() if dtype.is_floating_point else to[7] == (dtype == torch.bool or torch.iinfo(dtype).max)
        pad[(1,)](x, to, 7, True)
        assert torch.equal(to[:7], x) and to[7] == 0
    with strict(poison=False):
        pad[(1,)](x, to, 7, False)
        assert to[7] == 0


def test_what_a_kernel_leaves_unwritten_is_poisoned():
    with strict():
        to = torch.empty(7, 4)
        copy[(1,)](torch.randn(7, 4), to, 7, 4, 4, 7, 4)
        assert torch.isfinite(to[:4]).all() and to[4:].isnan().all()
    assert not torch.are_deterministic_algorithms_enabled()


# Races -------------------------------------------------------------------------------------------------------------


@triton.jit
def shift(From, To, distance, BLOCK: tl.constexpr):
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(From + place)
    tl.store(To + place + distance, x)


@triton.jit
def overwrite(To, BLOCK: tl.constexpr):
    tl.store(To + tl.arange(0, BLOCK), 0.0)


@pytest.mark.parametrize("order", [None, 0, 1, 2])
def test_programs_may_not_meet_in_what_one_writes(order):
    x, to = torch.arange(32.0), torch.zeros(40)
    with strict(order=order):
        shift[(4,)](x, to, 1, 8)
        assert torch.equal(to[1:33], x)
        shift[(4,)](x, x, 0, 8)  # in place, each its own
        with pytest.raises(Race, match="shift, program"):
            shift[(4,)](to, to, 8, 8)
        with pytest.raises(Race, match="shift, program"):
            shift[(4,)](to[:32], to[1:], 0, 8)  # two views of one storage
    with strict(races=False, order=order):
        shift[(4,)](to, to, 8, 8)


def test_races_tell_which_programs_meet():
    to = torch.zeros(40)
    with strict():
        with pytest.raises(Race, match=r"shift, program 1 at \(1, 0, 0\) reads 8 of 8 elements that program 0 writes"):
            shift[(4,)](to, to, 8, 8)
        with pytest.raises(Race, match=r"program 1 at \(1, 0, 0\) writes 4 of 8 elements that program 0 reads"):
            shift[(4,)](to[4:], to, 0, 8)
        with pytest.raises(Race, match=r"program 1 at \(1, 0, 0\) overwrites 8 of 8 elements that program 0 writes"):
            overwrite[(4,)](to, 8)


def test_programs_may_not_meet_in_views_of_different_width():
    x = torch.arange(24, dtype=torch.int32)
    with strict():
        shift[(2,)](x.view(torch.int16), x, 8, 8)  # reads the first 32 bytes, writes what follows
        assert x[8:].tolist() == [0, 0, 1, 0, 2, 0, 3, 0, 4, 0, 5, 0, 6, 0, 7, 0]
        with pytest.raises(Race, match="program 1 .* reads 8 of 8 elements that program 0 writes"):
            shift[(2,)](x.view(torch.int16), x, 0, 8)
        with pytest.raises(Race, match="program 1 .* reads 4 of 8 elements that program 0 writes"):
            shift[(2,)](x, x.view(torch.int16), 16, 8)


@triton.jit
def append(Cache, New, Total, position, length, BLOCK: tl.constexpr):
    """Two programs share a row of the cache: the first appends to it, both read it, and take what is new from `New`."""
    row, which, place = tl.program_id(0) // 2, tl.program_id(0) % 2, tl.arange(0, BLOCK)
    new = tl.load(New + row)
    if which == 0:
        tl.store(Cache + row * BLOCK + position, new)
    inside = place < tl.where(which == 0, position, length)
    cached = tl.load(Cache + row * BLOCK + place, mask=inside, other=0.0)
    tl.store(Total + tl.program_id(0), tl.sum(cached, 0) + new)


@pytest.mark.parametrize("order", [None, 0, 1])
def test_what_one_program_appends_to_a_cache_no_other_may_read(order):
    cache, new, totals = torch.ones(3, 8), torch.full((3,), 5.0), torch.zeros(6)
    with strict(order=order):
        append[(6,)](cache, new, totals, 4, 4, 8)
        assert totals.tolist() == [9.0] * 6 and cache[:, 4].tolist() == [5.0] * 3
        with pytest.raises(Race, match=r"append, .* 1 of \d elements that program \d (reads|writes)"):
            append[(6,)](cache, new, totals, 4, 5, 8)


@triton.jit
def increase_and_double(X, BARRIER: tl.constexpr, SAME: tl.constexpr):
    place = tl.arange(0, 8)
    tl.store(X + place, tl.load(X + place) + 1)
    if BARRIER:
        tl.debug_barrier()
    tl.store(X + place, 2 * tl.load(X + (place if SAME else 7 - place)))


@pytest.mark.parametrize("barrier, same, error", [(False, True, None), (True, False, None), (False, False, Race)])
def test_what_other_threads_stored_is_read_after_a_barrier(barrier, same, error):
    x = torch.arange(8.0)
    with strict(), caught(error, "reads 8 of 8 elements that other threads of it stored: tl.debug_barrier"):
        increase_and_double[(1,)](x, barrier, same)
        expected = 2 * (torch.arange(8.0) + 1)
        assert torch.equal(x, expected if same else expected.flip(0))


@triton.jit
def store_halved(To, VALUE: tl.constexpr):
    place = tl.arange(0, 8)
    tl.store(To + place // 2, place // VALUE)


@pytest.mark.parametrize("value, error", [(2, None), (1, Race)])
def test_elements_of_one_store_that_meet_are_equal(value, error):
    to = torch.zeros(4, dtype=torch.int32)
    with strict(), caught(error, "different values in one place"):
        store_halved[(1,)](to, value)
        assert to.tolist() == [0, 1, 2, 3]


@triton.jit
def count_and_look(Counts, To, LOOK: tl.constexpr):
    tl.atomic_add(Counts, 1)
    if LOOK:
        tl.store(To + tl.program_id(0), tl.load(Counts))


def test_atomic_operations_may_meet_but_not_with_loads():
    counts, seen = torch.zeros(1, dtype=torch.int32), torch.zeros(4, dtype=torch.int32)
    with strict():
        count_and_look[(4,)](counts, seen, False)
        assert counts == 4
        with pytest.raises(Race, match="that atomic operations update"):
            count_and_look[(4,)](counts, seen, True)


# Order and counters ------------------------------------------------------------------------------------------------


@triton.jit
def who_was_last(Last):
    number = (tl.program_id(0) * 3 + tl.program_id(1)) * 2 + tl.program_id(2)
    tl.store(Last, number)


def test_programs_run_in_an_order_that_a_seed_shuffles():
    def last(order):
        to = torch.zeros(1, dtype=torch.int32)
        with strict(races=False, order=order) as counters:
            who_was_last[(4, 3, 2)](to)
        assert counters.programs == 24
        return to.item()

    assert last(None) == 23
    shuffled = [last(order) for order in range(8)]
    assert len(set(shuffled)) > 3 and shuffled == [last(order) for order in range(8)]


@triton.jit
def multiply(A, B, To, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr, PRECISION: tl.constexpr):
    m, n, k = tl.arange(0, M)[:, None], tl.arange(0, N)[None, :], tl.arange(0, K)
    a, b = tl.load(A + m * K + k[None, :]), tl.load(B + k[:, None] * N + n)
    to = tl.dot(
        a, b, input_precision=PRECISION, out_dtype=tl.float64 if To.dtype.element_ty == tl.float64 else tl.float32
    )
    tl.store(To + m * N + n, to)


def test_counters_are_exact():
    x, to = torch.randn(7, 4), torch.zeros(7, 4)
    a, b, product = torch.randn(16, 32).half(), torch.randn(32, 64).half(), torch.zeros(16, 64)
    with strict() as counters:
        copy[(2,)](x, to, 7, 4, 4, 7, 4)
        assert vars(counters) == {"load_bytes": 112, "store_bytes": 112, "flops": 0, "programs": 2, "launches": 1}
        with strict() as inner:
            multiply[(1,)](a, b, product, 16, 64, 32, "ieee")
        assert vars(inner) == {
            "load_bytes": 2 * (16 * 32 + 32 * 64),
            "store_bytes": 4 * 16 * 64,
            "flops": 2 * 16 * 64 * 32,
            "programs": 1,
            "launches": 1,
        }
        assert (counters.launches, counters.flops) == (1, 0)
        counters.reset()
        copy[(2,)](x, to, 7, 4, 4, 7, 4)
        assert (counters.launches, counters.load_bytes) == (1, 112)


# Patching ----------------------------------------------------------------------------------------------------------


@triton.jit
def sums_of_rows(X, To, SIZE: tl.constexpr):
    row = tl.arange(0, SIZE)
    tl.store(To + row, tl.sum(tl.load(X + row[:, None] * SIZE + row[None, :]), 1))


def test_nothing_stays_patched():
    x, to = torch.randn(7, 4), torch.zeros(7, 4)
    places = interpreter, interpreter.interpreter_builder, interpreter.InterpreterBuilder, interpreter.GridExecutor
    places += interpreter.ScanOps, interpreter.ReduceOps, tl, tl.core, tl.math, tl.tensor
    before = [dict(vars(place)) for place in places]
    with strict(), strict():
        assert vars(interpreter.InterpreterBuilder) != before[2]
        copy[(2,)](x, to, 7, 4, 4, 7, 4)
        sums_of_rows[(1,)](x[:4], to[0], 4)
    with pytest.raises(OutOfBounds), strict():
        copy[(2,)](x, to, 7, 4, 4, 8, 4)
    with pytest.raises(ZeroDivisionError), strict(poison=False):
        raise ZeroDivisionError
    state = "grid_dim", "grid_idx"  # the stock interpreter's own
    for place, members in zip(places, before, strict=True):
        assert {k: v for k, v in vars(place).items() if k not in state} == {
            k: v for k, v in members.items() if k not in state
        }
    assert not torch.are_deterministic_algorithms_enabled()
