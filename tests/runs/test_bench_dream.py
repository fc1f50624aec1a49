"""Pictures of dreams against the truth: what is counted, and what is compared."""

import json
import math
from pathlib import Path

import pytest
import torch

from runs.bench import dream
from runs.cli import main

WRAPPERS = ("minigrid.wrappers:RGBImgPartialObsWrapper", "minigrid.wrappers:ImgObsWrapper")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on pictures, too short to have learned anything."""
    out = tmp_path_factory.mktemp("dream")
    words = "--env MiniGrid-Empty-5x5-v0 --env-kwargs max_steps=20 --steps 120 --prefill 100"
    settings = [*words.split(), "--evaluation-episodes", "0", "--threads", "1", "--name", "run"]
    assert main(["train", "debug", *settings, "--out", str(out), "--wrappers", *WRAPPERS]) == 0
    return out / "run"


def test_a_run_is_measured_where_it_lies(trained: Path, capsys: pytest.CaptureFixture) -> None:
    """Fails where a figure is missing, not finite, or beyond the end of all episodes."""
    asked = ["bench", "dream", str(trained), "--rows", "3", "--context", "6", "--frames", "8"]
    assert main([*asked, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report == json.loads((trained / "evaluation" / "dream.json").read_text())
    assert report == dream.measure_run(trained, 3, 6, 8)
    for way in dream.WAYS:
        found = report[way]
        assert len(found["psnr_by_distance"]) == len(found["ssim_by_distance"]) == 8
        assert all(map(math.isfinite, (found["psnr"], found["ssim"])))
        assert found["rows_by_distance"][0] <= 3


def test_frames_after_an_episode_are_not_counted() -> None:
    """Fails where a dream is blamed for the next episode, or a perfect one is not perfect."""
    truth = torch.randint(0, 256, (2, 4, 16, 16, 3), dtype=torch.uint8)
    pictures = truth.float()
    pictures[1, 2:] = 255 - pictures[1, 2:]
    counts = torch.ones(2, 4, dtype=torch.bool)
    wrong = dream._quality(truth, pictures, counts)
    assert wrong["psnr"] < dream.BEST
    counts[1, 2:] = False
    right = dream._quality(truth, pictures, counts)
    assert right["psnr_by_distance"] == [dream.BEST] * 4
    assert right["ssim"] == pytest.approx(1.0)
    assert right["rows_by_distance"] == [2, 2, 1, 1]
    counts[:, 3] = False
    assert dream._quality(truth, pictures, counts)["psnr_by_distance"][3] is None


@pytest.mark.parametrize("rows", ["0", "-2"])
def test_mistakes_are_refused(trained: Path, rows: str, capsys: pytest.CaptureFixture) -> None:
    """Fails where nonsense ends in a traceback."""
    assert main(["bench", "dream", str(trained), "--rows", rows]) == 2
    assert "rows" in capsys.readouterr().err


def test_a_run_without_pictures_is_refused(finished: Path, capsys: pytest.CaptureFixture) -> None:
    """Fails where vectors are compared as pictures."""
    assert main(["bench", "dream", str(finished)]) == 2
    assert "no pictures" in capsys.readouterr().err
