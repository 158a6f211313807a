"""A plan as the configuration of a tool, one file a tool; each names every layer it touches.

All layers are named one by one, quantized ones too: a rule such as "all linear layers but these"
would also quantize what the recipe itself had left alone.
"""

from collections.abc import Callable
from enum import StrEnum

from qprobe.plan.exports import (
    llm_compressor,
    modelopt,
    qprobe_override,
    torchao,
    transformer_engine,
)
from qprobe.plan.plan import Plan


class Tool(StrEnum):
    """Who reads the file."""

    QPROBE = "qprobe"
    MODELOPT = "modelopt"
    TORCHAO = "torchao"
    TE = "te"
    LLM_COMPRESSOR = "llm-compressor"


_EXPORTS: dict[Tool, Callable[[Plan], str]] = {
    Tool.QPROBE: qprobe_override.text,
    Tool.MODELOPT: modelopt.text,
    Tool.TORCHAO: torchao.text,
    Tool.TE: transformer_engine.text,
    Tool.LLM_COMPRESSOR: llm_compressor.text,
}


def export(plan: Plan, tool: Tool) -> str:
    """The text of the file that ``tool`` reads."""
    return _EXPORTS[tool](plan)
