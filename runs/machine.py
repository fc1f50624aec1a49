"""What a run or a measurement was made on, and by which code."""

import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

from runs import doctor

CPUINFO = Path("/proc/cpuinfo")
BF16 = {"avx512_bf16", "amx_bf16", "bf16"}  # x86 and Arm


def describe() -> dict[str, Any]:
    """The machine, as far as it tells, and how busy it is."""
    return {
        "cpu": _cpuinfo("model name") or platform.processor() or platform.machine(),
        "cores": doctor.cores(),
        "threads": torch.get_num_threads(),
        "memory": doctor.memory(),
        "bf16": bf16(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "capability": torch.backends.cpu.get_cpu_capability(),
        "load_before": load(),
    }


def commit() -> str:
    """The commit of clew's source, with "-dirty" where files differ; empty where there is none."""
    source = Path(__file__).parents[1]
    if not (source / ".git").exists():  # installed, perhaps inside somebody else's repository
        return ""
    ask = ("git", "-C", str(source), "describe", "--always", "--dirty", "--abbrev=12")
    try:
        return subprocess.run(ask, capture_output=True, text=True, timeout=10).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return ""


def bf16() -> list[str]:
    """The processor's instructions for bfloat16; none, too, where it does not tell."""
    return sorted(BF16 & set((_cpuinfo("flags") or _cpuinfo("Features")).split()))


def load() -> list[float]:
    """Processes that ran or waited, on average over the last 1, 5 and 15 minutes."""
    return list(os.getloadavg())


def _cpuinfo(name: str) -> str:
    """What Linux says of the first core."""
    lines = CPUINFO.read_text().splitlines() if CPUINFO.exists() else []
    pairs = (line.partition(":") for line in lines)
    return next((value.strip() for key, _, value in pairs if key.strip() == name), "")
