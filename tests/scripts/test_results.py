"""The README's numbers are those of the committed JSON files, and each names the command that makes it."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from scripts.help import verbs
from scripts.results import (
    BEGIN,
    BEGIN_ABLATIONS,
    BEGIN_ADAPTATION,
    BEGIN_PROFILE,
    ROOT,
    ablation_table,
    adaptation_table,
    draw_curve,
    number,
    profile_table,
    table,
    with_table,
)

KEYS = {"claim", "command", "machine", "commit", "versions", "seeds", "values", "mean", "interval", "bar", "met"}
RESULTS = sorted((ROOT / "results").glob("*.json")) + sorted((ROOT / "results" / "ablations").glob("*.json"))
RESULTS += sorted((ROOT / "results" / "adaptation").glob("*/*.json"))


def test_the_readmes_table_is_made_from_the_results():
    for page, made, begin in (
        (ROOT / "README.md", table(ROOT / "results"), BEGIN),
        (ROOT / "results" / "README.md", profile_table(ROOT / "results"), BEGIN_PROFILE),
        (ROOT / "results" / "README.md", ablation_table(ROOT / "results"), BEGIN_ABLATIONS),
        (ROOT / "results" / "README.md", adaptation_table(ROOT / "results" / "adaptation"), BEGIN_ADAPTATION),
    ):
        text = page.read_text()
        assert with_table(text, made, begin) == text, f"{page}: run python -m scripts.results"
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
        assert result["met"] == (better and result.get("in_time", True))
    words = shlex.split(result["command"])
    if words[:2] == ["python", "-m"]:
        assert (ROOT / f"{words[2].replace('.', '/')}.py").is_file()
    else:
        assert words[0] == "worldmodel" and words[1] in verbs()


def test_numbers_are_written_for_people():
    assert [number(value) for value in (12345.6, 612.4, 61.24, 0.0123)] == ["12,346", "612", "61.2", "0.0123"]


def test_a_curve_is_drawn_from_all_seeds_and_kept_as_numbers(tmp_path):
    points = [{"minutes": m, "env_steps": 1000 * m, "return": 10.0 * m} for m in range(1, 6)]
    runs = [{"seed": seed, "curve": [{**p, "return": p["return"] + seed} for p in points[seed:]]} for seed in range(3)]
    path = tmp_path / "claim.json"
    path.write_text(json.dumps({"runs": runs}))
    csv, picture = draw_curve(path)
    lines = csv.read_text().splitlines()
    assert lines[0] == "seed,minutes,env_steps,return" and len(lines) == 1 + 5 + 4 + 3
    assert lines[-1] == "2,5,5000,52.000" and picture.stat().st_size > 5000
    path.write_text(json.dumps({"values": [1]}))
    assert draw_curve(path) == []
