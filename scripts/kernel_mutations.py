"""The bugs that `python -m scripts.mutate_kernels` puts into the kernels, one at a time."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutation:
    """A line of a kernel changed for the worse.

    Attributes:
        kernel: the file in worldmodel/kernels, without its ending.
        what: what the change does.
        old, new: the text to replace, which occurs once in the file, and what with.
        slower: the results stay right; the kernel does more work, or holds more than it should.
    """

    kernel: str
    what: str
    old: str
    new: str
    slower: bool = False


MUTATIONS = (
    Mutation(
        "axial_attention", "a position sees the one after it",
        "seen = key <= query if CAUSAL", "seen = key <= query + 1 if CAUSAL",
    ),
    Mutation(
        "axial_attention", "the window is a frame too long", "(query - key < WINDOW)", "(query - key <= WINDOW)",
    ),
    Mutation(
        "axial_attention", "rotated the wrong way round",
        "return first * cosine - second * sine, second * cosine + first * sine",
        "return first * cosine + second * sine, second * cosine - first * sine",
    ),
    Mutation(
        "axial_attention", "frames that are not valid are seen",
        "seen = seen & (tl.load(Valid + position, mask=inside, other=0) != 0)[:, None]",
        "seen = seen & (tl.load(Valid + position, mask=inside, other=0) >= 0)[:, None]",
    ),
    Mutation(
        "axial_attention", "a tile is read past its sequence's end",
        "inside = (row < length) & (sequence < sequences)", "inside = (row < BLOCK_S) & (sequence < sequences)",
    ),
    Mutation(
        "axial_attention", "the norm's own gradient is left out",
        "along = factor * share / D", "along = 0.0 * share / D",
    ),
    Mutation(
        "axial_attention", "the key's gradient is that of the last query head alone",
        "key_gradient1 = tl.dot(query1, tl.trans(slope), key_gradient1,",
        "key_gradient1 = tl.dot(query1, tl.trans(slope), tl.zeros_like(key_gradient1),",
    ),
    Mutation(
        "axial_attention", "a backward of one warp, whose registers spill",
        '("backward", 2, 64): {"num_warps": 8,', '("backward", 2, 64): {"num_warps": 1,', slower=True,
    ),
    Mutation(
        "axial_attention", "keys are written in full numbers", "keys = packed.new_empty(*packed.shape[:3], kv_heads, dim)",
        "keys = packed.new_empty(*packed.shape[:3], kv_heads, dim, dtype=torch.promote_types(packed.dtype, torch.float32))",
    ),
    Mutation(
        "axial_attention", "every value is read twice",
        "value1, value2 = _load(packed + (heads + kv_heads + kv_head) * D, row * stride, inside, D, BLOCK_HALF)\n",
        "value1, value2 = _load(packed + (heads + kv_heads + kv_head) * D, row * stride, inside, D, BLOCK_HALF)\n"
        "        again1, again2 = _load(packed + (heads + kv_heads + kv_head) * D, row * stride, inside, D, BLOCK_HALF)\n"
        "        value1, value2 = tl.maximum(value1, again1), tl.maximum(value2, again2)\n",
        slower=True,
    ),
    Mutation(
        "block_causal_attention", "a frame sees the next one",
        "scores = tl.where((age >= 0) & (age < window), scores",
        "scores = tl.where((age >= -1) & (age < window), scores",
    ),
    Mutation(
        "block_causal_attention", "the last tile of keys is skipped",
        "end = tl.cdiv(tl.minimum(tl.maximum(seen_to + 1, 0) * size, count), BLOCK)",
        "end = tl.minimum(tl.maximum(seen_to + 1, 0) * size, count) // BLOCK",
    ),
    Mutation(
        "block_causal_attention", "a tile on the window's edge counts as seen wholly",
        "whole = tl.minimum(tl.cdiv(tl.maximum(whole_from, 0) * size, BLOCK), end)",
        "whole = tl.minimum(tl.maximum(whole_from, 0) * size // BLOCK, end)",
    ),
    Mutation(
        "block_causal_attention", "the sum is not faded when the maximum rises",
        "total = total * fading + tl.sum(weights, 1)", "total = total + tl.sum(weights, 1)",
    ),
    Mutation(
        "block_causal_attention", "rows that see nothing divide by zero",
        "total = tl.where(total > 0, total, 1.0)", "total = total + 0.0",
    ),
    Mutation(
        "block_causal_attention", "keys of the next sequence are read in a partly filled tile",
        "mask=inside[:, None] & (column < D), other=0.0)\n    return tl.load(X + batch",
        "mask=column < D, other=0.0)\n    return tl.load(X + batch",
    ),
    Mutation(
        "block_causal_attention", "delta is left out of the queries' gradient",
        "scores_gradient = (weights * (weights_gradient - delta[:, None])).to(k.dtype)",
        "scores_gradient = (weights * weights_gradient).to(k.dtype)",
    ),
    Mutation(
        "block_causal_attention", "tiles before the window are visited, and masked",
        "first = tl.maximum(seen_from, 0) * size // BLOCK", "first = 0 * size // BLOCK", slower=True,
    ),
    Mutation(
        "block_causal_attention", "half the warps, whose registers spill",
        "warps = max(config[2] // 2, config[2] * blocks[by_keys] // config[by_keys])", "warps = config[2] // 2",
        slower=True,
    ),
    Mutation(
        "decode_attention", "the ring's old frame at the new one's place is seen",
        "other=0) & (n // N != place)", "other=0) & (n // N >= 0)",
    ),
    Mutation(
        "decode_attention", "the new frame goes into the slot beside its own",
        "slot = cache + (place * N + new) * D + dim", "slot = cache + ((place + 1) % frames * N + new) * D + dim",
    ),
    Mutation(
        "decode_attention", "every tile of queries appends",
        "tl.store(KeyCache + slot, new_key, mask=is_new & (tile == 0))",
        "tl.store(KeyCache + slot, new_key, mask=is_new)", slower=True,
    ),
    Mutation(
        "decode_attention", "query heads read the key heads in turn",
        "query_heads, token = head * G + row // N,", "query_heads, token = head + kv_heads * (row // N),",
    ),
    Mutation(
        "decode_attention", "the length is counted on the host's first row",
        "valid = tl.load(Valid + batch * valid_row + frame, mask=frame < frames, other=0) & (frame != place)",
        "valid = tl.load(Valid + frame, mask=frame < frames, other=0) & (frame != place)",
    ),
    Mutation(
        "decode_attention", "an empty ring is gone through to its end",
        "length = tl.max(tl.where(valid, frame + 1, 0), 0) * N", "length = frames * N", slower=True,
    ),
    Mutation(
        "shared_prefix_attention", "a candidate sees its neighbours' new frames",
        "seen_new = mine[:, None] == whose_new[None, :]".replace("whose_new", "new_whose"),
        "seen_new = (mine[:, None] >= 0) & (new_whose[None, :] < present)",
    ),
    Mutation(
        "shared_prefix_attention", "a candidate sees its neighbours' own frames",
        "seen_own = seen[None, :] & (mine[:, None] == whose[None, :])",
        "seen_own = seen[None, :] & (mine[:, None] >= 0)",
    ),
    Mutation(
        "shared_prefix_attention", "the history's hidden frames are seen",
        "seen = tl.load(PrefixValid + history * prefix_frames + n // N, mask=n < past, other=0)", "seen = n < past",
    ),
    Mutation(
        "shared_prefix_attention", "all rows have the first history",
        "prefix = (history * kv_heads + head) * prefix_frames * N * D",
        "prefix = (0 * history + head) * prefix_frames * N * D",
    ),
    Mutation(
        "shared_prefix_attention", "the last program writes beyond the candidates",
        "present = tl.minimum(candidates - first, R)", "present = R",
    ),
    Mutation(
        "shared_prefix_attention", "candidates share nothing",
        "return max(1, rows // queries), rows", "return 1, rows", slower=True,
    ),
    Mutation(
        "shared_prefix_attention", "own frames are gone through to the ring's end",
        "own = tl.max(tl.where(valid, frame + 1, 0), 0) * (R * N)", "own = frames * (R * N)", slower=True,
    ),
    Mutation(
        "residual_norm", "the variance is of D - 1", "factor = tl.rsqrt(tl.sum(x * x, 1) / D + eps)[:, None]",
        "factor = tl.rsqrt(tl.sum(x * x, 1) / (D - 1) + eps)[:, None]",
    ),
    Mutation(
        "residual_norm", "normalised before the sum is rounded to its format",
        "total = total.to(Total.dtype.element_ty).to(ACC)", "total = total.to(ACC)",
    ),
    Mutation(
        "residual_norm", "columns outside count in the centred norm",
        "x = tl.where(within, x - tl.sum(x, 1)[:, None] / D, 0.0)", "x = x - tl.sum(x, 1)[:, None] / D",
    ),
    Mutation(
        "residual_norm", "a broadcast row is taken from the row itself",
        "tl.load(Rows + (row // repeats).to(tl.int64) * stride", "tl.load(Rows + (row % repeats).to(tl.int64) * stride",
    ),
    Mutation(
        "residual_norm", "the gradient that reaches the sum directly is lost",
        "gradient += _read(TotalGradient, row, column, inside, total_gradient_stride, 1, ACC)",
        "gradient += 0.0 * _read(TotalGradient, row, column, inside, total_gradient_stride, 1, ACC)",
    ),
    Mutation(
        "residual_norm", "programs write over each other's share of the weight's gradient",
        "place = tl.program_id(0).to(tl.int64) * D + column\n        _write(WeightPartials",
        "place = tl.program_id(0).to(tl.int64) * 0 + column\n        _write(WeightPartials",
    ),
    Mutation(
        "residual_norm", "each row is read twice",
        "total = _read(X, row, column, inside, x_stride, 1, ACC)\n",
        "total = (_read(X, row, column, inside, x_stride, 1, ACC) + _read(X, row, column, inside, x_stride, 1, ACC)) / 2\n",
        slower=True,
    ),
    Mutation(
        "lambda_return", "padding has a return",
        "reward = tl.load(Rewards + place, mask=inside, other=0.0)",
        "reward = tl.load(Rewards + place, mask=inside, other=1.0)",
    ),
    Mutation(
        "lambda_return", "the value after the last step counts as little as the others",
        "term = reward + going * tl.where(last, value, (1 - trace) * value)",
        "term = reward + going * (1 - trace) * value",
    ),
    Mutation(
        "lambda_return", "steps composed in the wrong order",
        "return later_factor * factor, factor * later_term + term",
        "return later_factor * factor, later_factor * term + later_term",
    ),
    Mutation(
        "lambda_return", "the value before the step in place of the one after it",
        "value = tl.load(Values + row * (H + 1) + step + 1, mask=inside, other=0.0).to(ACC)\n    last = step == H - 1\n    factor",
        "value = tl.load(Values + row * (H + 1) + step, mask=inside, other=0.0).to(ACC)\n    last = step == H - 1\n    factor",
    ),
    Mutation(
        "lambda_return", "the first value's gradient is never written",
        "mask=(row < rows) & (step == 0))", "mask=(row < rows) & (step < 0))",
    ),
    Mutation(
        "lambda_return", "one warp for sixteen rows", 'CONFIGS = {80: {"rows": 16, "num_warps": 4}}',
        'CONFIGS = {80: {"rows": 512, "num_warps": 1}}', slower=True,
    ),
)  # fmt: skip
