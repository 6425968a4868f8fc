"""What the kernels compile to is no worse than what is committed, and what is worse would be seen."""

from __future__ import annotations

import copy
import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from scripts.kernel_report import COMMITTED, ROOT, measure, part
from worldmodel.kernels.cases import CASES, SHAPES, Calls, compulsory_bytes
from worldmodel.kernels.machine_code import ARCHITECTURES, blocks_per_sm, compiling, violations

KERNEL = {
    "registers": 100, "spill_bytes": 0, "stack": 0, "shared_memory": 32768, "warps": 4, "stages": 2, "blocks_per_sm": 5,
    "tensor_cores": "HGMMA", "loads": 8, "wide_loads": 8, "bulk_copies": 2, "instructions": 500,
}  # fmt: skip
OPERATION = {"launches": 2, "bytes": 1.1, "most_bytes": 1.3, "flop": 1.5, "saved": 4.0, "least_saved": 3.0}


def facts(kernel: dict | None = None, operation: dict | None = None, triton: str = "3.8.0") -> dict:
    """Of one case that has one operation with one kernel."""
    sections = {"kernels": {"k": {**KERNEL, **(kernel or {})}}, "operations": {"o": {**OPERATION, **(operation or {})}}}
    return {"triton": triton, "cases": {"c": {"90": sections}}}


# Minutes where other processes have the cores; Triton keeps what it compiled for the next time. Every case is compiled
# and counted for one architecture; for the others, which the same launching code decides for, with the slow tests.
@pytest.mark.timeout(900)
@pytest.mark.parametrize("architectures", [[90], pytest.param([80, 100], marks=pytest.mark.slow)])
def test_nothing_is_worse_than_committed(architectures):
    measured, committed = measure(architectures=architectures), json.loads(COMMITTED.read_text())
    assert violations(measured, part(committed, None, architectures)) == []


def test_every_architecture_has_its_facts():
    for name, case in json.loads(COMMITTED.read_text())["cases"].items():
        assert sorted(map(int, case)) == sorted(ARCHITECTURES), name
        assert all(sections["kernels"] and sections["operations"] for sections in case.values()), name


def test_every_operation_has_a_case():
    registered = {name.partition("::")[2] for name in torch._C._dispatch_get_all_op_names() if "worldmodel::" in name}
    committed = json.loads(COMMITTED.read_text())
    called = {
        name for case in committed["cases"].values() for sections in case.values() for name in sections["operations"]
    }
    assert called == registered
    assert committed["cases"].keys() == CASES.keys()


def test_the_shapes_are_those_of_the_models():
    for name, shape in SHAPES.items():
        model = dict(OmegaConf.load(ROOT / "configs" / "model" / f"{name}.yaml"))
        model["tokens"] = model["latent_tokens"]
        assert dataclasses.asdict(shape) == {key: model[key] for key in dataclasses.asdict(shape)}


def test_the_facts_show_bad_kernels():
    environment = {**os.environ, "TRITON_INTERPRET": "0", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(Path(__file__).with_name("bad_kernels.py")), "90"]
    printed = json.loads(subprocess.check_output(command, env=environment, text=True))
    found = printed["facts"]
    good = found.pop("good")
    assert good["tensor_cores"] == "HGMMA" and good["wide_loads"] == good["loads"] > 0
    assert good["spill_bytes"] == good["stack"] == 0
    assert found["too large a tile"]["spill_bytes"] > 0 < found["too large a tile"]["stack"]
    assert found["rows that are not aligned"]["wide_loads"] == 0 < found["rows that are not aligned"]["loads"]
    assert found["float32 without tensor cores"]["tensor_cores"] == ""
    for bad in found.values():
        assert violations(facts(bad), facts(good))
    assert printed["driver_restored"]


def test_nothing_compiles_in_the_interpreters_process():
    with pytest.raises(RuntimeError, match="TRITON_INTERPRET"), compiling(90):
        pass


@pytest.mark.parametrize(
    ("kernel", "operation", "message"),
    [
        ({"spill_bytes": 4}, {}, "spills 4 bytes"),
        ({"stack": 8}, {}, "a stack of 8 bytes"),
        ({"registers": 109}, {}, "109 registers, committed 100"),
        ({"shared_memory": 32769}, {}, "32769 bytes of shared memory"),
        ({"blocks_per_sm": 4}, {}, "4 blocks per multiprocessor"),
        ({"tensor_cores": "HMMA"}, {}, "by HMMA, committed HGMMA"),
        ({"tensor_cores": ""}, {}, "by no tensor cores"),
        ({"loads": 9}, {}, "8 of 9 loads are wide, committed 8 of 8"),
        ({"bulk_copies": 0}, {}, "no bulk copies"),
        ({}, {"launches": 3}, "3 launches, committed 2"),
        ({}, {"bytes": 1.123}, "1.123 times the compulsory bytes, committed 1.100"),
        ({}, {"flop": 1.54}, "1.540 times the useful multiplications"),
        ({}, {"saved": 3.9}, "saves a factor of 3.900 in bytes, committed 4.000"),
    ],
)
def test_each_rule_finds_what_is_worse(kernel, operation, message):
    (found,) = violations(facts(kernel, operation), facts())
    assert message in found


