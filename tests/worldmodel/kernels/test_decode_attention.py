"""A new frame attends over the ring that it joins, as by plain attention, and leaves the ring as it should be."""

from functools import partial

import pytest
import torch
from checking import FORMATS, TOLERANCE, check, far_apart, relative_error
from strict_interpreter import strict
from torch import Tensor

from worldmodel.kernels import decode_attention as module
from worldmodel.kernels.attention import attention
from worldmodel.kernels.decode_attention import decode_attention, decode_reference

operation = partial(decode_attention, backend="interpret")
SHAPES = {  # rows, key heads, heads of each, tokens, frames, head dim
    "one frame": (1, 1, 1, 1, 1, 16),
    "one token": (5, 1, 4, 1, 16, 48),
    "grouped heads": (3, 2, 3, 4, 5, 64),
    "seven tokens": (2, 1, 4, 7, 3, 8),
    "two tiles of queries": (2, 2, 8, 17, 3, 32),
}


def frame(
    rows: int, kv_heads: int, groups: int, tokens: int, frames: int, dim: int, dtype: torch.dtype = torch.float64
) -> list[Tensor]:
    """Query, key and value of a new frame, as views of what a linear layer gives, and caches of the frames before."""
    generator = torch.Generator().manual_seed(0)
    heads = (groups * kv_heads, kv_heads, kv_heads)
    packed = torch.randn(rows, tokens, sum(heads), dim, generator=generator, dtype=torch.float64)
    packed[:, :, : heads[0]] *= dim**-0.5
    caches = torch.randn(2, rows, kv_heads, frames * tokens, dim, generator=generator, dtype=torch.float64)
    return [*packed.to(dtype).transpose(1, 2).split(heads, 1), *caches.to(dtype)]


def visible(rows: int, frames: int, share: float = 0.6) -> Tensor:
    """Frames that may be seen, `[rows, frames]`: of the first row, the last frame alone."""
    valid = torch.rand(rows, frames, generator=torch.Generator().manual_seed(1)) < share
    valid[0] = torch.arange(frames) == frames - 1
    return valid


def on_copies(function, place: Tensor, valid: Tensor):
    """`function` of a frame and copies of the caches: what it returns, and the caches after it."""

    def call(query, key, value, key_cache, value_cache):
        caches = key_cache.clone(), value_cache.clone()
        return function(query, key, value, *caches, place, valid), *caches

    return call


