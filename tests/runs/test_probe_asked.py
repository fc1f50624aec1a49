"""Asked about places, a model that remembers is read, and one that does not is not."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from agent.agent import Agent
from envs.memory_maze import guide
from runs.config import Config
from runs.evaluation import grids, probe
from runs.evaluation.asking import Asker, answers
from runs.evaluation.grids import HEADINGS, GridReader
from runs.evaluation.mazes import Walk, walk
from runs.evaluation.play import Player, new_streams
from runs.evaluation.suite import Budget, Subject, quiet
from worldmodel.model import ModelConfig

MAZE = Config(env="clew/LedMaze-7x7-v0", model_only=True)
EPISODES, STEPS, AHEAD = 60, 120, 3


@pytest.fixture(scope="module")
def walks(explorer: Player) -> list[Walk]:
    return walk(explorer, MAZE, EPISODES, 0, STEPS)


def views(one: Walk) -> np.ndarray:
    """What is straight ahead of each place, (rows, columns, headings, features), by hand."""
    rows, columns = one.layout.shape
    target = np.zeros((rows, columns, len(one.targets)))
    for k, (x, y) in enumerate(one.targets.astype(int)):
        target[y, x, k] = 1
    found = np.zeros((rows, columns, HEADINGS, AHEAD * (1 + len(one.targets))), np.float32)
    for y, x, heading in np.ndindex(rows, columns, HEADINGS):
        dx, dy = guide.AHEAD[heading]
        told = []
        for away in range(1, AHEAD + 1):
            there = y + away * dy, x + away * dx
            inside = 0 <= there[0] < rows and 0 <= there[1] < columns
            told += (
                [1.0 - one.layout[there], *target[there]] if inside else [1, *[0] * target.shape[2]]
            )
        found[y, x, heading] = told
    return found


def remembered(one: Walk) -> np.ndarray:
    """The views of those places that were visited; of others nothing."""
    visited = np.zeros((*one.layout.shape, HEADINGS, 1))
    for (x, y), direction in zip(one.positions.astype(int), one.directions, strict=True):
        visited[y, x, guide.AHEAD.index(tuple(np.round(direction).astype(int)))] = 1
    return (visited * np.concatenate([views(one), np.ones_like(visited)], -1))[None]


def test_views_that_are_remembered_are_read_and_nothing_else_is(walks: list[Walk]) -> None:
    """Fails where a perfect memory of views beats no floor, or none is said to know the maze."""
    times = [np.array([one.steps]) for one in walks]
    perfect = [remembered(one).astype(np.float32) for one in walks]
    bounds = {name: (parts,) for name, parts in grids.bounds(walks, times).items()}
    blind = [np.zeros_like(part) for part in perfect]
    rng = np.random.default_rng(0)
    dice = [rng.normal(size=part.shape).astype(np.float32) for part in perfect]
    inputs = {"state": (perfect,), "dice": (dice,), "memory_off": (blind,), **bounds}
    found, _ = probe.read(walks, times, inputs, reader=GridReader)
    report = {"measured": 15, "learned_from": 36} | probe.conclude(found)
    assert "tells of walls and objects more than all floors" in probe.verdict(report)
    mine, seen = report["readers"]["state"], report["readers"]["seen"]
    assert mine["walls"]["mean"] > 0.85
    assert seen["walls"]["mean"] > 0.93
    assert mine["objects"]["mean"] < 0.7 * report["readers"]["constant"]["objects"]["mean"]
    report = {"measured": 15, "learned_from": 36}
    report |= probe.conclude(found | {"state": found["dice"]})
    assert "tells of" not in probe.verdict(report)
    mine, floor = report["readers"]["state"], report["readers"]["constant"]
    assert mine["walls"]["mean"] < floor["walls"]["mean"] + 0.03
    assert mine["objects"]["mean"] > 0.9 * floor["objects"]["mean"]


def subject() -> Subject:
    """A model that has learned nothing."""
    torch.manual_seed(0)
    model = ModelConfig(
        layers=("scan", "mlp"), width=16, head=8, state=4, latents=2, classes=4, grid=2
    )
    config = replace(MAZE, model=model)
    with new_streams(config, 1, 0) as streams:
        spaces = streams.observation_space, streams.action_space
    return Subject("run", Agent(*spaces, config.model), config)  # pyright: ignore[reportArgumentType]


def test_the_suite_asks_and_repeats_itself() -> None:
    """Fails where the same seed gives another report, or a place is asked for that is told."""
    one, again = (probe.SUITE.measure(subject(), Budget(14, 3, 20), quiet) for _ in range(2))
    assert json.dumps(one, allow_nan=False) == json.dumps(again, allow_nan=False)
    assert one["asked"]
    assert set(one["better"]["constant"]) == {"walls", "objects"}
    assert "place" not in one["readers"]["state"]
    assert len(probe.SUITE.sheets(one)[0].columns) == 7
    assert set(probe.SUITE.figures(one)) == {"readers"}


def test_an_answer_is_what_the_model_expects_there() -> None:
    """Fails where places are mixed up, or asking one is not what imagining it would be."""
    agent = subject().agent
    with new_streams(MAZE, 2, 0) as streams:
        streams.reset()
        questions = torch.as_tensor(streams.ask(streams.explore()))
    assert questions.shape == (2, 7, 7, HEADINGS, 2, 2 * guide.CODE)
    carry = agent.model.initial(1)
    found = answers(agent, carry, questions[0])
    first, second = questions[0, 3, 5, 2].split(1)
    _, after = agent.model.imagine_step(
        carry, agent.model.actions.encode(first), deterministic=True
    )
    prior = agent.model.transition(after.features, agent.model.actions.encode(second)).exp()
    by_hand = agent.model.from_latents(prior.flatten(-2)).flatten()
    torch.testing.assert_close(found[3, 5, 2], by_hand)


def test_episodes_too_short_to_be_asked_in_are_asked_at_their_end() -> None:
    """Fails where a short episode leaves no note, and ends the suite without a word."""
    asker = Asker(subject().agent, explores=True, every=200)
    walks = walk(asker, MAZE, 2, 0, 7)
    times, on, off = asker.known(walks)
    assert [at.tolist() for at in times] == [[7], [7]]
    assert on[0].shape == off[1].shape
