"""Training: `run(recipe, out)` is a generator of Steps that leaves a finished bundle behind."""

from engine.train.loop import run
from engine.train.recipes import RECIPES, Recipe, astroclip_demo, tiny

__all__ = ["RECIPES", "Recipe", "astroclip_demo", "run", "tiny"]
