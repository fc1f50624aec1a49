"""The probe gives the known answer on known cases: a known map, no memory, integrated actions."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from agent.agent import Agent
from runs.config import Config
from runs.evaluation import probe
from runs.evaluation.known import Odometer, all_seen, moments_of, turned
from runs.evaluation.mazes import Walk, walk
from runs.evaluation.play import Player, new_streams
from runs.evaluation.suite import Budget, Report, Subject, quiet
from worldmodel.model import ModelConfig

MAZE = Config(env="clew/MemoryMaze-7x7-v0")
EPISODES, ACTIONS = 72, 6


@pytest.fixture(scope="module")
def walks(explorer: Player) -> list[Walk]:
    """Episodes of an explorer."""
    return walk(explorer, MAZE, EPISODES, 0, 20_000)


@pytest.fixture(scope="module")
def times(walks: list[Walk]) -> list[np.ndarray]:
    """Moments of their second halves."""
    return [np.arange(one.steps // 2, one.steps + 1, 10) for one in walks]


def in_view(one: Walk, at: np.ndarray) -> np.ndarray:
    """What is seen now, and nothing else."""
    parts = [all_seen(_only(one, t), np.array([0])) for t in at.tolist()]
    features = np.concatenate(parts)
    features[:, -2:] = 0  # the place is not in view
    return features


def _only(one: Walk, t: int) -> Walk:
    """The moment t as if nothing had been before it."""
    here = slice(t, t + 1)
    return replace(
        one,
        positions=one.positions[here],
        directions=one.directions[here],
        asked=one.asked[here],
        rewards=one.rewards[here],
        actions=one.actions[:0],
    )


def mixed(features: list[np.ndarray], seed: int = 0) -> list[np.ndarray]:
    """The same, as a network might keep it: every number a little of everything."""
    rng = np.random.default_rng(seed)
    count = features[0].shape[1]
    weights = rng.normal(size=(count, 512)) * 3 / np.sqrt(count)
    return [np.tanh(part @ weights).astype(np.float32) for part in features]


@pytest.fixture(scope="module")
def reports(walks: list[Walk], times: list[np.ndarray]) -> dict[str, Report]:
    """Reports on states that are known cases; two see the present alone, each mixed its way."""
    pairs = list(zip(walks, times, strict=True))
    now = [in_view(*pair) for pair in pairs]
    odometer = Odometer(walks, ACTIONS)
    paths = [odometer.path(one.actions)[at] for one, at in pairs]
    states = {
        "remembers": mixed([all_seen(*pair) for pair in pairs]),
        "forgets": mixed(now),
        "memory_off": mixed(now, seed=1),
        "integrates": [
            np.concatenate([path[:, :2], np.cos(path[:, 2:]), np.sin(path[:, 2:])], -1)
            for path in paths
        ],
    }
    known = {name: (state,) for name, state in states.items()}
    found, _ = probe.read(walks, times, known | probe.bounds(walks, times))
    about = {"measured": 18, "learned_from": 43}
    return {name: about | probe.conclude(found | {"state": found[name]}) for name in states}


def test_perfect_memory_scores_at_the_ceiling(reports: dict[str, Report]) -> None:
    """Fails where a state that holds all that was seen is not read, or beats no floor."""
    report = reports["remembers"]
    mine, ceiling = report["readers"]["state"], report["readers"]["seen"]
    for floor in report["better"].values():
        assert all(gain["ci95"][0] > 0 for gain in floor.values())
    assert mine["walls"]["mean"] > 0.77
    assert ceiling["walls"]["mean"] > 0.8
    assert ceiling["place"]["mean"] < 0.3
    assert ceiling["objects"]["mean"] < 1.6
    assert mine["objects"]["mean"] < 0.75 * report["readers"]["constant"]["objects"]["mean"]
    assert "tells of walls and objects and its place more" in probe.verdict(report)


def test_no_memory_scores_at_the_floor(reports: dict[str, Report]) -> None:
    """Fails where a state that knows only what is in view is said to know the maze."""
    report = reports["forgets"]
    assert all(gain["ci95"][0] <= 0 for gain in report["better"]["memory_off"].values())
    assert "tells of" not in probe.verdict(report)
    mine, floor = report["readers"]["state"], report["readers"]["constant"]
    assert mine["walls_remembered"]["mean"] < floor["walls_remembered"]["mean"] + 0.05
    assert mine["place"]["mean"] > 0.8 * floor["place"]["mean"]


def test_few_mazes_are_not_held_against_the_state(reports: dict[str, Report]) -> None:
    """Fails where a probe that cannot even read what was in sight is not told of."""
    report = reports["forgets"]
    assert "more --episodes" not in probe.verdict(report)
    readers = report["readers"]
    worse = readers | {"seen": readers["seen"] | {"objects": readers["constant"]["objects"]}}
    assert "do not teach a probe to read objects" in probe.verdict(report | {"readers": worse})


def test_integrated_actions_are_caught_by_their_floor(reports: dict[str, Report]) -> None:
    """Fails where counting steps passes for memory: its place is better than all but one floor."""
    report = reports["integrates"]
    better = report["better"]
    assert better["constant"]["place"]["ci95"][0] > 0
    assert better["memory_off"]["place"]["ci95"][0] > 0
    assert better["integrator"]["place"]["ci95"][0] <= 0
    assert "tells of" not in probe.verdict(report)


def test_floors_are_where_they_should_be(reports: dict[str, Report]) -> None:
    """Fails where a floor is above a ceiling, or a constant is right less often than it is."""
    readers = reports["remembers"]["readers"]
    for name in ("walls", "walls_remembered"):
        floors = [readers[floor][name]["mean"] for floor in probe.FLOORS]
        assert max(floors) < readers["seen"][name]["mean"]
    assert 0.75 < readers["constant"]["walls_plain"]["mean"] < 0.9
    assert readers["constant"]["place"]["mean"] > 2


def test_frames_by_hand(walks: list[Walk]) -> None:
    """Fails where a vector is turned the wrong way, or a cell lies elsewhere than it does."""
    assert turned(np.array([[0.0, 2.0]]), np.array([0.0, 1.0])).tolist() == [[2.0, 0.0]]
    assert turned(np.array([[-1.0, 0.0]]), np.array([0.0, 1.0])).tolist() == [[0.0, 1.0]]
    one, at = walks[0], np.array([100])
    moments = moments_of([one], [at])
    x, y = one.positions[100]
    cell = int(y) * one.layout.shape[1] + int(x)
    assert np.abs(moments.around[0, cell]).max() < 1
    assert moments.walls[0, cell] == 0
    distance = np.linalg.norm(one.positions[100] - one.positions[0])
    assert np.linalg.norm(moments.moved[0]) == pytest.approx(distance)
    assert not (moments.cells_known[0] & one.cells_seen[100].ravel()).any()


def test_an_odometer_learns_how_actions_move(walks: list[Walk]) -> None:
    """Fails where integrating drifts off at once: the floor would be too easy to beat."""
    odometer = Odometer(walks, ACTIONS)
    one = walks[0]
    path = odometer.path(one.actions[:40])
    truth = turned(one.positions[:41] - one.positions[0], one.directions[0])
    walked = np.linalg.norm(np.diff(truth, axis=0), axis=-1).sum()
    assert walked > 1
    assert np.linalg.norm(path[-1, :2] - truth[-1]) < 0.5 * walked


def test_actions_that_were_never_learned_are_no_motion(walks: list[Walk]) -> None:
    """Fails where an action that only measured episodes have cannot be integrated."""
    still = [replace(one, actions=np.zeros_like(one.actions)) for one in walks[:2]]
    path = Odometer(still, ACTIONS).path(np.full(5, ACTIONS - 1))
    assert (path == 0).all()


def subject(**changes: object) -> Subject:
    """An agent that has learned nothing, in a maze."""
    torch.manual_seed(0)
    model = ModelConfig(layers=("scan", "attend:4", "clock", "gru"), width=16, grid=2)
    config = replace(MAZE, model=model, **changes)  # pyright: ignore[reportArgumentType]
    with new_streams(config, 1, 0) as streams:
        spaces = streams.observation_space, streams.action_space
    return Subject("run", Agent(*spaces, config.model), config)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("model_only", [True, False])
def test_the_suite_repeats_itself(model_only: bool) -> None:
    """Fails where the same seed gives another report, or some operation's carry cannot be read."""
    budget = Budget(episodes=20, seed=3, max_steps=100)
    one, again = (
        probe.SUITE.measure(subject(model_only=model_only), budget, quiet) for _ in range(2)
    )
    assert json.dumps(one, allow_nan=False) == json.dumps(again, allow_nan=False)
    assert one["walked_by"] == ("explorer" if model_only else "agent")
    assert [one[part] for part in ("learned_from", "chosen_by", "measured")] == [7, 2, 3]
    assert list(one["readers"]) == list(probe.NAMES)
    assert len(probe.SUITE.sheets(one)[0].rows) == 6
    assert set(probe.SUITE.figures(one)) == {"readers"}


def test_what_cannot_be_probed_is_said_before() -> None:
    """Fails where an environment without a maze or its info is played, or not told why not."""
    assert probe.SUITE.missing(subject(model_only=True)) == ""
    assert "info=True" in probe.SUITE.missing(subject(env_kwargs={"info": False}))
    assert "maze_layout" in probe.SUITE.missing(subject(env="clew/TMaze-v0"))
