"""The table of methods is made from what each run's adapt.json and eval.json say."""

from __future__ import annotations

import json

from scripts.adapt_methods import METHODS, summary, table, write
from scripts.settings import check


def runs(method: str, success: float | None) -> list[dict]:
    report = {
        "trained_parameters": 5000, "share": 0.01, "kilobytes": 21.5, "seconds": {"learn": 3.0, "behave": 1.5},
        "held_out": {"before": {"loss": 2.0}, "after": {"loss": 1.0}},
    }  # fmt: skip
    score = {
        "success": None if success is None else {"rate": success}, "return": {"mean": 123.4}, "episodes": [{}] * 10,
    }  # fmt: skip
    evaluation = {"policies": {"actor": score, "random": {}}, "context": {"policy": "actor"}}
    return [{"seed": seed} | summary(method, report, evaluation) for seed in (0, 1)]


def test_a_method_is_a_row_and_the_checkpoint_itself_costs_nothing(tmp_path):
    assert table(tmp_path) == "No adaptation has been measured yet."
    write(tmp_path / "pushes", "pushes", "lora", runs("lora", 0.5), ["checkpoint=a", "data=b"])
    path = write(tmp_path / "pushes", "pushes", "none", runs("none", None), ["checkpoint=a", "data=b"])
    none, lora = table(tmp_path).splitlines()[2:]
    assert none == "| pushes | none | - | 123.4 | 0 (0.00%) | 0 | 0 | 2 |"
    assert lora == "| pushes | lora | 50% | 123.4 | 5,000 (1.00%) | 22 | 4 | 2 |"
    assert json.loads(path.read_text())["values"] == [123.4, 123.4]
    assert json.loads((path.parent / "lora.json").read_text())["mean"] == 0.5


def test_every_method_is_one_of_the_command():
    for settings in METHODS.values():
        check("adapt", settings.split())
