"""What is measured of a layer: which end of it is bad, and what is worth a look first."""

from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Final, NamedTuple, Self

from qprobe.records import Column

#: Ends of keys of which more is better; of all others less is, or it is a matter of taste.
_MORE_IS_BETTER: Final = (
    "snr_db", "sqnr_db", "snr_qk_db", "snr_proj_db", "cosine", "levels_ratio",
    "effective_values", "levels_quantized", "projection",
)  # fmt: skip
#: Counts, limits and locations: shown in a list, but no sign of trouble.
_NEUTRAL: Final = frozenset(
    (
        "n", "low", "high", "stderr", "draws", "samples", "mean", "std", "skewness", "levels",
        "logit_std", "norm_ratio", "interval", "parameters", "tokens", "tokens_zero",
        "tokens_constant", "zero", "zero_fraction", "log2_p1", "log2_median", "log2_p99",
        "outlier_pattern", "steps_between", "n_codes", "update_ratio", "batch_cosine",
        "batch_noise", "proj_available",
        "n_proj", "n_levels", "logit_std_proj", "energy", "energy_per_element", "error_norm",
    )
)  # fmt: skip
_NEUTRAL_PARTS: Final = ("channel_std_", "token_mean_square_", "scale_log2_")
#: What is shown first where there is more than fits: tensor, probe and key, as patterns.
_TELLING: Final = (
    ("", "dequantization", "recovery"),
    ("*", "operand_error", "fprop.x.sqnr_db"),
    ("*", "operand_error", "fprop.w.sqnr_db"),
    ("*", "gradient_fidelity", "wgrad.cosine"),
    ("input", "moments", "channel_kurtosis_max"),
    ("input", "moments", "token_kurtosis_max"),
    ("input", "four_bit", "nvfp4.sqnr_db"),
    ("input", "four_bit", "int4.sqnr_db"),
    ("weight", "four_bit", "int4.sqnr_db"),
    ("*", "attention_logits", "error_qk_nats"),
    ("*", "softmax_levels", "levels_ratio"),
    ("*", "curvature", "predicted"),
    ("*", "operand_error", "wgrad.dy.underflow"),
    ("grad_output", "four_bit", "nvfp4.underflow"),
    ("*", "operand_error", "fprop.x.underflow"),
    ("weight", "moments", "channel_kurtosis_max"),
    ("*", "update_health", "oscillation"),
    ("*", "block_scales", "*flushed"),
    ("", "dequantization", "screen"),
    ("weight", "weights", "*sqnr_db"),
    ("*", "operand_error", "*sqnr_db"),
    ("*", "gradient_fidelity", "*cosine"),
    ("*", "*", "*sqnr_db"),
    ("*", "*", "*snr*_db"),
    ("*", "*", "*underflow"),
    ("*", "*", "*saturation"),
    ("*", "*", "*kurtosis*"),
    ("*", "*", "absmax"),
    ("*", "*", "*nonfinite"),
)


class Measure(NamedTuple):
    """What was measured of a layer."""

    role: str
    probe: str
    key: str

    @classmethod
    def of(cls, column: Column) -> Self:
        return cls(column.role, column.probe, column.key)

    @property
    def name(self) -> str:
        """As addresses and labels have it."""
        return f"{self.key} ({', '.join(filter(None, (self.role.replace('_', ' '), self.probe)))})"

    @property
    def title(self) -> str:
        """Short enough for a chart; the key says which operand it is of where there is a dot.

        >>> Measure("input", "moments", "kurtosis").title
        'kurtosis · input'
        >>> Measure("input", "operand_error", "fprop.x.sqnr_db").title
        'fprop.x.sqnr_db'
        """
        says = self.key.startswith(("fprop.", "dgrad.", "wgrad.")) or not self.role
        return self.key if says else f"{self.key} · {self.role.replace('_', ' ')}"

    @property
    def higher_is_better(self) -> bool:
        return self.key.endswith(_MORE_IS_BETTER)

    @property
    def is_neutral(self) -> bool:
        end = self.key.rpartition(".")[2]
        return end in _NEUTRAL or end.startswith(_NEUTRAL_PARTS)

    @property
    def is_logarithmic(self) -> bool:
        """Whether it spans orders of magnitude."""
        return "kurtosis" in self.key or "energy" in self.key or self.key.endswith("absmax")

    @property
    def priority(self) -> tuple[int, str]:
        """What is worth a look first sorts first."""
        return _priority(self)


@lru_cache(maxsize=4096)
def _priority(measure: Measure) -> tuple[int, str]:
    # Remembered: a layer has some hundred measures, and a page sorts them several times.
    for place, patterns in enumerate(_TELLING):
        if all(fnmatchcase(*both) for both in zip(measure, patterns, strict=True)):
            return place, measure.key
    return len(_TELLING), measure.key


#: What a layer alone brings back when it is put back to high precision: better than any statistic.
RECOVERY: Final = Measure("", "dequantization", "recovery")
