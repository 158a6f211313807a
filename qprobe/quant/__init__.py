"""What a recipe does to a tensor: formats, rounding, block scales, rotations, recipes, layers."""

from qprobe.quant.attention import ScaledDotProduct
from qprobe.quant.catalogue import recipe, recipes
from qprobe.quant.convert import Conversion, LeftAlone, Restoring, convert, override, restored
from qprobe.quant.formats import INT3, INT4, INT8, MXFP4, NVFP4, BlockFormat, Format, IntFormat
from qprobe.quant.hadamard import rotate
from qprobe.quant.overrides import read_overrides
from qprobe.quant.products import Quantizer, Role
from qprobe.quant.quantize import Operand, Quantized, fake_quantize, quantize
from qprobe.quant.recipe import REUSE_FPROP, Gemm, QuantRecipe, Source
from qprobe.quant.rounding import Rounding
from qprobe.quant.spec import Granularity, QuantSpec, Tile

__all__ = [
    "INT3",
    "INT4",
    "INT8",
    "MXFP4",
    "NVFP4",
    "REUSE_FPROP",
    "BlockFormat",
    "Conversion",
    "Format",
    "Gemm",
    "Granularity",
    "IntFormat",
    "LeftAlone",
    "Operand",
    "QuantRecipe",
    "QuantSpec",
    "Quantized",
    "Quantizer",
    "Restoring",
    "Role",
    "Rounding",
    "ScaledDotProduct",
    "Source",
    "Tile",
    "convert",
    "fake_quantize",
    "override",
    "quantize",
    "read_overrides",
    "recipe",
    "recipes",
    "restored",
    "rotate",
]
