"""The README's numbers are those of the committed JSON files, and each names the command that makes it."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from scripts.help import verbs
from scripts.results import ROOT, number, with_table

KEYS = {"claim", "command", "machine", "commit", "versions", "seeds", "values", "mean", "interval", "bar", "met"}
RESULTS = sorted((ROOT / "results").glob("*.json"))


def test_the_readmes_table_is_made_from_the_results():
    readme = (ROOT / "README.md").read_text()
    assert with_table(readme, ROOT / "results") == readme, "run python -m scripts.results"
    assert len(RESULTS) >= 5


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_a_result_is_whole_and_its_verdict_follows_from_its_values(path: Path):
    result = json.loads(path.read_text())
    assert KEYS <= set(result)
    assert result["values"] and result["mean"] == pytest.approx(sum(result["values"]) / len(result["values"]), rel=1e-6)
    if result["bar"] is not None:
        better = (
            result["mean"] >= result["bar"] if result.get("higher_is_better", True) else result["mean"] <= result["bar"]
        )
        assert result["met"] == better
    words = shlex.split(result["command"])
    if words[:2] == ["python", "-m"]:
        assert (ROOT / f"{words[2].replace('.', '/')}.py").is_file()
    else:
        assert words[0] == "worldmodel" and words[1] in verbs()


def test_numbers_are_written_for_people():
    assert [number(value) for value in (12345.6, 612.4, 61.24, 0.0123)] == ["12,346", "612", "61.2", "0.0123"]
