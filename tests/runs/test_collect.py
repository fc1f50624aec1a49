"""`clew collect` records what was asked for, and `clew train --dataset` learns from it."""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from envs import episode_seed, make
from envs.dataset import open_dataset
from runs import collect as collect_module
from runs.cli import main
from runs.collect import collection_seed
from runs.evaluation.play import evaluation_seed
from runs.folder import read_config

pytestmark = pytest.mark.skipif(sys.version_info < (3, 11), reason="Minari needs Python 3.11")

TMAZE = ("clew/TMaze-v0", "--env-kwargs", "length=5", "--frames", "90", "--num-envs", "3")
QUICK = ("--steps", "90", "--prefill", "60", "--threads", "1", "--log-every", "30")


@pytest.fixture(autouse=True)
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand in an empty folder, in which Minari keeps its datasets as well."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))


def collect(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    """The report on a dataset that is recorded."""
    assert main(["collect", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What the command says as it refuses."""
    assert main(list(arguments)) == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said
    return " ".join(said.replace("│", " ").split())


def contents(dataset: str) -> list[tuple[bytes, bytes, int]]:
    """What was seen, what was done, and the seed, of all episodes."""
    found = open_dataset(dataset)
    told = found.storage.get_episode_metadata(found.episode_indices)
    episodes = zip(found, told, strict=True)
    return [(e.observations.tobytes(), e.actions.tobytes(), about["seed"]) for e, about in episodes]


@pytest.mark.parametrize("policy", ["explorer", "random"])
def test_the_seed_decides_everything(policy: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Fails where a dataset cannot be recorded again, or another seed is no other data."""
    asked = (*TMAZE, "--policy", policy)
    names = [collect(capsys, *asked, "--seed", seed)["dataset"] for seed in ("4", "4", "5")]
    assert names == [f"clew-tmaze-v0/{policy}-v{version}" for version in range(3)]
    one, same, other = map(contents, names)
    assert one == same
    assert not {seed for *_, seed in one} & {seed for *_, seed in other}
    assert {done for _, done, _ in one} != {done for _, done, _ in other}


def test_no_episode_is_one_of_training_or_evaluation() -> None:
    """Fails where a model is measured on what it was trained on."""
    kinds = [[seed, evaluation_seed(seed), collection_seed(seed)] for seed in range(5)]
    seeds = [episode_seed(kind, 0, 0) for one in kinds for kind in one]
    assert len(set(seeds)) == 15


def test_the_oracle_earns_what_an_oracle_earns(
    recorded: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Fails where the oracle's actions go to another environment, or a cut episode is counted."""
    dataset = open_dataset(str(recorded))
    told = list(dataset.storage.get_episode_metadata(dataset.episode_indices))
    whole = [one for one in told if not one["cut"]]
    assert len(whole) > 20
    assert {(one["return"], bool(one["success"])) for one in whole} == {(1.0, True)}
    assert dataset.total_steps == 192
    report = collect(capsys, *TMAZE, "--policy", "explorer", "--frames", "300")
    assert 0.1 < report["success"] < 0.9
    assert report["episodes"] > report["cut"] > 0


def test_what_has_no_oracle_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(capsys, "collect", "CartPole-v1", "--policy", "oracle")
    assert "CartPole-v1 has no oracle: its unwrapped environment has no method oracle()" in said
    assert "Take --policy explorer, random or a run" in said
    assert not list((tmp_path / "minari").rglob("*"))


def test_where_there_is_no_explorer_it_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["collect", "CartPole-v1", "--frames", "30", "--num-envs", "2"]) == 0
    assert "by random actions, since it has no explorer, seed 0. 2 side by side" in (
        said := capsys.readouterr().out
    )
    assert "Dataset: cartpole-v1/random-v0" in said
    assert main(["collect", "CartPole-v1", "--frames", "4", "--num-envs", "2"]) == 0
    assert "No episode is whole: more --frames, or fewer --num-envs" in capsys.readouterr().out
    assert main(["collect", *TMAZE]) == 0
    said = capsys.readouterr().out
    assert "Recorded in clew/TMaze-v0 length=5 by its own explorer, seed 0" in said
    assert "Dataset: clew-tmaze-v0/explorer-v0, 90 steps, about 0." in said
    assert "90/90 steps ·" in said
    assert "train --dataset clew-tmaze-v0/explorer-v0" in said


def test_the_agent_of_a_run_acts(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Fails where another acts, greedy makes no difference, or the same seed does not repeat it."""
    asked = (*TMAZE, "--policy", str(finished))
    drawn = [collect(capsys, *asked)["dataset"]]
    torch.rand(7)  # what the process did before must not matter
    drawn.append(collect(capsys, *asked)["dataset"])
    greedy = collect(capsys, *asked, "--greedy")["dataset"]
    chance = collect(capsys, *TMAZE, "--policy", "random")["dataset"]
    assert drawn == ["clew-tmaze-v0/done-v0", "clew-tmaze-v0/done-v1"]
    assert contents(drawn[0]) == contents(drawn[1])
    actions = [[done for _, done, _ in contents(name)] for name in (drawn[0], greedy, chance)]
    assert actions[0] != actions[1] != actions[2] != actions[0]


def test_runs_that_cannot_act_are_refused(
    finished: Path, recorded: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "There is no policy 'oracel'" in refused(capsys, "collect", *TMAZE, "--policy", "oracel")
    asked = ("collect", "CartPole-v1", "--policy", str(finished))
    assert "knows the observation_space {'type': 'Box'" in refused(capsys, *asked)
    assert main(["train", "debug", "--dataset", str(recorded), *QUICK, "--name", "model"]) == 0
    asked = ("collect", *TMAZE, "--policy", "outputs/model")
    assert "learned the world model alone: it has no policy" in refused(capsys, *asked)
    baseline = ("random", "--env", "clew/TMaze-v0", "--name", "dice", "--evaluation-episodes", "0")
    assert main(["baseline", *baseline]) == 0
    assert "take --policy random" in refused(capsys, "collect", *TMAZE, "--policy", "outputs/dice")


def test_progress_is_lines_off_a_terminal_and_a_bar_on_one() -> None:
    for terminal in (False, True):
        console = Console(force_terminal=terminal, width=100)
        with console.capture() as shown, collect_module._Bar(console, 40) as bar:
            for done in range(0, 41, 2):
                bar(done)
        said = shown.get()
        assert ("━" in said) == terminal
        assert "40/40 steps · " in said
        assert terminal or len(said.splitlines()) == 10


def test_nothing_is_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = (*TMAZE, "--name", "of/mine-v3")
    path = Path(collect(capsys, *asked)["path"])
    assert path == tmp_path / "minari" / "of" / "mine-v3"
    before = {file: file.stat().st_mtime_ns for file in path.rglob("*")}
    said = refused(capsys, "collect", *asked, "--seed", "1")
    assert "of/mine-v3 exists already" in said
    assert "such as of/mine-v4" in said
    assert {file: file.stat().st_mtime_ns for file in path.rglob("*")} == before
    for name in ("mine", "of/mine", "../mine-v0", "a b-v0"):
        assert "is no id of a dataset" in refused(capsys, "collect", *TMAZE, "--name", name)


def test_a_disk_that_is_too_small_is_told_before(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails where a disk is filled up, or the size told is not the size on disk."""
    asked = ("clew/MemoryMaze-7x7-v0", "--frames", "1500", "--num-envs", "2")
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=25_000_000))
    said = refused(capsys, "collect", *asked)
    assert "takes about 19 MB" in said
    assert "25 MB free. Ask for fewer --frames" in said
    assert not list((tmp_path / "minari").rglob("*"))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=40_000_000))
    assert 18e6 < collect(capsys, *asked)["bytes"] < 19e6 * collect_module.SPARE


