"""What the tests of our environments share."""

import pytest


def play_episode(env, act, seed):
    """Observations, rewards, last flags and last info; `act` is a policy or an iterator."""
    policy = act if callable(act) else lambda _observation: next(act)
    observation, _ = env.reset(seed=seed)
    observations, rewards, terminated, truncated, info = [observation], [], False, False, {}
    while not (terminated or truncated):
        assert info == {}, "is_success belongs to the last step"
        observation, reward, terminated, truncated, info = env.step(policy(observation))
        observations.append(observation)
        rewards.append(reward)
    return observations, rewards, terminated, truncated, info


@pytest.fixture
def play():
    """Play one episode: `play(env, act, seed)`."""
    return play_episode
