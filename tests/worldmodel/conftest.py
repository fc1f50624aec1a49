"""What the tests of the world model share."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor


def agree_on(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    """Equal up to `tolerance` of the largest expected entry (of 1 where all are smaller)."""
    largest = expected.abs().max().item() if expected.numel() else 0.0
    error = tolerance * max(1.0, largest)
    torch.testing.assert_close(actual, expected.to(actual.dtype), rtol=0, atol=error)


@pytest.fixture
def agree() -> Callable[[Tensor, Tensor, float], None]:
    """The comparison `agree(actual, expected, tolerance)`."""
    return agree_on