def test_what_is_as_good_or_better_passes():
    better = {
        "registers": 108,
        "shared_memory": 0,
        "blocks_per_sm": 9,
        "loads": 4,
        "wide_loads": 4,
        "instructions": 900,
    }
    assert violations(facts(better, {"launches": 1, "bytes": 1.12, "flop": 1.0, "saved": 5.0}), facts()) == []


def test_limits_hold_whatever_is_committed():
    found = violations(
        facts({"stack": 8}, {"bytes": 1.31, "saved": 2.9}), facts({"stack": 8}, {"bytes": 1.4, "saved": 2.9})
    )
    assert len(found) == 3 and "at most 1.3" in found[1] and "at least 3.0" in found[2]


def test_another_release_of_triton_is_held_to_what_no_compiler_may_change():
    choices = {"registers": 200, "shared_memory": 65536, "blocks_per_sm": 1, "wide_loads": 4}
    assert violations(facts(choices, triton="3.9.0"), facts()) == []
    assert len(violations(facts(choices, triton="3.8.1"), facts())) == 4
    assert len(violations(facts({"spill_bytes": 4, "stack": 8, "tensor_cores": ""}, triton="3.9.0"), facts())) == 3


def test_what_is_on_one_side_only_is_a_violation_that_names_the_remedy():
    without = facts()
    without["cases"]["c"]["90"]["kernels"] = {}
    for measured, committed in ((facts(), without), (without, facts())):
        (found,) = violations(measured, committed)
        assert found.startswith("c, sm_90, k: ") and "python -m scripts.kernel_report --write" in found
    nothing = {"triton": "3.8.0", "cases": {}}
    assert len(violations(facts(), nothing)) == len(violations(nothing, facts())) == 2


def test_facts_can_be_compared_for_some_cases_and_architectures():
    committed = facts()
    committed["cases"]["d"] = copy.deepcopy(committed["cases"]["c"])
    committed["cases"]["c"]["80"] = committed["cases"]["c"]["90"]
    assert part(committed, ["c"], [90]) == facts()


def test_blocks_are_as_many_as_registers_shared_memory_and_warps_allow():
    assert blocks_per_sm(90, registers=32, shared_memory=0, warps=4) == 16  # 64 warps
    assert blocks_per_sm(90, registers=32, shared_memory=0, warps=1) == 32
    assert blocks_per_sm(90, registers=128, shared_memory=0, warps=4) == 4  # 65536 registers
    assert blocks_per_sm(90, registers=129, shared_memory=0, warps=4) == 3  # in units of 8 for each thread
    assert blocks_per_sm(80, registers=32, shared_memory=40 << 10, warps=4) == 4  # 164 KiB, 1 KiB of them for each
    assert blocks_per_sm(90, registers=32, shared_memory=40 << 10, warps=4) == 5
    assert blocks_per_sm(100, registers=32, shared_memory=0, warps=4, columns=256) == 2  # of 512


def test_calls_are_counted_with_their_backward_and_their_bytes():
    probes = iter(range(10))
    rewards, values = torch.zeros(4, 3, requires_grad=True), torch.zeros(4, 4)
    with Calls(lambda: next(probes)) as calls:
        torch.ops.worldmodel.lambda_return(rewards, rewards.detach().clone(), values, 0.9, 0.9).sum().backward()
    assert [(call.operation, call.before, call.after) for call in calls.calls] == [
        ("lambda_return", 0, 1),
        ("lambda_return_backward", 2, 3),
    ]
    assert calls.calls[0].compulsory == 4 * (3 * 12 + 16)
    assert calls.calls[1].compulsory == 4 * (
        1 + 2 * 12 + 16 + 2 * 12 + 16
    )  # the sum's gradient is one number, expanded


def test_bytes_count_each_element_once():
    x = torch.zeros(6, 4, dtype=torch.float16)
    assert compulsory_bytes([x, x.view(6, 4), None, 3, x.new_empty(0)]) == 48
    assert compulsory_bytes([x[:1].expand(6, 4), x[:, :2].clone()]) == 8 + 24
