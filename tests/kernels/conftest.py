"""mamba-ssm's Triton kernels on a CPU: Triton's interpreter runs the code that a GPU would run.

Unusual: the environment must say so before Triton is imported, a CUDA extension that is not used
here is put in place of the real one, and the two questions that the kernels' launchers ask
torch.cuda are answered. Pytest does not come here by itself: `make test-kernels` does.
"""

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import nullcontext
from types import ModuleType, SimpleNamespace

import pytest
import torch

os.environ["TRITON_INTERPRET"] = "1"
os.environ["MAMBA_DETERMINISTIC"] = "1"
sys.modules["selective_scan_cuda"] = ModuleType("selective_scan_cuda")


@pytest.fixture(scope="session", autouse=True)
def interpreter() -> Iterator[None]:
    """Fails, and every test with it, where mamba-ssm or Triton is not installed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "device", lambda index: nullcontext())
        properties = SimpleNamespace(multi_processor_count=1)
        patch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import mamba_ssm  # noqa: F401
        yield
