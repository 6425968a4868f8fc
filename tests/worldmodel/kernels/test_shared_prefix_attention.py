"""Candidates attend over a history that they share and frames of their own: as if each had a copy of the history."""

from functools import partial

import pytest
import torch
from checking import FORMATS, TOLERANCE, check, far_apart, relative_error
from strict_interpreter import strict
from torch import Tensor

from worldmodel.kernels import decode_attention as decode
from worldmodel.kernels.attention import attention
from worldmodel.kernels.shared_prefix_attention import (
    CONFIGS,
    shared_prefix_attention,
    shared_prefix_reference,
    sharing,
)

operation = partial(shared_prefix_attention, backend="interpret")
reference = partial(shared_prefix_attention, backend="torch")
SHAPES = {  # histories, candidates, key heads, heads of each, tokens, own frames, the history's frames, head dim
    "no history": (1, 1, 1, 1, 1, 1, 0, 16),
    "one token": (3, 64, 1, 4, 1, 4, 7, 48),
    "several groups": (2, 5, 2, 4, 4, 3, 5, 64),
    "seven tokens": (2, 5, 1, 3, 7, 3, 3, 8),
    "two tiles of queries": (1, 3, 2, 8, 17, 2, 3, 32),
}


def frame(
    batch: int,
    candidates: int,
    kv_heads: int,
    groups: int,
    tokens: int,
    frames: int,
    past: int,
    dim: int,
    dtype: torch.dtype = torch.float64,
) -> list[Tensor]:
    """Query, key and value of a new frame, as views of what a linear layer gives, caches of own frames, and the
    history's keys and values."""
    generator = torch.Generator().manual_seed(0)
    heads, rows = (groups * kv_heads, kv_heads, kv_heads), batch * candidates
    packed = torch.randn(rows, tokens, sum(heads), dim, generator=generator, dtype=torch.float64)
    packed[:, :, : heads[0]] *= dim**-0.5
    caches = torch.randn(2, rows, kv_heads, frames * tokens, dim, generator=generator, dtype=torch.float64)
    prefix = torch.randn(2, batch, kv_heads, past * tokens, dim, generator=generator, dtype=torch.float64)
    return [*packed.to(dtype).transpose(1, 2).split(heads, 1), *caches.to(dtype), *prefix.to(dtype)]


def visible(rows: int, frames: int) -> Tensor:
    """Frames that may be seen, `[rows, frames]`; of the last of several rows, none."""
    valid = torch.rand(rows, frames, generator=torch.Generator().manual_seed(1)) < 0.6
    valid[-1] &= rows == 1
    return valid


