"""What every test shares.

Types and shapes are checked in tests only, by the hook below; it must come before our imports.
"""

import os
import random

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings
from jaxtyping import install_import_hook

install_import_hook(["worldmodel", "agent"], "beartype.beartype")
torch.set_num_threads(1)

# HYPOTHESIS_PROFILE=nightly looks much further, and elsewhere every time.
patient = {"deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}
settings.register_profile("ordinary", max_examples=200, derandomize=True, **patient)
settings.register_profile("nightly", max_examples=2_000, print_blob=True, **patient)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ordinary"))


@pytest.fixture(autouse=True)
def seed() -> int:
    """Every test starts from the same random state, whatever ran before it."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    return 0


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests marked `gpu` where there is no CUDA device."""
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="needs a CUDA device")
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(skip)
