"""The whole table of a small random model: every row is there, with numbers, and is written."""

from __future__ import annotations

import json
import math
import warnings
from pathlib import Path

import pytest
from small_omni import written

from engine import evaluate
from engine.codecs import CodecWarning
from engine.evaluate import figures, omni, probes, translation

MAIN = "galaxies r < 20, z < 0.6"
SECTIONS = (f"redshift, {MAIN}", "redshift, all galaxies", f"redshift from spectra in km/s, {MAIN}",
            f"image and spectrum together, {MAIN}", f"what the image adds to the redshift, {MAIN}", f"stellar mass, {MAIN}",
            f"what the image adds to stellar mass, {MAIN}", "retrieval", "Legacy image to HSC image",
            "Legacy image to HSC image, by scale", "SDSS spectrum to DESI spectrum", "lines of galaxies in it",
            "image to DESI spectrum",
            "redshift posterior, every object", "coverage of 8 draws", "observed again", "latency on this machine")


def test_all_rows_appear_and_are_finite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("PIXELS", 32), ("TUNED", 16), ("FEWEST", 2), ("DRAWN", 2)):
        monkeypatch.setattr(omni, name, value)
    monkeypatch.setattr(figures, "BOOTSTRAPS", 40)
    monkeypatch.setattr(probes, "STEPS", 40)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", CodecWarning)
        steps = list(evaluate.run(written(tmp_path / "small"), objects=64, database=64, seed=5))
    assert not [str(w.message) for w in said if issubclass(w.category, CodecWarning)], "bands that simulated objects lack"
    assert [s.fraction for s in steps] == sorted(s.fraction for s in steps) and steps[-1].fraction == 1
    table = steps[-1].preview
    assert not set(SECTIONS) - set(table["sections"])
    for title, section in table["sections"].items():
        for row, found in section["rows"].items():
            assert found and all(math.isfinite(f.value) for f in found.values()), (title, row, found)
    translated = table["sections"]["Legacy image to HSC image"]["rows"]
    assert {translation.MODEL, translation.WITHOUT, translation.CEILING} <= set(translated)
    assert any("alignment head" in said for said in table["left_out"])
    assert any("quasars" in said for said in table["left_out"]), "so few have too few of them"
    shown = evaluate.written(table)
    assert "mean pooling (the known failure)" in shown and "64 test objects" in shown
    assert json.loads(evaluate.as_json(table))["sections"]["retrieval"]["rows"]
