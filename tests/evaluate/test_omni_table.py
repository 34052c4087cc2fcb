"""The whole table of a small random model: every row is there, with numbers, and is written."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from small_omni import written

from engine import evaluate
from engine.evaluate import omni

SECTIONS = ("redshift, galaxies r < 20, z < 0.6", "redshift, all galaxies", "redshift from spectra in km/s, galaxies r < 20, z < 0.6",
            "image and spectrum together, galaxies r < 20, z < 0.6", "what the image adds to the redshift, galaxies r < 20, z < 0.6",
            "stellar mass, galaxies r < 20, z < 0.6", "what the image adds to stellar mass, galaxies r < 20, z < 0.6", "retrieval",
            "Legacy image to HSC image", "Legacy image to HSC image, by scale", "SDSS spectrum to DESI spectrum",
            "lines of galaxies in it", "redshift posterior, every object", "coverage of 8 draws", "observed again",
            "latency on this machine")


@pytest.mark.slow
def test_all_rows_appear_and_are_finite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("PIXELS", 32), ("TUNED", 16), ("FEWEST", 2), ("DRAWN", 2)):
        monkeypatch.setattr(omni, name, value)
    steps = list(evaluate.run(written(tmp_path / "small"), objects=64, database=64, seed=5))
    assert [s.fraction for s in steps] == sorted(s.fraction for s in steps) and steps[-1].fraction == 1
    table = steps[-1].preview
    assert not set(SECTIONS) - set(table["sections"])
    for title, section in table["sections"].items():
        for row, figures in section["rows"].items():
            assert figures and all(math.isfinite(f.value) for f in figures.values()), (title, row, figures)
    assert any("alignment head" in said for said in table["left_out"])
    assert any("quasars" in said for said in table["left_out"]), "so few have too few of them"
    shown = evaluate.written(table)
    assert "mean pooling (the known failure)" in shown and "64 test objects" in shown
    assert json.loads(evaluate.as_json(table))["sections"]["retrieval"]["rows"]