def test_infos_are_kept_as_asked(capsys: pytest.CaptureFixture[str]) -> None:
    """Fails where a maze's truth is lost, or a misspelt name is passed over."""
    asked = ("clew/MemoryMaze-7x7-v0", "--frames", "20", "--num-envs", "2")
    kept = [
        set(open_dataset(collect(capsys, *asked, *infos)["dataset"])[0].infos)
        for infos in ((), ("--infos", "agent_pos"), ("--infos",))
    ]
    assert kept == [set(collect_module.INFOS), {"agent_pos"}, set()]
    said = refused(capsys, "collect", *asked, "--infos", "agent_pose")
    assert "gives no info 'agent_pose'; it has maze_layout, agent_pos" in said


def test_a_model_is_trained_and_measured(
    recorded: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Fails where a run on a dataset cannot say what it learned from, or where to be measured."""
    asked = ("train", "debug", "--env-kwargs", "--dataset", str(recorded))
    assert "leave out --env-kwargs" in refused(capsys, *asked)
    assert main(["train", "--dataset", str(recorded), *QUICK, "--name", "run"]) == 0
    said = capsys.readouterr().out
    assert "Dataset: of/oracle-v0, " in said
    assert "192 steps, 16 side by side" in said
    assert "Recorded in: clew/TMaze-v0 length=5" in said
    assert "World model alone" in said
    assert "evaluate outputs/run --suite all" in said
    config, recipe = read_config(Path("outputs/run"))
    assert (config.env, config.env_kwargs, recipe) == ("clew/TMaze-v0", {"length": 5}, None)
    assert config.model_only
    assert main(["evaluate", "outputs/run", "--suite", "dreamed", "--episodes", "4"]) == 0
    assert main(["train", "--resume", "outputs/run", "--steps", "120"]) == 0


def test_pictures_are_dreamed_where_they_were_recorded(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Fails where the wrappers of a dataset's environment are forgotten."""
    wrappers = ("minigrid.wrappers:RGBImgPartialObsWrapper", "minigrid.wrappers:ImgObsWrapper")
    asked = ("MiniGrid-Empty-5x5-v0", "--env-kwargs", "max_steps=20", "--frames", "60")
    report = collect(capsys, *asked, "--num-envs", "3", "--wrappers", *wrappers, "--out", "kept")
    assert report["path"] == str(Path("kept/minigrid-empty-5x5-v0/random-v0").resolve())
    assert main(["train", "debug", "--dataset", report["path"], *QUICK, "--name", "run"]) == 0
    assert "evaluate outputs/run --suite all" in capsys.readouterr().out
    assert main(["evaluate", "outputs/run", "--suite", "dream", "--episodes", "2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["outputs/run"]
    assert found["dream"]["env"] == "MiniGrid-Empty-5x5-v0"


def test_a_dataset_that_names_no_environment_can_be_trained_on(
    recorded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Fails where such a run is measured in some environment or other, or cannot be told where."""
    shutil.copytree(recorded, tmp_path / "bare")
    metadata = tmp_path / "bare" / "data" / "metadata.json"
    form = json.loads(metadata.read_text())
    del form["clew"], form["env_spec"]
    metadata.write_text(json.dumps(form))
    asked = ("train", "debug", "--dataset", "bare", *QUICK)
    assert main([*asked, "--name", "unsaid"]) == 0
    said = capsys.readouterr().out
    assert "Recorded in: an environment that it does not name" in said
    assert "evaluate" not in said
    said = refused(capsys, "evaluate", "outputs/unsaid", "--suite", "dreamed")
    assert "does not say in which environment it was recorded" in said
    where = ("--env", "clew/TMaze-v0", "--env-kwargs", "length=5")
    assert main([*asked, *where, "--name", "said"]) == 0
    assert main(["evaluate", "outputs/said", "--suite", "dreamed", "--episodes", "4"]) == 0


def test_bad_datasets_are_refused_before_anything_is_written(
    recorded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Fails where a run's folder is made, or a traceback shown, for what cannot be learned from."""
    import h5py

    assert "no dataset 'of/oracl-v0'" in refused(capsys, "train", "--dataset", "of/oracl-v0")
    shutil.copytree(recorded, tmp_path / "cut")
    with h5py.File(tmp_path / "cut" / "data" / "main_data.hdf5", "a") as file:
        for flags in ("terminations", "truncations"):
            file[f"episode_2/{flags}"][-1] = False  # pyright: ignore[reportIndexIssue]
    assert "episode 2 ends neither by" in refused(capsys, "train", "--dataset", "cut")
    metadata = tmp_path / "cut" / "data" / "metadata.json"
    form = json.loads(metadata.read_text())
    actions = json.dumps({"type": "Dict", "subspaces": {"turn": json.loads(form["action_space"])}})
    shutil.copytree(recorded, tmp_path / "odd")
    odd = tmp_path / "odd" / "data" / "metadata.json"
    odd.write_text(json.dumps(form | {"action_space": actions}))
    assert "The action space is Dict" in refused(capsys, "train", "--dataset", "odd")
    assert not (tmp_path / "outputs").exists()
    shutil.copytree(recorded, tmp_path / "gone")
    assert main(["train", "debug", "--dataset", "gone", *QUICK, "--name", "run"]) == 0
    shutil.rmtree(tmp_path / "gone")
    more = ("train", "--resume", "outputs/run", "--steps", "120")
    assert f"no dataset '{tmp_path / 'gone'}'" in refused(capsys, *more)


def test_minari_itself_reads_what_was_recorded(capsys: pytest.CaptureFixture[str]) -> None:
    """Fails where a dataset of ours is none to other users of Minari."""
    import minari

    name = collect(capsys, *TMAZE)["dataset"]
    assert list(minari.list_local_datasets()) == [name]
    dataset = minari.load_dataset(name)
    assert dataset.total_steps == 90
    env, again = dataset.recover_environment(), make("clew/TMaze-v0", {"length": 5})
    assert (env.observation_space, env.action_space) == (
        dataset.observation_space,
        dataset.action_space,
    )
    seed = next(iter(dataset.storage.get_episode_metadata([0])))["seed"]
    for one in (env, again):
        np.testing.assert_array_equal(dataset[0].observations[0], one.reset(seed=seed)[0])


def test_only_a_world_model_learns_from_a_dataset(
    quick: Any, recorded: Path, tmp_path: Path
) -> None:
    from runs.train import Trainer

    config = quick(dataset=str(recorded))
    with pytest.raises(ValueError, match="set model_only = True"):
        Trainer(config, tmp_path / "run")
    Trainer(replace(config, model_only=True), tmp_path / "run").close()