def rules(shape: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """Where the new frame goes, and which own and past frames may be seen."""
    return torch.tensor(shape[5] // 2), visible(1, shape[5]), visible(shape[0], shape[6])


def on_copies(function, place: Tensor, valid: Tensor, prefix_valid: Tensor):
    """`function` of a frame and copies of the caches: what it returns, and the caches after it."""

    def call(query, key, value, key_cache, value_cache, *prefix):
        caches = key_cache.clone(), value_cache.clone()
        return function(query, key, value, *caches, place, valid, *prefix, prefix_valid), *caches

    return call


@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_it_agrees_with_torch(shape, dtype):
    functions = [on_copies(function, *rules(shape)) for function in (operation, reference)]
    check(*functions, frame(*shape), dtype, gradients=False)


@pytest.mark.parametrize("backend", ["interpret", "torch"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_sharing_is_repeating(shape, backend):
    batch, candidates, _, _, _, frames, past, _ = shape
    query, key, value, *caches, prefix_key, prefix_value = inputs = frame(*shape)
    place, valid, prefix_valid = rules(shape)
    attended, *_ = on_copies(partial(shared_prefix_attention, backend=backend), place, valid, prefix_valid)(*inputs)
    repeated = [
        torch.cat([prefix.repeat_interleave(candidates, 0), cache], 2)
        for prefix, cache in zip((prefix_key, prefix_value), caches, strict=True)
    ]
    seen = torch.cat([prefix_valid.repeat_interleave(candidates, 0), valid.expand(batch * candidates, frames)], 1)
    expected = decode.decode_reference(query, key, value, *repeated, past + place, seen)
    assert relative_error(attended, expected) <= TOLERANCE[torch.float64]


def test_the_ring_goes_round():
    dtype = torch.bfloat16
    batch, candidates, _, _, tokens, frames, past, _ = shape = (2, 3, 2, 3, 4, 3, 2, 16)
    *_, key_cache, value_cache, prefix_key, prefix_value = frame(*shape, dtype)
    valid, place, history = torch.zeros(1, frames, dtype=torch.bool), torch.tensor(0), []
    prefix_valid = torch.ones(batch, past, dtype=torch.bool)
    for step in range(2 * frames):
        query, key, value, *_ = (x.roll(step, -1) for x in frame(*shape, dtype))
        history = [*history, (key, value)][-frames:]
        attended = operation(
            *(query, key, value, key_cache, value_cache, place, valid), *(prefix_key, prefix_value, prefix_valid)
        )
        for cache, new in ((key_cache, key), (value_cache, value)):
            assert torch.equal(cache.unflatten(2, (frames, tokens))[:, :, step % frames], new)
        kept = [(x.repeat_interleave(candidates, 0) for x in (prefix_key, prefix_value)), *history]
        keys, values = (torch.cat(x, 2).double() for x in zip(*kept, strict=True))
        assert relative_error(attended, attention(query.double(), keys, values)) <= TOLERANCE[dtype]
        valid[:, step % frames] = True
        place = (place + 1) % frames


@pytest.mark.parametrize("dtype", FORMATS)
def test_what_may_not_be_seen_has_no_influence(dtype):
    shape = SHAPES["several groups"]
    inputs, (place, valid, prefix_valid) = frame(*shape, dtype), rules(shape)
    seen = valid & (torch.arange(3) != place)
    expected, *_ = on_copies(operation, place, valid, prefix_valid)(*inputs)
    for cache, kept in zip(inputs[3:], (seen, seen, prefix_valid, prefix_valid), strict=True):
        cache.unflatten(2, (-1, 4)).masked_fill_(~kept[:, None, :, None, None], float("nan"))
    got, *_ = on_copies(operation, place, valid, prefix_valid)(*inputs)
    assert torch.isfinite(expected).all() and torch.equal(got, expected)


def test_strides_are_the_callers():
    shape = SHAPES["seven tokens"]
    inputs, (place, valid, prefix_valid) = frame(*shape, torch.float32), rules(shape)
    call = on_copies(operation, place, valid.T.contiguous().T, prefix_valid.T.contiguous().T)
    expected = on_copies(operation, place, valid, prefix_valid)(*[x.contiguous() for x in inputs])
    columns = [x.mT.contiguous().mT for x in (*inputs[:3], *inputs[5:])]
    apart = [
        [far_apart(x.transpose(0, axis)).transpose(0, axis) for x in (*inputs[:3], *inputs[5:])] for axis in (0, 2)
    ]
    for new in ([*inputs[:3], *inputs[5:]], columns, *apart):
        assert not any(x.is_contiguous() for x in new[:3])
        for x, y in zip(call(*new[:3], *inputs[3:5], *new[3:]), expected, strict=True):
            assert torch.equal(x, y)


def test_a_cache_may_have_more_elements_than_an_int32_counts():
    candidates, kv_heads, frames, dim = 3, 16, 2**18, 256
    query, key, value, *_ = frame(1, candidates, kv_heads, 1, 1, 1, 1, dim, torch.bfloat16)
    shape = candidates, kv_heads, frames, dim
    size = 2 * candidates * kv_heads * frames * dim
    # Of its storage only what is touched takes memory.
    caches = [torch.empty(0, dtype=key.dtype).set_(torch.UntypedStorage(size), 0, shape) for _ in range(2)]
    caches[0][:, :, :1], caches[1][:, :, :1] = key, -value
    valid, prefix = torch.arange(frames)[None] == 0, torch.empty(2, 1, kv_heads, 0, dim, dtype=key.dtype)
    with strict(races=False):
        attended = operation(
            query, key, value, *caches, torch.tensor(frames - 1), valid, *prefix, torch.empty(1, 0, dtype=torch.bool)
        )
    assert torch.equal(caches[0][:, :, -1:], key) and torch.equal(caches[1][:, :, -1:], value)
    assert torch.equal(attended, torch.zeros_like(value))


@pytest.mark.parametrize("dtype", FORMATS)
def test_a_candidates_bits_depend_on_no_other_history_no_count_and_no_order(dtype):
    shape = (3, 5, 2, 4, 4, 3, 5, 48)
    inputs, (place, valid, prefix_valid) = frame(*shape, dtype), rules(shape)
    whole = on_copies(operation, place, valid, prefix_valid)(*inputs)
    one = [x[5:10] for x in inputs[:5]] + [x[1:2] for x in inputs[5:]]
    few = [x[5:7] for x in inputs[:5]] + [x[1:2] for x in inputs[5:]]
    for part, last in ((one, 10), (few, 7)):
        for x, y in zip(whole, on_copies(operation, place, valid, prefix_valid[1:2])(*part), strict=True):
            assert torch.equal(x[5:last], y)
    for order in range(2):
        with strict(order=order):
            again = on_copies(operation, place, valid, prefix_valid)(*inputs)
        assert all(torch.equal(x, y) for x, y in zip(whole, again, strict=True))


@pytest.mark.parametrize("frames, own", [(4, 0), (16, 3)])
def test_it_reads_what_is_seen_once_for_all_candidates_of_a_program(frames, own, counters):
    candidates, kv_heads, groups, tokens, past, dim = 6, 2, 4, 4, 15, 64
    inputs = frame(1, candidates, kv_heads, groups, tokens, frames, past, dim, torch.bfloat16)
    valid, prefix_valid = (torch.arange(frames) < own)[None], (torch.arange(past) > 2)[None]
    operation(*inputs[:5], torch.tensor(frames - 1), valid, *inputs[5:], prefix_valid)
    frame_bytes = 2 * kv_heads * tokens * dim  # of one candidate's keys, or values
    assert counters.store_bytes == candidates * frame_bytes * (groups + 2)
    programs = 2  # of four candidates, and of the last two
    compulsory = candidates * frame_bytes * (groups + 2 + 2 * own) + programs * frame_bytes * 2 * (past - 3)
    assert compulsory <= counters.load_bytes <= 1.03 * compulsory
    assert (counters.launches, counters.programs) == (1, programs * kv_heads)


def test_with_four_candidates_a_program_it_reads_a_third_of_repeated_histories(counters):
    candidates, _, groups, tokens, frames, past, dim = shape = (8, 1, 4, 4, 4, 60, 64)
    inputs, valid = frame(1, *shape, torch.bfloat16), torch.zeros(1, frames, dtype=torch.bool)
    config = CONFIGS[80]["half"]
    assert sharing(groups * tokens, dim, config) == (4, config["rows"])
    place, prefix_valid = torch.tensor(0), torch.ones(1, past, dtype=torch.bool)
    attended, *_ = on_copies(operation, place, valid, prefix_valid)(*inputs)
    shared = counters.load_bytes + counters.store_bytes
    counters.reset()
    repeated = [
        torch.cat([prefix.expand(candidates, -1, -1, -1), cache], 2)
        for prefix, cache in zip(inputs[5:], inputs[3:5], strict=True)
    ]
    seen = torch.cat([prefix_valid, valid], 1)
    expected = decode.decode_attention(*inputs[:3], *repeated, past + place, seen, backend="interpret")
    assert relative_error(attended, expected) <= 2 * TOLERANCE[torch.bfloat16]
    assert counters.load_bytes + counters.store_bytes >= 3 * shared


def test_every_model_shares_the_history_where_tensor_cores_multiply():
    for architecture, table in CONFIGS.items():
        for queries in (4, 3, 3 * 4, 5 * 16):  # of a key head: heads of each of the four models times tokens
            candidates, rows = sharing(queries, 64, table["half"])
            assert candidates >= 3 and rows // 2 < candidates * queries <= rows, architecture
        assert sharing(8 * 17, 64, table["single"]) == (1, table["single"]["most_rows"])


def test_needing_a_gradient_is_refused_or_left_to_torch(monkeypatch):
    shape = SHAPES["seven tokens"]
    inputs = frame(*shape, torch.float32)
    prefix_key = inputs[5].requires_grad_()
    calls = [on_copies(partial(shared_prefix_attention, backend=x), *rules(shape)) for x in ("interpret", "auto")]
    with pytest.raises(RuntimeError, match="kernels=interpret has no gradient"):
        calls[0](*inputs)
    with torch.no_grad():
        expected, *_ = calls[0](*inputs)
    monkeypatch.setattr(decode, "resolve", lambda tensor, backend, able: "triton" if able else "torch")
    attended, *_ = calls[1](*inputs)
    torch.testing.assert_close(attended, expected)
    (gradient,) = torch.autograd.grad(attended.sum(), prefix_key)
    assert gradient.abs().sum() > 0


@pytest.mark.parametrize("tokens", [1, 4])
def test_the_reference_has_the_gradients_of_repeated_histories(tokens):
    query, _, _, *keys, prefix_key, prefix_value = frame(2, 3, 2, 3, tokens, 3, 5, 16)
    leaves = [x.requires_grad_() for x in (query, prefix_key, prefix_value, *keys)]
    masks = [torch.where(visible(rows, n * tokens), 0.0, -1e9).double() for rows, n in ((2, 5), (1, 3))]
    attended = shared_prefix_reference(*leaves, *masks)
    past = [x.repeat_interleave(3, 0) for x in (prefix_key, prefix_value)]
    joined = [torch.cat(x, 2) for x in zip(past, keys, strict=True)]
    mask = torch.cat([masks[0].repeat_interleave(3, 0), masks[1].expand(6, -1)], 1)
    expected = attention(query, *joined, mask[:, None, None])
    torch.testing.assert_close(attended, expected)
    gradients = [torch.autograd.grad(x.square().sum(), leaves) for x in (attended, expected)]
    for x, y in zip(*gradients, strict=True):
        torch.testing.assert_close(x, y)


def test_tensors_that_do_not_fit_are_refused():
    shape = SHAPES["several groups"]
    inputs, (place, valid, prefix_valid) = frame(*shape), rules(shape)
    for wrong in ((valid.expand(10, 3), prefix_valid), (valid, prefix_valid[:, 1:]), (valid, prefix_valid[:1])):
        with pytest.raises(ValueError, match=r"expected valid \[1, W\] and a prefix"):
            on_copies(operation, place, *wrong)(*inputs)
    with pytest.raises(ValueError, match="expected contiguous torch.float64 caches"):
        operation(*inputs[:4], inputs[4].mT.contiguous().mT, place, valid, *inputs[5:], prefix_valid)


def arguments(*shape: int) -> tuple[Tensor, ...]:
    """In the operation's order."""
    inputs, (place, valid, prefix_valid) = frame(*shape, torch.float32), rules(shape)
    return *inputs[:5], place, valid, *inputs[5:], prefix_valid


def test_the_operation_is_registered_as_it_should_be():
    torch.library.opcheck(torch.ops.worldmodel.shared_prefix_attention.default, arguments(*SHAPES["several groups"]))


class Step(torch.nn.Module):
    def forward(self, query, key, value, key_cache, value_cache, place, valid, prefix_key, prefix_value, prefix_valid):
        prefix = prefix_key, prefix_value, prefix_valid
        return operation(query, key, value, key_cache, value_cache, place, valid, *prefix) * 2, place + 1


def same_effects(function, inputs: tuple[Tensor, ...]) -> bool:
    """Whether it gives what `Step` gives, and leaves the same caches."""
    mine, theirs = ([x.clone() for x in inputs] for _ in range(2))
    got, expected = function(*mine), Step()(*theirs)
    assert not torch.equal(mine[3], inputs[3])
    return all(torch.equal(x, y) for x, y in zip([*got, *mine], [*expected, *theirs], strict=True))


def test_compiled_in_one_graph_of_any_size():
    graphs = []

    def count(graph, inputs):
        graphs.append(graph)
        return torch._dynamo.lookup_backend("aot_eager")(graph, inputs)

    compiled = torch.compile(Step(), fullgraph=True, dynamic=True, backend=count)
    for shape in ((2, 5, 3, 3, 4, 7, 5, 16), (3, 2, 2, 2, 7, 5, 4, 16)):  # of the first, no two sizes are equal
        assert same_effects(compiled, arguments(*shape))
    assert len(graphs) == 1


def test_exported_with_free_numbers_of_histories_and_candidates():
    batch, rows = torch.export.Dim("batch", max=64), torch.export.Dim("rows", max=512)
    shapes = (*[{0: rows}] * 5, {}, {}, {0: batch}, {0: batch}, {0: batch})
    program = torch.export.export(Step(), arguments(2, 5, 2, 3, 4, 3, 5, 16), dynamic_shapes=shapes)
    assert "worldmodel.shared_prefix_attention.default" in str(program.graph)
    assert same_effects(program.module(), arguments(3, 7, 2, 3, 4, 3, 5, 16))
