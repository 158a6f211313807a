"""A small model's weights, and the packed layouts written by plain loops."""

import pytest
import torch
from torch import Tensor


@pytest.fixture
def weights(generator: torch.Generator) -> dict[str, Tensor]:
    """A table of weights with several types."""
    return {
        "stem.weight": torch.randn(8, 3, 3, 3, generator=generator),
        "block.fc.weight": torch.randn(32, 48, generator=generator),
        "block.fc.bias": torch.randn(32, generator=generator),
        "block.half": torch.randn(4, 4, generator=generator).bfloat16(),
        "block.f8": torch.randn(4, 4, generator=generator).to(torch.float8_e4m3fn),
        "norm.num_batches_tracked": torch.tensor(7),
    }
