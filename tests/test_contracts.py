"""Contracts that hold everywhere: imports have no effect, files and functions are short."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("agent", "worldmodel", "envs", "runs")
FILE_LINES = 500
FUNCTION_LINES = 50

# torch comes first so that what is compared is our doing, not its own. Python's `random` is left
# out: rich draws from it when it is imported.
IMPORT_PROBE = """
import importlib, sys
import numpy as np, torch

def world():
    _, keys, position, *rest = np.random.get_state()
    seeds = keys.tobytes(), position, rest, torch.get_rng_state().numpy().tobytes()
    settings = torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled()
    return seeds, settings, torch.are_deterministic_algorithms_enabled()

before = world()
for module in sys.argv[1:]:
    importlib.import_module(module)
    assert world() == before, f"importing {module} changed a random state or a setting of torch"
    late = {"mamba_ssm", "causal_conv1d", "mujoco", "dm_control", "labmaze", "minari", "h5py"}
    late &= set(sys.modules)
    assert not late, f"importing {module} pulled in {sorted(late)}"
    assert not torch.cuda.is_initialized(), f"importing {module} started CUDA"
"""


def sources(*folders: str) -> list[Path]:
    """Our Python files in these folders."""
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def module_name(path: Path) -> str:
    """runs/bench/__init__.py → runs.bench."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def long_functions(tree: ast.Module) -> list[str]:
    """Functions over the budget, decorators not counted."""
    found = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    lines = {f"{n.name}:{n.lineno}": (n.end_lineno or n.lineno) - n.lineno + 1 for n in found}
    return [f"{name} ({count} lines)" for name, count in lines.items() if count > FUNCTION_LINES]


def run_probe(*modules: str, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Import modules one after another in a fresh interpreter."""
    command = [sys.executable, "-c", IMPORT_PROBE, *modules]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("package", PACKAGES)
def test_importing_is_silent_and_changes_nothing(package: str) -> None:
    done = run_probe(*map(module_name, sources(package)))
    assert done.returncode == 0, done.stderr
    assert (done.stdout, done.stderr) == ("", "")


def test_the_import_contract_can_fail(tmp_path: Path) -> None:
    (tmp_path / "draws.py").write_text("import torch; torch.rand(1)")
    (tmp_path / "innocent.py").write_text("import torch")
    done = run_probe("innocent", "draws", folder=tmp_path)
    assert "importing draws changed a random state" in done.stderr


@pytest.mark.parametrize(
    "path", sources(*PACKAGES, "tests"), ids=lambda path: str(path.relative_to(ROOT))
)
def test_files_and_functions_are_short(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= FILE_LINES
    assert not long_functions(ast.parse(text))


def test_the_budget_can_fail() -> None:
    source = "def f():\n" + "    pass\n" * FUNCTION_LINES
    assert long_functions(ast.parse(source)) == ["f:1 (51 lines)"]
