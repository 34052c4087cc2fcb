"""Any measurement from any others, by a model of AION-1's kind: token by token (`grids`, `sequences`) and object by object."""

from engine.generation.decoded import Distribution
from engine.generation.draws import Settings
from engine.generation.objects import Request, asked, generate, sharpen, translate
from engine.generation.reobserved import Reobserved, reobserve
from engine.generation.results import Generated, Part, generated
from engine.generation.surprises import Surprise, surprise

__all__ = ["Distribution", "Generated", "Part", "Reobserved", "Request", "Settings", "Surprise", "asked", "generate",
           "generated", "reobserve", "sharpen", "surprise", "translate"]
