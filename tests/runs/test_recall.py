"""The suites recall and dream: known dreamers get the known scores, and cheats are caught."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from agent.agent import Agent
from envs.memory_maze.guide import CODE
from envs.registry import make
from runs import folder
from runs.cli import main
from runs.config import Config
from runs.evaluation import recall, recall_view
from runs.evaluation.subject import load_subject
from runs.evaluation.suite import Subject
from runs.evaluation.walks import Walks, ages, walk
from worldmodel.model import ModelConfig

WATCHED, DREAMED, ROWS = 30, 29, 5
TINY = ModelConfig(width=16, head=8, state=4, latents=2, classes=4)
WRAPPERS = ("minigrid.wrappers:RGBImgPartialObsWrapper", "minigrid.wrappers:ImgObsWrapper")


def untrained(env_id: str) -> tuple[Agent, Config]:
    """An agent that has learned nothing, and where it lives."""
    env = make(env_id)
    agent = Agent(env.observation_space, env.action_space, TINY)
    return agent, Config(env=env_id, model_only=True, model=TINY)


@pytest.fixture(scope="module")
def walks() -> Walks:
    """There and back again, by one who is told the places."""
    agent, config = untrained("clew/LedMaze-7x7-v0")
    return walk(agent, config, ROWS, WATCHED + DREAMED, 0, WATCHED)


class Drawer:
    """Draws whatever it sees as it is."""

    def draw(self, frames: Tensor) -> Tensor:
        """The same."""
        return frames


class Rememberer(Drawer):
    """Keeps every picture that it watched by its place; elsewhere it keeps the last one."""

    def dream(self, frames: Tensor, led: Tensor, actions: Tensor, forget: bool) -> Tensor:
        """Look up where the actions lead."""
        first = frames.shape[1] - 1 if forget else 0
        rows = []
        for row in range(len(frames)):
            where = [tuple(code.tolist()) for code in led[row, :, :CODE]]
            places = {where[t]: t for t in range(first, len(where))}
            known = [places.get(tuple(code.tolist()), -1) for code in actions[row, :, :CODE]]
            rows.append(frames[row, known])
        return torch.stack(rows)


class Copier(Drawer):
    """Remembers nothing but the last picture."""

    def dream(self, frames: Tensor, led: Tensor, actions: Tensor, forget: bool) -> Tensor:
        """Keep it."""
        return frames[:, -1:].expand(-1, actions.shape[1], *frames.shape[2:])


class Integrator(Drawer):
    """Needs nothing that was watched: it has all films, and finds its place by the actions."""

    def __init__(self, walks: Walks) -> None:
        self.walks = walks

    def dream(self, frames: Tensor, led: Tensor, actions: Tensor, forget: bool) -> Tensor:
        """The true pictures, if it is told the true actions."""
        truth = self.walks.frames[:, -actions.shape[1] :]
        same = self.walks.prev_action[:, -actions.shape[1] :].equal(actions)
        return truth if same else truth.flip(1)


def compared(dreamer: recall.Dreamer, walks: Walks) -> dict:
    return recall.compare(dreamer, walks, WATCHED, seed=0, scale=255.0)


def psnr(part: dict, way: str) -> float:
    return part["ways"][way]["psnr"]["mean"]


def test_who_remembers_everything_scores_at_the_ceiling(walks: Walks) -> None:
    """Fails where frames, actions and places are out of step, or a floor sees too much."""
    part = compared(Rememberer(), walks)
    # The very first place is told by no action: there, the last step of the way back is unknown.
    assert min(part["ways"]["dream"]["psnr_by_frame"][:-1]) == recall.BEST
    assert all(psnr(part, floor) < 40 for floor in recall_view.FLOORS)
    assert psnr(part, "drawn") == recall.BEST
    assert "it remembers" in recall_view.verdict(part)


def test_who_remembers_nothing_scores_at_the_floor(walks: Walks) -> None:
    """Fails where a dreamer without memory is said to have one."""
    part = compared(Copier(), walks)
    assert part["ways"]["dream"] == part["ways"]["still"] == part["ways"]["memory_off"]
    assert psnr(part, "dream") < 40
    assert "no memory" in recall_view.verdict(part)
    assert "draws too badly" not in recall_view.verdict(part)


def test_who_cannot_draw_is_told_so(walks: Walks) -> None:
    """Fails where no memory is concluded from pictures that show nothing."""

    class Blind(Rememberer):
        def draw(self, frames: Tensor) -> Tensor:
            return torch.full_like(frames, 255)

    assert "draws too badly" in recall_view.verdict(compared(Blind(), walks))


def test_who_only_adds_up_actions_is_caught(walks: Walks) -> None:
    """Fails where true pictures pass for memory though nothing that was watched was needed."""
    part = compared(Integrator(walks), walks)
    assert psnr(part, "dream") == psnr(part, "first_frame") == recall.BEST
    assert psnr(part, "shuffled") < 40
    assert "no memory" in recall_view.verdict(part)


def test_ages_by_hand() -> None:
    """Fails where an older view is counted for a newer one, or another direction for the same."""
    east, north = (1.0, 0.0), (0.0, 1.0)
    seen = [(0.0, 0.0, *east), (1.0, 0.0, *east), (1.0, 0.0, *north), (0.2, 0.0, *east)]
    later = [(0.0, 0.0, *east), (1.0, 0.0, *north), (1.0, 0.1, *east), (0.0, 0.0, *north)]
    places = torch.tensor([seen + later])
    assert ages(places, len(seen)).tolist() == [[1, 3, 5, 0]]


def test_ages_of_a_way_back(walks: Walks) -> None:
    """Fails where the way back does not lead through everything that was watched."""
    assert walks.places is not None
    age = ages(walks.places, WATCHED)
    assert (age > 0).all()
    assert (age <= 2 * torch.arange(1, DREAMED + 1)).all()
    assert (age[:, 0] == 2).all()


def test_frames_after_an_episode_are_not_counted() -> None:
    """Fails where a dream is blamed for the next episode, or a perfect one is not perfect."""
    truth = torch.randint(0, 256, (2, 4, 16, 16, 3), dtype=torch.uint8)
    pictures, age = truth.float(), torch.tensor([[3, 30, 0, 3], [3, 3, 0, 3]])
    pictures[1, 2:] = 255 - pictures[1, 2:]
    counts = torch.ones(2, 4, dtype=torch.bool)
    wrong = recall.quality(truth, pictures, counts, age, 255.0)
    assert wrong["psnr"]["mean"] < recall.BEST
    counts[1, 2:] = False
    right = recall.quality(truth, pictures, counts, age, 255.0)
    assert right["psnr_by_frame"] == [recall.BEST] * 4
    assert right["ssim"]["mean"] == pytest.approx(1.0)
    assert right["rows_by_frame"] == [2, 2, 1, 1]
    frames = {group["from"]: group["frames"] for group in right["psnr_by_age"] if group["frames"]}
    assert frames == {1: 4, 25: 1, None: 1}
    counts[:, 3] = False
    assert recall.quality(truth, pictures, counts, None, 255.0)["psnr_by_frame"][3] is None


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in a led maze, too short to have learned anything."""
    return train(tmp_path_factory.mktemp("led"), "--env", "clew/LedMaze-7x7-v0", "--model-only")


