"""Benchmarks: that everything is measured, and that what judges the numbers is right."""

import io
import json
import math
from contextlib import redirect_stdout
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from runs import machine
from runs.bench import context, peer, precision
from runs.bench.figures import FIGURES, Scale, judge, tiny
from runs.bench.footprint import Request, measure
from runs.bench.rollout import carry_bytes
from runs.bench.subject import RATE, Training, random_records
from runs.bench.timing import interleave, rate, ratio
from runs.bench.utilisation import FORMULAS, Products
from runs.cli import main

PEER = [name for name in FIGURES if name.startswith("scan_over")]
BF16 = [name for name in FIGURES if name.startswith("bf16")]


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A quick benchmark: its folder, and what it printed."""
    out = tmp_path_factory.mktemp("bench") / "quick"
    with redirect_stdout(io.StringIO()) as said:
        asked = ["bench", "context", "--quick", "--json", "--threads", "1", "--out", str(out)]
        assert main(asked) == 0
    return out, said.getvalue()


@pytest.fixture(scope="module")
def report(ran: tuple[Path, str]) -> dict[str, Any]:
    return json.loads(ran[1])


def test_every_figure_is_there_and_finite(report: dict[str, Any]) -> None:
    assert list(report["figures"]) == list(FIGURES)
    for key, figure in report["figures"].items():
        if figure["value"] is None:
            assert key in PEER + BF16, figure
            assert figure["needs"]
        else:
            assert math.isfinite(figure["value"]), key
            assert figure["value"] > 0 or key.endswith("_difference")
    assert report["figures"]["carry_bytes_10000_over_100"]["value"] == 1


def test_a_quick_run_is_no_measurement(report: dict[str, Any]) -> None:
    assert report["measurement"] is False
    assert "Not a measurement" in report["note"]
    assert not any(figure["reached"] for figure in report["figures"].values())


def test_numbers_behind_the_figures_are_there(report: dict[str, Any]) -> None:
    series, scale = report["series"], tiny(Scale())
    speeds = series["throughput"]["frames_per_second"]
    assert list(speeds) == list(scale.patterns)
    assert all(len(line) == len(scale.contexts) for line in speeds.values())
    assert set(series["generation"]) == {"lssvwm", "window", "full:8", "gru"}
    assert series["memory"]["batch_bytes"][-1] > scale.memory_contexts[-1] * 64 * 64 * 3
    assert 0 < sum(part["share"] for part in series["utilisation"]["profile"]) <= 1
    assert report["machine"]["threads"] == 1


def test_results_are_files_and_nothing_else_is_printed(ran: tuple[Path, str]) -> None:
    out, said = ran
    assert json.loads((out / context.RESULT).read_text()) == json.loads(said)
    assert (out / context.PICTURE).read_bytes().startswith(b"\x89PNG")


def test_without_transformers_the_figure_says_what_it_needs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(peer, "import_module", _missing)
    found = peer.peer(tiny(Scale()), print)
    assert sorted(found.values) == sorted(PEER)
    assert all("pip install transformers" in str(value) for value in found.values.values())


def test_scan_equals_the_peer() -> None:
    """Fails where the two compute different things, so that their speeds say nothing."""
    found = peer.peer(replace(tiny(Scale()), tokens=1024), print)
    for key in peer.SHAPES:
        assert max(found.series["peer"][key]["relative_difference"].values()) < 1e-5


def test_a_cpu_without_bf16_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "bf16", list)
    found = precision.precision(tiny(Scale()), print)
    assert sorted(found.values) == sorted(BF16)
    assert "bfloat16" in str(found.values[BF16[0]])


def test_ratio_compares_neighbours() -> None:
    """A machine that is three times slower in one round changes nothing."""
    assert ratio([2.0, 6.0, 2.2], [1.0, 3.0, 1.0]) == 2.0
    with pytest.raises(ValueError, match="zip"):
        ratio([1.0], [1.0, 2.0])


def test_rate_is_by_the_median() -> None:
    assert rate(10, [2.0, 100.0, 1.0]) == 5.0


def test_jobs_take_turns() -> None:
    turns: list[str] = []
    taken = interleave({name: partial(turns.append, name) for name in "ab"}, 3)
    assert "".join(turns) == "ababab"
    assert [len(taken[name]) for name in "ab"] == [3, 3]


@pytest.mark.parametrize(
    ("key", "value", "reached"),
    [
        ("throughput_2048_over_128", 0.9, True),
        ("throughput_2048_over_128", 0.89, False),
        ("generate_10000_over_100", 1.05, True),
        ("generate_10000_over_100", 1.06, False),
        ("carry_bytes_10000_over_100", 1.0, True),
        ("carry_bytes_10000_over_100", 0.99, False),
        ("bf16_loss_difference", 0.5, False),
        ("scan_over_transformers", "transformers", None),
    ],
)
def test_bars(key: str, value: float | str, reached: bool | None) -> None:
    assert judge(key, value, measured=True)["reached"] is reached
    assert judge(key, value, measured=False)["reached"] is None


def test_a_carry_is_counted_with_all_that_it_keeps_alive() -> None:
    whole = torch.zeros(100)
    assert carry_bytes((whole[:1], whole[50:])) == 400  # pyright: ignore[reportArgumentType]
    assert carry_bytes((whole, torch.zeros(2))) == 408  # pyright: ignore[reportArgumentType]


def test_a_context_in_one_window_is_the_models_own_loss() -> None:
    training, records = Training(), random_records(1, 8)
    torch.manual_seed(1)
    carry, past = training.model.initial(1), training.model.initial_past(1)
    expected = training.model.loss(records, carry, past).losses
    torch.manual_seed(1)
    found = training.step(records, 8)
    assert found == pytest.approx({name: loss.item() for name, loss in expected.items()})


def test_gradients_go_as_far_as_they_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails where a stretch is not worked off in windows, or is not all of the context."""
    training, asked = Training(), []
    loss = training.model.loss

    def spy(records, *given, window):
        asked.append((records.is_first.shape[1], window))
        return loss(records, *given, window=window)

    monkeypatch.setattr(training.model, "loss", spy)
    training.step(random_records(1, 16), 4, 8)
    training.step(random_records(1, 8), 4)
    assert asked == [(8, 4)] * 2 + [(4, 4)] * 2


