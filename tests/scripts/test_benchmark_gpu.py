"""The GPU benchmark, in small on CPU: its kernels interpreted, so that all of it runs but its figures mean nothing."""

import json

import pytest

pytest.importorskip("triton")  # no wheels for this system
from strict_interpreter import strict

from scripts import benchmark_gpu, contests
from worldmodel.kernels import residual_norm
from worldmodel.kernels.cases import Shape

SHAPE = Shape(tokens=2, width=32, heads=2, kv_heads=1, window=3)


def small(contest: contests.Contest) -> contests.Contest:
    contest.rows = 3
    return contest


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(benchmark_gpu, "REPEATS", 1)
    monkeypatch.setattr(benchmark_gpu, "WARM", 0)
    monkeypatch.setattr(benchmark_gpu, "peaks", lambda device: {"bytes_per_second": 1e9, "flop_per_second": 1e9})
    monkeypatch.setattr(benchmark_gpu.torch, "compile", lambda function, **_: function)  # seconds each, and not ours


def test_every_operation_is_measured_and_right(quick, tmp_path):
    every = [
        contests.lambda_returns(),
        contests.residual_norms("small", SHAPE),
        contests.axial("small", SHAPE, frames=4),
        contests.block_causal("small", SHAPE, frames=4),
        contests.decode("small", SHAPE),
        contests.shared_prefix("small", SHAPE, candidates=3, steps=2),
    ]
    with strict():
        code = benchmark_gpu.measure_gpu(
            None, tmp_path, "a command", "cpu", "interpret", [small(contest) for contest in every]
        )
    assert code == 0
    result = json.loads((tmp_path / "kernels_gpu.json").read_text())
    assert len(result["rows"]) == 2 * len(every) and result["gpu"] is None
    for row in result["rows"]:
        assert row["right"] and {"kernel", "eager", "compiled"} <= set(row["milliseconds"])
        assert 0 < row["of_roofline"] and 0 < row["times_as_fast_as_eager"]
    by_name = {row["name"].split()[0]: row for row in result["rows"]}
    assert "repeated, scaled_dot_product_attention" in by_name["shared_prefix_attention"]["milliseconds"]
    flex = by_name["block_causal_attention"]
    assert "FlexAttention" in {**flex["milliseconds"], **flex["failed"]}  # on CPU it has no backward
    assert (tmp_path / "kernels_gpu.png").stat().st_size > 10_000


def test_a_wrong_kernel_is_not_timed(quick, tmp_path, monkeypatch):
    reference = residual_norm.residual_norm_reference
    monkeypatch.setattr(residual_norm, "residual_norm_reference", lambda *a: tuple(1.1 * x for x in reference(*a)))
    with strict():
        contest = small(contests.residual_norms("small", SHAPE))
        code = benchmark_gpu.measure_gpu(None, tmp_path, "a command", "cpu", "interpret", [contest])
    rows = json.loads((tmp_path / "kernels_gpu.json").read_text())["rows"]
    assert code == 1
    assert all(not row["right"] and row["error"] > 0.05 and not row["milliseconds"] for row in rows)


def test_only_what_is_asked_for(quick, tmp_path, capsys):
    with strict():
        every = [small(contests.lambda_returns()), small(contests.decode("small", SHAPE))]
        assert benchmark_gpu.measure_gpu(["decode"], tmp_path, "a command", "cpu", "interpret", every) == 0
    assert "decode_attention" in capsys.readouterr().out
    assert len(json.loads((tmp_path / "kernels_gpu.json").read_text())["rows"]) == 2
