"""Memory length: what is shown when, and what is paid."""

import numpy as np
import pytest

from envs.memory_length import BITS, QUERY, TIME, MemoryLength


def test_an_episode_by_hand(play):
    env = MemoryLength(length=4, bits=2)
    observations, rewards, terminated, truncated, _ = play(env, iter([0, 1, 1, 0, 1]), seed=0)
    assert (rewards[:-1], terminated, truncated) == ([0, 0, 0, 0], True, False)
    shown = np.stack(observations)
    assert shown.dtype == np.float32
    assert list(shown[:, TIME]) == [1, 0.75, 0.5, 0.25, 0, 0]
    assert not shown[:4, QUERY].any()
    assert set(shown[0, BITS:]) <= {-1, 1}
    assert not shown[1:, BITS:].any()


@pytest.mark.parametrize("action", [0, 1])
def test_the_bit_asked_for_is_what_is_paid(play, action):
    env, asked = MemoryLength(length=2, bits=3), set()
    for seed in range(60):
        observations, rewards, *_, info = play(env, iter([1, 0, action]), seed)
        query = int(observations[-2][QUERY])
        asked.add(query)
        success = (observations[0][BITS + query] > 0) == action
        assert (rewards[-1], info) == (1 if success else -1, {"is_success": success})
    assert asked == {0, 1, 2}


def test_the_oracle_acts_on_what_was_seen(play):
    env, first = MemoryLength(length=5, bits=4), []

    def act(observation):
        first[:] = [observation] if observation[TIME] == 1 else first
        answer = first[0][BITS + int(observation[QUERY])] > 0
        assert env.oracle() == (answer if observation[TIME] == 0 else 0)
        return env.oracle()

    for seed in range(20):
        play(env, act, seed)


def test_bits_are_fair():
    env = MemoryLength(length=1, bits=5)
    shown = np.stack([env.reset(seed=seed)[0][BITS:] for seed in range(400)])
    assert (np.abs(shown.mean(0)) < 0.2).all()  # four standard deviations


@pytest.mark.parametrize("setting", [{"length": 0}, {"bits": 0}], ids=str)
def test_impossible_settings_are_named(setting):
    with pytest.raises(ValueError, match=next(iter(setting))):
        MemoryLength(**setting)
