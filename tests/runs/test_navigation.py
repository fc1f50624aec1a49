"""The navigation suite gives the known answer on known cases: memory, none, and an oracle."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from agent.agent import Agent
from envs import EnvStreams
from envs.memory_maze import sight
from envs.vector import Record
from runs.config import Config
from runs.evaluation import navigation
from runs.evaluation.mazes import Walk, walk
from runs.evaluation.navigation import legs_of
from runs.evaluation.play import OraclePlayer, RandomPlayer, new_streams
from runs.evaluation.suite import Budget, Subject, quiet
from worldmodel.model import ModelConfig

MAZE = Config(env="clew/MemoryMaze-7x7-v0")
EPISODES, LEFT = 24, 1


class Seeker:
    """Explores, and walks straight to what is asked for, once it has seen where that is.

    `whims` is how often it turns left instead, for no reason.
    """

    def __init__(self, remembers: bool, whims: float = 0) -> None:
        self.remembers, self.whims = remembers, whims
        self.rng = np.random.default_rng(0)

    def begin(self, streams: EnvStreams) -> None:
        """Nothing seen yet."""
        self.streams = streams
        self.seen = np.zeros((streams.num_envs, 2), np.bool_)

    def act(self, record: Record) -> np.ndarray:
        """Look by geometry, and go."""
        actions, straight = self.streams.explore(), self.streams.oracle()
        for i, info in enumerate(record.infos):
            if record.is_first[i] or not self.remembers:
                self.seen[i] = False
            pose = info["agent_pos"][None], info["agent_dir"][None]
            self.seen[i] |= sight.objects_in_sight(info["maze_layout"], *pose, info["targets_pos"])[
                0
            ]
            if self.seen[i, info["target_index"]]:
                actions[i] = straight[i]
        return np.where(self.rng.random(len(actions)) < self.whims, LEFT, actions)


@pytest.fixture(scope="module")
def walks() -> dict[str, list[Walk]]:
    """The same episodes by all known players."""
    players = {
        "memory_on": Seeker(True),
        "memory_off": Seeker(False),
        "whims": Seeker(False, whims=0.05),
        "random": RandomPlayer(),
        "oracle": OraclePlayer(),
    }
    return {name: walk(player, MAZE, EPISODES, 0, 20_000) for name, player in players.items()}


def four(walks: dict[str, list[Walk]]) -> dict[str, list[Walk]]:
    """Those that a report has."""
    return {name: walks[name] for name in navigation.NAMES}


def test_perfect_memory_scores_at_the_ceiling_and_none_at_the_floor(
    walks: dict[str, list[Walk]],
) -> None:
    """Fails where the slope does not tell a player that remembers from one that does not."""
    report = navigation.score(four(walks))
    players = report["players"]
    on, off = (players[name]["slope"]["ci95"] for name in ("memory_on", "memory_off"))
    assert off[0] < 0.05
    assert max(off[1], 0.1) < on[0]
    assert report["score"]["ci95"][0] > 0
    assert 0.75 < report["share"]["mean"] < 1.2
    later = players["memory_on"]["by_visit"]["2nd"]["spl"]["mean"]
    assert later > 0.85
    assert abs(later - players["oracle"]["by_visit"]["2nd"]["spl"]["mean"]) < 0.08
    assert "by what it remembers" in navigation.verdict(report)


def test_who_remembers_nothing_is_not_said_to_navigate_by_memory(
    walks: dict[str, list[Walk]],
) -> None:
    """Fails where a memory-free player, or an oracle, is said to remember."""
    for name in ("whims", "oracle"):
        report = navigation.score(four(walks) | {"memory_on": walks[name]})
        assert "no clear difference" in navigation.verdict(report)
        assert abs(report["players"]["memory_on"]["slope"]["mean"]) < 0.1
    assert report["share"] is None  # an oracle has nothing to gain
    assert report["players"]["oracle"]["by_visit"]["1st"]["spl"]["mean"] > 0.85


def test_who_finds_nothing_twice_is_told_so(walks: dict[str, list[Walk]]) -> None:
    """Fails where a report on dice breaks, or says anything about their memory."""
    still = [replace(one, rewards=one.rewards * 0) for one in walks["random"]]
    report = navigation.score(four(walks) | {"memory_on": still, "memory_off": still})
    assert report["players"]["memory_on"]["slope"] is None
    assert (report["score"], report["share"]) == (None, None)
    assert "Too little" in navigation.verdict(report)
    assert all(navigation.sheets(report))
    assert set(navigation.figures(report)) == {"visits", "ago"}
    json.dumps(report, allow_nan=False)


def corridor(positions: list[float], asked: list[int], rewards: list[float]) -> Walk:
    """A walk along a corridor of 9 cells, facing up it, objects in its first and last cell."""
    count = len(positions)
    return Walk(
        layout=np.ones((1, 9), np.uint8),
        targets=np.array([[0.5, 0.5], [8.5, 0.5]]),
        positions=np.array([[x, 0.5] for x in positions]),
        directions=np.tile([1.0, 0.0], (count, 1)),
        asked=np.array(asked),
        rewards=np.array(rewards),
        actions=np.ones(count - 1, np.int64),
    )


def test_legs_by_hand() -> None:
    """Fails where a way, a visit, a sighting or a failure is counted otherwise than it went."""
    there = [4.5, 5.5, 4.5, 5.5, 6.5, 7.5, 8.1]  # one step back: 5.6 for a way of 3.6
    back = [7.1, 6.1, 5.1, 4.1, 3.1, 2.1, 1.1, 0.9]
    waits = [0.9] * 10
    positions = there + back + waits
    asked = [1] * 6 + [0] * 8 + [1] * 11
    rewards = [0.0] * 6 + [1.0] + [0.0] * 7 + [1.0] + [0.0] * 10
    first, second, third = legs_of(corridor(positions, asked, rewards), patience=10)
    assert (first.visit, first.steps, first.reached, first.ago) == (0, 6, True, 0)
    assert first.spl == pytest.approx(3.6 / 5.6)
    assert (second.visit, second.sightings, second.ago) == (0, 0, -1)
    assert second.spl == pytest.approx(1)
    assert (third.visit, third.reached, third.spl, third.steps) == (1, False, 0, 10)


def test_legs_that_could_not_be_given_the_same_patience_are_left_out() -> None:
    """Fails where a leg cut by the end counts as a failure, or a quick one before it as a find."""
    positions = [4.5, 8.1, *[8.1] * 4, 0.9]
    one = corridor(positions, [1, 0, 0, 0, 0, 0, 1], [0, 1.0, 0, 0, 0, 0, 1.0])
    assert [leg.reached for leg in legs_of(one, patience=2)] == [True, False]
    assert [leg.reached for leg in legs_of(one, patience=5)] == [True, True]
    assert [leg.reached for leg in legs_of(one, patience=6)] == [True]


def subject(**changes: object) -> Subject:
    """An agent that has learned nothing, in a maze."""
    torch.manual_seed(0)
    config = replace(MAZE, model=ModelConfig(layers=("scan",), width=16, grid=2), **changes)  # pyright: ignore[reportArgumentType]
    with new_streams(config, 1, 0) as streams:
        spaces = streams.observation_space, streams.action_space
    return Subject("run", Agent(*spaces, config.model), config)  # pyright: ignore[reportArgumentType]


def test_what_cannot_be_measured_is_said_before() -> None:
    """Fails where a run without a policy, a maze or its info is played, or not told why not."""
    assert navigation.SUITE.missing(subject()) == ""
    assert "model_only" in navigation.SUITE.missing(subject(model_only=True))
    assert "info=True" in navigation.SUITE.missing(subject(env_kwargs={"info": False}))
    assert "maze_layout" in navigation.SUITE.missing(subject(env="clew/TMaze-v0"))


def test_the_suite_repeats_itself() -> None:
    """Fails where the same seed gives another report, or a report cannot be written or shown."""
    budget = Budget(episodes=13, seed=3, max_steps=60)
    one, again = (navigation.SUITE.measure(subject(), budget, quiet) for _ in range(2))
    assert json.dumps(one, allow_nan=False) == json.dumps(again, allow_nan=False)
    assert (one["walked_episodes"], one["patience"]) == (2, 12)
    assert one["players"]["oracle"]["return"]["mean"] > 1
    assert len(navigation.SUITE.sheets(one)) == 4