def train(out: Path, *where: str) -> Path:
    size = "--num-envs 2 --steps 120 --prefill 100 --replay.capacity 400 --replay.batch 2"
    size += " --replay.context 16 --replay.stream 32 --behaviour.starts 8 --behaviour.horizon 4"
    size += " --model.width 16 --model.head 8 --evaluation-episodes 0 --threads 1 --name run"
    assert main(["train", *where, *size.split(), "--out", str(out)]) == 0
    return out / "run"


def test_a_run_is_measured_where_it_lies(trained: Path, capsys: pytest.CaptureFixture) -> None:
    """Fails where a task, a way or a table is missing, or the same seed is another report."""
    asked = ["evaluate", str(trained), "--suite", "recall", "--episodes", "2", "--max-steps", "40"]
    reports = []
    for _ in range(2):
        capsys.readouterr()
        assert main([*asked, "--json"]) == 0
        reports.append(json.loads(capsys.readouterr().out)[str(trained)]["recall"])
    assert reports[0] == reports[1]
    assert set(reports[0]["tasks"]) == {"retrieval", "reasoning"}
    assert (reports[0]["watched"], reports[0]["dreamed"]) == (20, 20)
    for part in reports[0]["tasks"].values():
        assert set(part["ways"]) == set(recall_view.WAYS)
        assert part["frames"] == 40
    assert len(recall_view.sheets(reports[0])) == 4
    assert "measured" in reports[0]["lpips"]
    made = {path.name for path in (trained / "evaluation").iterdir()}
    assert {"recall.json", "recall-retrieval.png", "recall-reasoning.png"} <= made


def test_a_run_without_pictures_is_refused(finished: Path, capsys: pytest.CaptureFixture) -> None:
    """Fails where vectors are compared as pictures."""
    for suite in ("recall", "dream"):
        assert main(["evaluate", str(finished), "--suite", suite]) == 2
        assert "no pictures" in capsys.readouterr().err


def test_where_nobody_says_where_things_are_only_dreams_are_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Fails where retrieval is asked of an environment that does not lead back."""
    env = ["--env", "MiniGrid-Empty-5x5-v0", "--env-kwargs", "max_steps=20"]
    run = train(tmp_path, *env, "--wrappers", *WRAPPERS)
    asked = ["evaluate", str(run), "--episodes", "3", "--suite"]
    assert main([*asked, "recall"]) == 2
    assert "retrace" in capsys.readouterr().err
    assert not (run / "evaluation").exists()
    assert main([*asked, "dream", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)[str(run)]["dream"]
    part = report["tasks"]["reasoning"]
    assert 1 <= report["watched"] <= 10
    assert "psnr_by_age" not in part["ways"]["dream"]
    assert part["ways"]["dream"]["rows_by_frame"][0] <= 3


def test_an_environment_that_hides_places_is_refused(trained: Path) -> None:
    """Fails where Memory Maze without its info is measured by age."""
    subject = load_subject(trained, device="cpu")
    agent, config = untrained("clew/MemoryMaze-7x7-v0")
    config = Config(**vars(config) | {"env_kwargs": {"info": False}})
    with pytest.raises(folder.RefusalError, match="agent_pos"), folder.refusing():
        raise ValueError(recall.missing(Subject(subject.run, agent, config)))
