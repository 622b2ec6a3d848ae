"""Makes models smaller: recipes of steps in, standard checkpoints out.

    compress("mini", "int4(method=mse)", "mini-int4")
    compress("mini", [Int4(method="awq")], "mini-awq", data="conversations.jsonl")

Needs the extra: `pip install 'vivace[compress]'`; importing this does not.
"""

from vivace.compress.calibrate import CalibrationConfig
from vivace.compress.mixed import Mixed
from vivace.compress.pipeline import compress
from vivace.compress.quantize import Int4, Int8
from vivace.compress.recipe import STEPS, parse_recipe, read_recipe_file
from vivace.compress.step import Shape, Step, Work

__all__ = [
    "STEPS",
    "CalibrationConfig",
    "Int4",
    "Int8",
    "Mixed",
    "Shape",
    "Step",
    "Work",
    "compress",
    "parse_recipe",
    "read_recipe_file",
]
