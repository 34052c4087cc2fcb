"""The tables: how good a model is on a simulated sky that it never saw, with plain baselines and intervals beside it.

`run` is what `omnisky evaluate` runs; `astroclip` and `omni` have the rows of the two kinds of models.
"""

from engine.evaluate.astroclip import (
    COMPONENTS,
    TestSky,
    alike_hits,
    components,
    galaxy_classes,
    magnitude,
    model_figures,
    oracle_figures,
    ranks,
    redshift_figures,
    search_figures,
)
from engine.evaluate.figures import Figure, figure, r2_figure
from engine.evaluate.tables import as_json, run, written

__all__ = ["COMPONENTS", "Figure", "TestSky", "alike_hits", "as_json", "components", "figure", "galaxy_classes", "magnitude",
           "model_figures", "oracle_figures", "r2_figure", "ranks", "redshift_figures", "run", "search_figures", "written"]
