"""The doctor tells the truth about packages that are there, absent or broken."""

import sys
from pathlib import Path

import pytest
import torch
from rich.console import Console

from runs import doctor


def text_of_report() -> str:
    console = Console(width=200)
    with console.capture() as shown:
        console.print(doctor.report())
    return shown.get()


def test_probe_of_a_module_that_works() -> None:
    assert doctor.probe("json") == doctor.Probe("json", True)


def test_probe_keeps_the_original_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "halfbuilt.py").write_text("raise OSError('libcudart.so.99: cannot open')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = doctor.probe("halfbuilt")
    assert found == doctor.Probe("halfbuilt", False, "OSError: libcudart.so.99: cannot open")
    assert "halfbuilt" not in sys.modules


def test_probe_survives_a_crash_and_a_hang(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "crashes.py").write_text("import os; os._exit(7)")
    (tmp_path / "hangs.py").write_text("import time; time.sleep(60)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert doctor.probe("crashes").error == "exit status 7"
    assert "longer than 0.5 s" in doctor.probe("hangs", timeout=0.5).error


def test_an_absent_package_comes_with_its_cure() -> None:
    absent = doctor.Probe("nowhere", False, "ModuleNotFoundError: No module named 'nowhere'")
    line = doctor.optional(absent, "nowhere-at-all", "pip install nowhere")
    assert line.startswith("not installed (ModuleNotFoundError")
    assert line.endswith("pip install nowhere")


def test_report_fits_one_screen_and_names_everything() -> None:
    text = text_of_report()
    for name in ("Python", "CPU", "memory", "torch", "device", "mamba-ssm", "scan", "gymnasium"):
        assert name in text
    assert torch.__version__ in text
    assert len(text.splitlines()) <= 30


@pytest.mark.parametrize(
    ("cuda", "error", "said"),
    [
        (False, "", "torch, chosen automatically: mamba-ssm needs a CUDA device"),
        (True, "ImportError: gone", "cannot be imported (ImportError: gone)"),
        (True, "", "mamba-ssm, chosen automatically"),
    ],
)
def test_the_scan_comes_with_its_reason(
    cuda: bool, error: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    assert said in doctor.scan(doctor.Probe("mamba_ssm", not error, error))


def test_brackets_of_extras_are_not_read_as_markup(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "probe", lambda module: doctor.Probe(module, False, "gone"))
    monkeypatch.setattr(doctor, "installed", lambda distribution: None)
    assert "clew[mujoco]" in text_of_report()
    assert doctor.doctor() == 1
