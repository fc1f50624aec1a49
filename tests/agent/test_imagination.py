"""Dreams start where the past ended, and go where the model says."""

import numpy as np
import pytest
import torch
from gymnasium import spaces

from agent.agent import Agent
from agent.imagination import branch, curious, imagine
from worldmodel import latents
from worldmodel.model import ModelConfig
from worldmodel.types import tree_map

SPACE, ACTIONS = spaces.Box(-1, 1, (3,)), spaces.Discrete(3)
SMALL = ModelConfig(layers=("scan", "attend:3", "mlp"), width=16, head=8, latents=2, classes=4)


@pytest.fixture
def agent() -> Agent:
    return Agent(SPACE, ACTIONS, SMALL)


def observed(agent: Agent, frames: int, every: int | None = None):
    observation = {"observation": torch.rand(4, frames, 3)}
    first = torch.zeros(4, frames, dtype=torch.bool)
    first[:, 0] = True
    actions = torch.randint(0, 3, (4, frames))
    return agent.model.observe(observation, actions, first, agent.model.initial(4), every)


def forward(features: torch.Tensor) -> torch.Tensor:
    return torch.eye(3)[torch.zeros(len(features), dtype=torch.long)]


def test_a_dream_starts_from_the_features_of_its_start(agent: Agent) -> None:
    """Fails where snapshots and features are shifted against each other."""
    seen, _, snapshots = observed(agent, 8, every=4)
    start = tree_map(lambda a: a.detach().flatten(0, 1), snapshots)
    dream = imagine(agent.model, forward, start, torch.ones(8), 3)
    expected = seen.features[:, 3::4].flatten(0, 1).detach()
    torch.testing.assert_close(dream.features[:, 0], expected)
    assert dream.features.shape[:2] == (8, 4)
    assert dream.action.shape == (8, 3, 3)


def test_a_terminal_start_is_marked(agent: Agent) -> None:
    """Fails where rollouts beyond the end of an episode would count."""
    _, carry, _ = observed(agent, 2)
    goes_on = torch.tensor([1.0, 0.0, 1.0, 0.0])
    dream = imagine(agent.model, forward, carry, goes_on, 2)
    torch.testing.assert_close(dream.continuation[:, 0], goes_on)
    assert not dream.reward[:, 0].any()


def test_a_dream_steps_as_the_model_does(agent: Agent) -> None:
    """Fails where the dream's carry is not the one that its step returned."""
    _, carry, _ = observed(agent, 5)
    torch.manual_seed(1)
    dream = imagine(agent.model, forward, carry, torch.ones(4), 3)
    torch.manual_seed(1)
    with torch.no_grad():
        for t in range(1, 4):
            _, carry = agent.model.imagine_step(carry, forward(carry.features))
            outcome = agent.model.outcome(carry.features)
            torch.testing.assert_close(dream.features[:, t], carry.features)
            torch.testing.assert_close(dream.reward[:, t], outcome.reward)
            torch.testing.assert_close(dream.continuation[:, t], outcome.continuation)


def test_the_curious_are_rewarded_for_what_they_will_find_out(agent: Agent) -> None:
    """Fails where suspense counts for another record than the one that ends it."""
    _, carry, _ = observed(agent, 5)
    dream = imagine(agent.model, forward, carry, torch.ones(4), 3)
    branches = branch(agent.model, carry, agent.model.actions.all())
    more, paid = curious(agent.model, dream, branches, 0.5)
    gained = more.reward - dream.reward
    mean = agent.model.suspense(dream.features[:, :-1], dream.action).mean()
    assert not gained[:, 0].any()
    for t in range(3):
        suspense = agent.model.suspense(dream.features[:, t], dream.action[:, t])
        beyond = (suspense - mean).clamp(min=0)
        torch.testing.assert_close(gained[:, t + 1], 0.5 * beyond)
    assert gained.max() > 0.01
    assert paid
    suspense = agent.model.suspense(branches.features[:, 0], branches.action[:, 0])
    beyond = (suspense - mean).clamp(min=0)  # what is usual is the same for both
    torch.testing.assert_close(paid.reward[:, 1] - branches.reward[:, 1], 0.5 * beyond)
    assert torch.equal(more.features, dream.features)


def test_branches_take_every_action_from_every_start(
    agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails where a branch starts elsewhere, or takes another action than it says."""
    _, carry, _ = observed(agent, 5)
    actions = agent.model.actions.all()
    assert torch.equal(actions, torch.eye(3))
    monkeypatch.setattr(latents, "sample", latents.mode)  # nothing is left to chance
    branches = branch(agent.model, carry, actions)
    assert torch.equal(branches.action.view(4, 3, 3), torch.eye(3).expand(4, 3, 3))
    for k, action in enumerate(actions):
        torch.testing.assert_close(branches.features.unflatten(0, (4, 3))[:, k, 0], carry.features)
        _, after = agent.model.imagine_step(carry, action.expand(4, 3))
        found = branches.features.unflatten(0, (4, 3))[:, k, 1]
        torch.testing.assert_close(found, after.features, atol=1e-5, rtol=1e-4)


def test_boxes_end_in_the_dream_as_in_reality() -> None:
    """Fails where the model is asked about actions that no environment would ever see."""
    box = spaces.Box(-2, 2, (1,), np.float32)
    agent = Agent(SPACE, box, SMALL)
    beyond, edge = (lambda f, v=v: torch.full((len(f), 1), v) for v in (9.0, 1.0))
    dreams = []
    for policy in (beyond, edge):
        torch.manual_seed(1)
        start = agent.model.initial(4)
        dreams.append(imagine(agent.model, policy, start, torch.ones(4), 3))
    torch.testing.assert_close(dreams[0].features, dreams[1].features)
    assert dreams[0].action.max() == 9