@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_it_agrees_with_torch(shape, dtype):
    rows, frames = shape[0], shape[4]
    place, valid = torch.tensor(frames // 2), visible(rows, frames)
    functions = [on_copies(function, place, valid) for function in (operation, decode_reference)]
    check(*functions, frame(*shape), dtype, gradients=False)


def test_rows_may_share_what_is_seen():
    inputs, place, valid = frame(*SHAPES["grouped heads"]), torch.tensor(1), visible(1, 5)
    shared, own = (on_copies(operation, place, x)(*inputs) for x in (valid, valid.expand(3, 5)))
    assert all(torch.equal(x, y) for x, y in zip(shared, own, strict=True))


@pytest.mark.parametrize("dtype", FORMATS)
def test_the_ring_goes_round(dtype):
    shape, tokens, frames = (2, 2, 3, 4, 3, 16), 4, 3
    *_, key_cache, value_cache = (x.zero_() for x in frame(*shape, dtype))
    valid, place, history = torch.zeros(1, frames, dtype=torch.bool), torch.tensor(0), []
    for step in range(2 * frames + 1):
        query, key, value, *_ = (x.roll(step, -1) for x in frame(*shape, dtype))
        history = [*history, (key, value)][-frames:]
        attended = operation(query, key, value, key_cache, value_cache, place, valid)
        for cache, new in ((key_cache, key), (value_cache, value)):
            assert torch.equal(cache.unflatten(2, (frames, tokens))[:, :, step % frames], new)
        keys, values = (torch.cat(x, 2).double() for x in zip(*history, strict=True))
        assert relative_error(attended, attention(query.double(), keys, values)) <= TOLERANCE[dtype]
        valid[:, step % frames] = True
        place = (place + 1) % frames


def test_the_new_frame_is_always_seen():
    inputs = frame(*SHAPES["one token"])
    value = inputs[2]
    attended, *_ = on_copies(operation, torch.tensor(3), torch.zeros(5, 16, dtype=torch.bool))(*inputs)
    torch.testing.assert_close(attended, value.expand_as(attended))


@pytest.mark.parametrize("dtype", FORMATS)
def test_what_may_not_be_seen_has_no_influence(dtype):
    inputs, place, valid = frame(*SHAPES["grouped heads"], dtype), torch.tensor(2), visible(3, 5)
    seen = valid & (torch.arange(5) != place)
    expected, *_ = on_copies(operation, place, valid)(*inputs)
    for cache in inputs[3:]:
        cache.unflatten(2, (5, 4)).masked_fill_(~seen[:, None, :, None, None], float("nan"))
    got, *_ = on_copies(operation, place, valid)(*inputs)
    assert torch.isfinite(expected).all() and torch.equal(got, expected)


def test_strides_are_the_callers():
    inputs, place, valid = frame(*SHAPES["seven tokens"], torch.float32), torch.tensor(0), visible(2, 3)
    expected = on_copies(operation, place, valid)(*[x.contiguous() for x in inputs])
    columns = [x.mT.contiguous().mT for x in inputs[:3]]
    apart = [[far_apart(x.transpose(0, axis)).transpose(0, axis) for x in inputs[:3]] for axis in (0, 2)]
    for new in (inputs[:3], columns, *apart):
        assert not any(x.is_contiguous() for x in new)
        for x, y in zip(on_copies(operation, place, valid.T.contiguous().T)(*new, *inputs[3:]), expected, strict=True):
            assert torch.equal(x, y)


def test_a_cache_may_have_more_elements_than_an_int32_counts():
    rows, kv_heads, frames, dim = 3, 16, 2**18, 256
    query, key, value, *_ = frame(rows, kv_heads, 1, 1, 1, dim, torch.bfloat16)
    shape = rows, kv_heads, frames, dim
    size = 2 * rows * kv_heads * frames * dim
    # Of its storage only what is touched takes memory.
    caches = [torch.empty(0, dtype=key.dtype).set_(torch.UntypedStorage(size), 0, shape) for _ in range(2)]
    caches[0][:, :, :1], caches[1][:, :, :1] = key, -value
    valid = torch.arange(frames)[None] == 0
    with strict(races=False):
        attended = operation(query, key, value, *caches, torch.tensor(frames - 1), valid)
    assert torch.equal(caches[0][:, :, -1:], key) and torch.equal(caches[1][:, :, -1:], value)
    assert torch.equal(attended, torch.zeros_like(value))


@pytest.mark.parametrize("dtype", FORMATS)
def test_a_rows_bits_depend_on_no_other_row_and_no_order(dtype):
    inputs, place, valid = frame(6, 2, 3, 4, 5, 48, dtype), torch.tensor(4), visible(6, 5)
    whole = on_copies(operation, place, valid)(*inputs)
    for first, last in ((0, 1), (2, 5)):
        part = on_copies(operation, place, valid[first:last])(*[x[first:last] for x in inputs])
        assert all(torch.equal(x[first:last], y) for x, y in zip(whole, part, strict=True))
    for order in range(2):
        with strict(order=order):
            again = on_copies(operation, place, valid)(*inputs)
        assert all(torch.equal(x, y) for x, y in zip(whole, again, strict=True))


@pytest.mark.parametrize("seen", [0, 3, 16])
def test_it_reads_the_frames_that_are_seen_and_little_else(seen, counters):
    rows, kv_heads, groups, tokens, frames, dim = shape = (2, 2, 3, 4, 16, 64)
    inputs = frame(*shape, torch.bfloat16)
    operation(*inputs, torch.tensor(7), (torch.arange(frames) < seen)[None])
    frame_bytes = 2 * rows * kv_heads * tokens * dim  # of keys, or of values
    kept = seen - (seen > 7)
    compulsory = frame_bytes * (groups + 2 + 2 * kept) + 8 + frames
    assert counters.store_bytes == frame_bytes * (groups + 2)
    assert compulsory <= counters.load_bytes <= 1.03 * compulsory
    assert (counters.launches, counters.programs) == (1, rows * kv_heads)


def test_needing_a_gradient_is_refused_or_left_to_torch(monkeypatch):
    inputs = frame(*SHAPES["one token"], torch.float32)
    rest = torch.tensor(0), visible(5, 16)
    query = inputs[0].requires_grad_()
    with pytest.raises(RuntimeError, match="kernels=interpret has no gradient"):
        operation(query, *inputs[1:], *rest)
    with torch.no_grad():
        expected = operation(query, *[x.clone() for x in inputs[1:]], *rest)
    # As on a GPU, where auto is Triton for what its kernels can take.
    monkeypatch.setattr(module, "resolve", lambda tensor, backend, able: "triton" if able else "torch")
    attended = decode_attention(query, *inputs[1:], *rest, backend="auto")
    torch.testing.assert_close(attended, expected)
    (gradient,) = torch.autograd.grad(attended.sum(), query)
    assert gradient.abs().sum() > 0


def test_tensors_that_do_not_fit_are_refused():
    query, key, value, *caches = frame(*SHAPES["grouped heads"])
    rest = torch.tensor(0), visible(3, 5)
    for wrong in (caches[0].mT.contiguous().mT, caches[0][:, :, 1:], caches[0].float()):
        with pytest.raises(ValueError, match="expected contiguous torch.float64 caches"):
            operation(query, key, value, wrong, caches[1], *rest)
    with pytest.raises(ValueError, match=r"expected valid \[1 or 3, W\]"):
        operation(query, key, value, *caches, rest[0], rest[1][:2])
    with pytest.raises(ValueError, match=r"expected query \[R, G \* K, N, d\]"):
        operation(query[:, 1:], key, value, *caches, *rest)


def test_the_operation_is_registered_as_it_should_be():
    inputs = frame(*SHAPES["grouped heads"], torch.float32), torch.tensor(2), visible(3, 5)
    torch.library.opcheck(torch.ops.worldmodel.decode_attention.default, (*inputs[0], *inputs[1:]))


class Step(torch.nn.Module):
    def forward(self, query, key, value, key_cache, value_cache, place, valid):
        return operation(query, key, value, key_cache, value_cache, place, valid) * 2, (place + 1) % valid.shape[1]


def test_compiled_in_one_graph_of_any_size():
    graphs = []

    def count(graph, inputs):
        graphs.append(graph)
        return torch._dynamo.lookup_backend("aot_eager")(graph, inputs)

    compiled = torch.compile(Step(), fullgraph=True, dynamic=True, backend=count)
    for rows, tokens, frames in ((3, 4, 5), (5, 7, 3)):
        inputs = frame(rows, 2, 3, tokens, frames, 16, torch.float32)
        place, valid = torch.tensor(1), visible(rows, frames)
        mine, theirs = ([x.clone() for x in inputs] for _ in range(2))
        got, expected = compiled(*mine, place, valid), Step()(*theirs, place, valid)
        assert all(torch.equal(x, y) for x, y in zip([*got, *mine], [*expected, *theirs], strict=True))
        assert not torch.equal(mine[3], inputs[3])
    assert len(graphs) == 1


def test_exported_with_a_free_number_of_rows():
    rows = torch.export.Dim("rows", max=64)
    shapes = (*[{0: rows}] * 5, {}, {0: rows})
    example = (*frame(3, 2, 3, 4, 5, 16, torch.float32), torch.tensor(2), visible(3, 5))
    program = torch.export.export(Step(), example, dynamic_shapes=shapes)
    assert "worldmodel.decode_attention.default" in str(program.graph)
    inputs = frame(7, 2, 3, 4, 5, 16, torch.float32)
    mine, theirs = ([x.clone() for x in inputs] for _ in range(2))
    rest = torch.tensor(4), visible(7, 5)
    got, expected = program.module()(*mine, *rest), Step()(*theirs, *rest)
    assert all(torch.equal(x, y) for x, y in zip([*got, *mine], [*expected, *theirs], strict=True))
