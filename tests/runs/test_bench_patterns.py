"""The comparison of patterns is fair, goes on where it stopped, and asks the right questions."""

import json
import shutil
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TextIO

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from envs.memory_maze.guide import CODE
from runs.bench import latent_training, patterns
from runs.bench.latent_training import (
    CHUNK,
    Films,
    Stage,
    batch,
    film,
    rehearsed,
    schedule,
    with_noise,
)
from runs.bench.patterns import PATTERNS, Plan, backbone_size, sized
from runs.bench.patterns_view import psnr, questions
from runs.cli import main
from runs.folder import locked
from runs.train import make_streams

QUICK = ["bench", "patterns", "--quick", "--env", "clew/LedMaze-7x7-v0", "--patterns"]


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two patterns, compared in tiny sizes."""
    out = tmp_path_factory.mktemp("patterns") / "out"
    assert main([*QUICK, "lssvwm", "window:4", "--out", str(out)]) == 0
    return out


def test_all_patterns_share_codec_and_sizes(compared: Path) -> None:
    """Fails where a pattern has another codec, or a report lacks a task or a figure."""
    report = json.loads((compared / patterns.RESULT).read_text())
    assert list(report["patterns"]) == ["lssvwm", "window:4"]
    drawn = []
    for found in report["patterns"].values():
        assert set(found["tasks"]) == {"retrieval", "reasoning"}
        assert found["curve"][-1]["updates"] == 4
        drawn.append([part["ways"]["drawn"] for part in found["tasks"].values()])
    assert drawn[0] == drawn[1]
    sizes = [found["parameters"]["model"] for found in report["patterns"].values()]
    assert max(sizes) < 1.1 * min(sizes)
    assert (compared / patterns.PICTURE).stat().st_size > 10_000


def test_a_pattern_is_a_run_that_can_be_measured_again(compared: Path) -> None:
    """Fails where what was learned cannot be evaluated where it lies, or comes out otherwise."""
    run = compared / "window-4"
    assert main(["evaluate", str(run), "--suite", "recall", "--episodes", "2"]) == 0
    again = json.loads((run / "evaluation" / "recall.json").read_text())
    before = json.loads((compared / "window-4.json").read_text())
    assert again["tasks"] == before["tasks"]


def test_what_is_finished_is_kept(compared: Path, capsys: pytest.CaptureFixture) -> None:
    """Fails where a second call learns anew, or mixes two comparisons in one folder."""
    kept = {path: path.stat().st_mtime_ns for path in compared.glob("window-4/**/*.safetensors")}
    report = (compared / "window-4.json").read_text()
    assert main([*QUICK, "window:4", "gru", "--out", str(compared)]) == 0
    assert kept == {path: path.stat().st_mtime_ns for path in kept}
    assert (compared / "window-4.json").read_text() == report
    assert (compared / "gru.json").exists()
    assert main([*QUICK, "gru", "--out", str(compared), "--seed", "1"]) == 2
    assert "other settings" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ([], "empty"),
        (["mambo"], "mamba"),
        (["lssvwm", "--rows", "0"], "rows"),
        (["lssvwm", "--seed", "-1"], "seed"),
        (["lssvwm", "--env", "clew/LedMaze-8x8-v0"], "nearest ids"),
        (["lssvwm", "--env", "CartPole-v1"], "cannot be measured in CartPole-v1"),
        (["lssvwm", "--model.classes", "300"], "at most 256"),
        (["lssvwm", "--env", "clew/LedMaze-7x7-v0", "--frames", "600"], "frames = 600"),
    ],
)
def test_mistakes_are_refused(
    asked: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Fails where a mistake is found after an hour, or something is written in spite of it."""
    assert main(["bench", "patterns", "--out", str(tmp_path / "out"), "--patterns", *asked]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_one_process_at_a_time_compares_in_a_folder(
    compared: Path, capsys: pytest.CaptureFixture
) -> None:
    """Fails where two processes write the same films and weights."""
    with locked(compared):
        assert main([*QUICK, "window:4", "--out", str(compared)]) == 2
    assert "by another process" in capsys.readouterr().err


def test_learning_goes_on_where_it_was_cut_off(
    compared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails where a pattern that was cut off learns anew, or comes to another end."""
    plan = replace(
        patterns.tiny(Plan(env="clew/LedMaze-7x7-v0")), stages=(Stage(90, 1, 8), Stage(60, 1, 16))
    )
    monkeypatch.setattr(latent_training, "KEEP_EVERY", 50)
    ends, log = [], patterns._log
    for cut in (False, True):
        out = tmp_path / str(cut)
        out.mkdir()
        for name in (patterns.CODEC, patterns.FILMS):
            shutil.copyfile(compared / name, out / name)
        if cut:
            monkeypatch.setattr(patterns, "_log", cut_off)
            with pytest.raises(InterruptedError):
                patterns.learn(plan, out, "gru")
            assert not (out / "gru").exists()
            monkeypatch.setattr(patterns, "_log", log)
        patterns.learn(plan, out, "gru")
        (weights,) = out.glob("gru/checkpoints/*/agent.safetensors")
        ends.append(load_file(weights))
        assert len((out / "gru.log").read_text().splitlines()) == 3, "50 updates a line"
        assert not (out / "gru.unfinished").exists()
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def cut_off(log: TextIO, text: str) -> None:
    """Say it, or be interrupted at update 100."""
    if "update 100" in text:
        raise InterruptedError
    print(text, file=log)


def test_every_pattern_learns_from_the_same_batches() -> None:
    """Fails where a batch depends on what was drawn elsewhere, or updates are alike."""
    films = Films(
        torch.randint(0, 4, (5, 40, 3, 2), dtype=torch.uint8), torch.arange(200).view(5, 40)
    )
    stage, batches = Stage(1, 4, 16), []
    for noise in (1, 2):
        torch.manual_seed(noise)
        np.random.seed(noise)
        batches.append(batch(films, stage, 0, 7, 4))
    assert all(torch.equal(a, b) for a, b in zip(*batches, strict=True))
    latents, actions, _ = batches[0]
    row, column = actions // 40, actions % 40
    assert torch.equal(latents.argmax(-1), films.latents[row, column].long())
    assert not torch.equal(actions, batch(films, stage, 0, 8, 4)[1])


def test_patterns_are_of_one_size() -> None:
    """Fails where the comparison would compare sizes instead of architectures."""
    sizes = [backbone_size(sized(Plan().model, name)) for name in PATTERNS]
    assert max(sizes) < 1.05 * min(sizes)


def test_noise_leaves_the_beginning_alone() -> None:
    """Fails where there is nothing to remember from, or no need to remember."""
    index = torch.zeros(400, 40, 2, 8, dtype=torch.uint8)
    noisy = (with_noise(index, 16, np.random.default_rng(0)) != 0).flatten(2).float().mean(-1)
    assert not noisy[:, :10].any()
    late = noisy[:, 30:].mean(1)
    clean, drowned = (late == 0).float().mean(), (late > 0.85).float().mean()
    assert 0.15 < clean < 0.35
    assert 0.3 < drowned < 0.5


def test_frames_count_as_often_as_is_asked() -> None:
    """Fails where a frame is lost or comes once too often, or nothing is mixed."""

    def fresh():
        yield from ({"x": torch.arange(4) + 4 * k} for k in range(CHUNK))

    assert [batch["x"].tolist() for batch in rehearsed(fresh(), 1)][1] == [4, 5, 6, 7]
    mixed = [batch["x"] for batch in rehearsed(fresh(), 3)]
    assert torch.cat(mixed).bincount().tolist() == [3] * (4 * CHUNK)
    assert {len(batch) for batch in mixed} == {4}
    assert any(batch.diff().abs().max() > 4 for batch in mixed)


def test_films_lead_back_where_asked() -> None:
    """Fails where films turn back too late, at one time only, or not where they came from."""
    plan, episodes, frames = patterns.tiny(Plan(env="clew/LedMaze-7x7-v0")), 8, 80
    with closing(make_streams(patterns._config(plan, "gru"), episodes, 0)) as streams:
        model = patterns._agent(plan, "gru", streams).model
        films = [
            film(model, streams, episodes, frames, lambda text: None, turns)
            for turns in (None, np.random.default_rng(0))
        ]
    usual, turning = ([returns_at(way) for way in f.prev_action[..., :CODE]] for f in films)
    assert None in usual
    assert len(set(turning)) > 4
    assert all(10 <= at < 50 for at in turning)


def returns_at(way: torch.Tensor) -> int | None:
    """The record from which on a way through (T, code) places is walked back to its beginning."""
    for at in range(10, len(way) - 1):
        back = min(at - 1, len(way) - 1 - at)  # what led to record 0 is not told
        if torch.equal(way[at + 1 : at + 1 + back], way[at - back : at].flip(0)):
            return at
    return None


def test_rates_rise_and_fall() -> None:
    """Fails where learning begins at full rate, or does not come to rest."""
    rates = [schedule(update, 1000) for update in range(1000)]
    assert rates[0] < 0.05 < 1.0 == max(rates) == rates[500]
    assert 0 < rates[-1] < 0.01


def found(*means: float) -> dict:
    """A report whose PSNR at ages 25, 50, 100, 200 and 300 is known."""
    ends = zip((25, 50, 100, 200, 300), (50, 100, 200, 300, 400), means, strict=True)
    ages = [{"from": low, "to": high, "frames": 10, "mean": mean} for low, high, mean in ends]
    ages.append({"from": None, "to": None, "frames": 7, "mean": 3.0})
    return {"tasks": {"retrieval": {"ways": {"dream": {"psnr_by_age": ages}}}}}


def test_questions_by_hand() -> None:
    """Fails where a question takes other ages, another pattern, or the wrong sign."""
    reports = {
        "lssvwm": found(25, 24, 24, 24, 22),
        "window:64": found(26, 18, 19, 18, 18),
        "full:400": found(27, 27, 25, 25, 25),
    }
    assert psnr(reports["lssvwm"], "retrieval", 100, 400) == pytest.approx(70 / 3)
    beyond, full, inside, far = questions(reports)
    assert (beyond["value"], beyond["reached"]) == (pytest.approx(70 / 3 - 55 / 3), True)
    assert (full["value"], full["reached"]) == (pytest.approx(70 / 3 - 25), True)
    assert (inside["value"], inside["reached"]) == (-1.0, False)
    assert (far["value"], far["reached"]) == (-2.0, False)
    assert [q["value"] for q in questions({"gru": found(1, 1, 1, 1, 1)})] == [None] * 3
