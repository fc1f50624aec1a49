"""Acting, and a life on disk."""

import numpy as np
import pytest
import torch
from gymnasium import spaces

from agent import Agent
from worldmodel.model import ModelConfig

SMALL = ModelConfig(layers=("scan", "attend:2", "mlp"), width=16, head=8, latents=2, classes=4)
DICT = spaces.Dict(
    {"image": spaces.Box(0, 255, (9, 9, 3), np.uint8), "compass": spaces.Discrete(4)}
)


@pytest.mark.parametrize(
    "action", [spaces.Discrete(3, start=-1), spaces.MultiDiscrete([2, 3]), spaces.Box(-2, 1, (2,))]
)
def test_actions_lie_in_the_space_batched_or_not(action: spaces.Space) -> None:
    """Fails where an environment would refuse what the agent wants to do."""
    agent = Agent(DICT, action, SMALL)
    one, state = agent.predict(DICT.sample())
    assert action.contains(one)
    batch = {name: np.stack([DICT.sample()[name] for _ in range(5)]) for name in DICT}
    many, _ = agent.predict(batch)
    assert len(many) == 5
    assert all(action.contains(a if a.shape else action.dtype.type(a)) for a in many)
    agent.predict(DICT.sample(), state)


def test_memory_is_what_the_state_holds() -> None:
    """Fails where `episode_start` does not clear the state, or the state is not used at all."""
    agent = Agent(spaces.Box(-1, 1, (2,)), spaces.Discrete(4), SMALL)
    torch.nn.init.normal_(agent.actor.net[-1].weight, std=3)
    seen = np.random.default_rng(0).uniform(-1, 1, (2, 8, 2)).astype(np.float32)
    now = torch.zeros(8, 2)

    def features(first: np.ndarray | None, past: np.ndarray):
        _, state = agent.predict(past, deterministic=True)
        start = None if first is None else first
        _, state = agent.predict(now.numpy(), state, start, deterministic=True)
        return state.carry.features

    kept = [features(None, past) for past in seen]
    cleared = [features(np.ones(8, bool), past) for past in seen]
    assert not torch.allclose(kept[0], kept[1])
    torch.testing.assert_close(cleared[0], cleared[1])


def test_a_saved_agent_acts_the_same(tmp_path) -> None:
    """Fails where weights, spaces or settings are lost on the way."""
    agent = Agent(DICT, spaces.Discrete(5), SMALL)
    agent.save(tmp_path)
    again = Agent.load(tmp_path)
    assert again.config == SMALL
    assert again.observation_space == DICT
    observation = DICT.sample()
    _, a = agent.predict(observation, deterministic=True)
    _, b = again.predict(observation, deterministic=True)
    torch.testing.assert_close(a.carry.features, b.carry.features)


def test_a_folder_without_an_agent_is_named(tmp_path) -> None:
    with pytest.raises(ValueError, match="holds no agent"):
        Agent.load(tmp_path)