def test_a_context_in_windows_is_one_step() -> None:
    training, records = Training(), random_records(1, 16)
    before = training.model.place.detach().clone()
    training.step(records, 4)
    moved = (training.model.place - before).abs().max().item()
    assert moved == pytest.approx(RATE, rel=0.01), "the first step of Adam, once"


def test_a_grouped_convolution_is_not_counted_as_a_dense_one() -> None:
    """torch's own formula counts 64 times as much for the gradient of the weights."""
    convolution = nn.Conv1d(64, 64, 4, groups=64)
    x = torch.randn(2, 64, 35, requires_grad=True)
    with FlopCounterMode(display=False, custom_mapping=FORMULAS) as counter:
        convolution(x).sum().backward()
    assert counter.get_total_flops() == 3 * (2 * 2 * 64 * 4 * 32)


def test_attention_is_counted() -> None:
    q, k, v = torch.randn(3, 1, 2, 8, 16, requires_grad=True)
    with FlopCounterMode(display=False, custom_mapping=FORMULAS) as counter:
        nn.functional.scaled_dot_product_attention(q, k, v).sum().backward()
    product = 2 * (2 * 8 * 8 * 16)
    assert counter.get_total_flops() == (2 + 5) * product


def test_products_are_written_down_with_their_layout() -> None:
    linear, x = nn.Linear(3, 5), torch.randn(7, 3)
    with Products() as products:
        linear(x).sum().backward()
    shapes = [(a.shape, b.shape, b.stride) for a, b in products.made]
    assert ((7, 3), (3, 5), (1, 3)) in shapes
    assert sum(products.made.values()) == 2


def test_memory_of_this_process_is_told() -> None:
    found = measure(Request(16, 8, 16, 1))
    assert found["peak"] >= found["before"] > 1e7
    assert found["batch"] > 16 * 64 * 64 * 3


def test_patterns_are_chosen_by_name() -> None:
    assert context.scale(["gru", "full"], quick=True).patterns == ("lssvwm", "full", "gru")
    with pytest.raises(ValueError, match="no pattern 'mamab'"):
        context.scale(["mamab"], quick=False)
    with pytest.raises(ValueError, match="patterns is empty"):
        context.scale([], quick=False)


def test_a_folder_that_cannot_be_is_refused_before_measuring(tmp_path: Path) -> None:
    """Fails where minutes of measuring end in a traceback."""
    (tmp_path / "file").touch()
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ValueError, match="cannot be written to"):
            context.check_free(out)
    context.check_free(tmp_path / "new" / "folder")
    (tmp_path / context.RESULT).touch()
    with pytest.raises(ValueError, match="holds results already"):
        context.check_free(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("bench contxt", "no benchmark 'contxt'. Nearest: context"),
        ("bench context --patterns mamab", "no pattern 'mamab'"),
        ("bench context --threads -1", "threads = -1 must not be negative"),
        ("bench context --quik", "--quik"),
    ],
)
def test_mistakes_are_refused(
    arguments: str,
    said: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments.split()) == 2
    assert said in " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert not list(tmp_path.iterdir())


def test_results_are_not_overwritten(
    ran: tuple[Path, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "context", "--quick", "--out", str(ran[0])]) == 2
    assert "nothing is overwritten" in capsys.readouterr().err


def test_help_names_the_benchmarks(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--help"]) == 0
    assert "clew bench context" in capsys.readouterr().out
    assert main(["bench", "context", "--help"]) == 0
    shown = capsys.readouterr().out
    for option in ("--out", "--json", "--threads", "--patterns", "--quick"):
        assert option in shown


def test_the_table_says_what_is_reached(report: dict[str, Any]) -> None:
    figures = {
        key: judge(key, value, measured=True)
        for key, value in {"matmul_share": 0.5, "interactive_fps": 3.0, PEER[0]: "it"}.items()
    }
    console = Console(width=120)
    with console.capture() as shown:
        context.show(report | {"figures": figures, "measurement": True}, console)
    lines = [line for line in shown.get().splitlines() if "│" in line]
    assert "yes" in lines[0]
    assert "no" in lines[2]
    assert "needs it" in lines[4]


def _missing(name: str) -> None:
    raise ImportError(f"No module named {name!r}")
