"""What this machine offers, on one screen; or what is wrong in the dump of a run that crashed.

Optional packages are probed in a process of their own: a broken CUDA extension cannot take the
report down with it, and the error shown is the one that the import itself raised.
"""

import os
import platform
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from runs import crash
from worldmodel.kernel import MODULE

PACKAGES = ("gymnasium", "minigrid", "stable-baselines3", "sb3-contrib", "numpy", "tensorboard")
PROBE_SECONDS = 60.0


@dataclass(frozen=True)
class Probe:
    """Whether an optional module can be imported; `error` is the last line of what it raised."""

    module: str
    usable: bool
    error: str = ""


def probe(module: str, timeout: float = PROBE_SECONDS) -> Probe:
    """Import `module` in a fresh interpreter and keep its original error."""
    command = [sys.executable, "-c", f"import {module}"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=timeout
        )
    except subprocess.TimeoutExpired:
        return Probe(module, False, f"the import took longer than {timeout:g} s")
    if done.returncode == 0:
        return Probe(module, True)
    lines = done.stderr.strip().splitlines()
    return Probe(module, False, lines[-1] if lines else f"exit status {done.returncode}")


def installed(distribution: str) -> str | None:
    """The installed version of a distribution, or None."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def memory() -> str:
    """Physical memory in GiB, as far as the system tells."""
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return "unknown"
    return f"{total / 2**30:.1f} GiB"


def cores() -> int:
    """The CPU cores this process may use, which can be fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def device() -> str:
    """The name of the device that training will use."""
    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else "cpu"


def capability() -> str:
    """The instruction set torch found, and whether there is a GPU."""
    gpu = "a CUDA GPU" if torch.cuda.is_available() else "no GPU"
    return f"CPU {torch.backends.cpu.get_cpu_capability()}, {gpu}"


def optional(found: Probe, distribution: str, cure: str) -> str:
    """One line about an optional package: its version, or what is wrong and what to do."""
    have = installed(distribution)
    if found.usable:
        return f"{have or 'unknown version'}, usable"
    if have is None:
        return f"not installed ({found.error}); {cure}"
    return f"{have}, not usable: {found.error}"


def scan(mamba: Probe) -> str:
    """The body that scan = auto stands for here, and why."""
    if not torch.cuda.is_available():
        return "torch, chosen automatically: mamba-ssm needs a CUDA device, and there is none"
    if not mamba.usable:
        return f"torch, chosen automatically: mamba-ssm cannot be imported ({mamba.error})"
    return "mamba-ssm, chosen automatically: it can be imported, and there is a CUDA device"


def machine_rows() -> list[tuple[str, str]]:
    """The interpreter, the machine and torch."""
    return [
        ("Python", f"{platform.python_version()} ({sys.executable})"),
        ("platform", platform.platform()),
        ("CPU", f"{cores()} cores, {torch.get_num_threads()} torch threads"),
        ("memory", memory()),
        ("torch", torch.__version__),
        ("device", device()),
        ("capability", capability()),
    ]


def optional_rows() -> list[tuple[str, str]]:
    """The packages clew can do without."""
    mamba, conv, mujoco = map(probe, (MODULE, "causal_conv1d", "mujoco"))
    cuda = "needs an NVIDIA GPU: pip install --no-build-isolation 'clew[cuda]'"
    return [
        ("mamba-ssm", optional(mamba, "mamba-ssm", cuda)),
        ("causal-conv1d", optional(conv, "causal-conv1d", cuda)),
        ("scan", scan(mamba)),
        ("MuJoCo", optional(mujoco, "mujoco", "pip install 'clew[mujoco]'")),
    ]


def report() -> Table:
    """Everything `clew doctor` shows."""
    table = Table(title="clew doctor", show_header=False, title_justify="left")
    table.add_column("what", style="bold", no_wrap=True)
    table.add_column("found", overflow="fold")
    packages = [(name, installed(name) or "missing") for name in PACKAGES]
    clew = [("clew", installed("clew") or "not installed, run from its folder")]
    for rows in (clew, machine_rows(), optional_rows(), packages):
        table.add_section()
        for name, found in rows:
            table.add_row(name, escape(found))
    return table


def explain(dump: Path) -> int:
    """Tell what is wrong in the dump of a run that crashed.

    Raises:
        ValueError: where there is none, or where it is damaged.
    """
    crash.show(crash.read(dump), Console(highlight=False))
    return 0


def doctor() -> int:
    """Print the report; the exit status says whether the packages clew needs are there."""
    Console().print(report())
    return 0 if all(map(installed, PACKAGES)) else 1
