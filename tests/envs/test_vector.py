"""Streams of records: the convention, the seeds, and an exact restart."""

import copy
from functools import partial

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.utils.env_checker import data_equivalence

from envs import EnvStreams, TMazeOracle, episode_seed, make

IMAGES = ["minigrid.wrappers:RGBImgPartialObsWrapper", "minigrid.wrappers:ImgObsWrapper"]
MAKERS = {
    "tmaze": partial(make, "clew/TMaze-v0", {"length": 5}),
    "cartpole": partial(make, "CartPole-v1"),
    "pendulum": partial(make, "Pendulum-v1", {"max_episode_steps": 9}),
    "minigrid": partial(make, "MiniGrid-Empty-8x8-v0", {"max_steps": 15}),
    "minigrid-images": partial(make, "MiniGrid-Empty-8x8-v0", {"max_steps": 15}, IMAGES),
}


class Script(gym.Env):
    """Three steps of reward 1, 2, 3, with what the last one says; its noise cannot be seeded."""

    observation_space = spaces.Box(-9, 9, (1,))
    action_space = spaces.Discrete(2)

    def __init__(self, terminated=True, truncated=False, success=None, noise=None):
        self.last = (terminated, truncated)
        self.success, self.noise = success, noise

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return self._look(), {}

    def step(self, action):
        self.time += 1
        terminated, truncated = self.last if self.time == 3 else (False, False)
        info = {"is_success": self.success} if self.time == 3 and self.success is not None else {}
        return self._look(), float(self.time), terminated, truncated, info

    def _look(self):
        noise = 0.0 if self.noise is None else self.noise.random()
        return np.array([self.time + noise], np.float32)


@pytest.fixture
def open_streams():
    """Build EnvStreams that are closed when the test ends."""
    opened = []

    def build(maker, num_envs=3, **settings):
        opened.append(EnvStreams(maker, num_envs, **settings))
        return opened[-1]

    yield build
    for streams in opened:
        streams.close()


def random_actions(streams, steps, seed=0):
    space = copy.deepcopy(streams.action_space)
    space.seed(seed)
    return [np.stack([space.sample() for _ in range(streams.num_envs)]) for _ in range(steps)]


def assert_same_records(one, other):
    assert data_equivalence(one.observation, other.observation, exact=True)
    for field in ("reward", "is_first", "is_terminal", "is_last"):
        np.testing.assert_array_equal(getattr(one, field), getattr(other, field))
    assert one.episodes == other.episodes


@pytest.mark.parametrize(
    ("terminated", "truncated", "is_terminal"),
    [(True, False, 1), (False, True, 0), (True, True, 1)],
)
def test_the_record_convention(open_streams, terminated, truncated, is_terminal):
    streams = open_streams(partial(Script, terminated, truncated), num_envs=1)
    records = [streams.reset(), *[streams.step([0]) for _ in range(5)]]
    assert [r.observation.item() for r in records] == [0, 1, 2, 3, 0, 1]
    assert [r.reward.item() for r in records] == [0, 1, 2, 3, 0, 1]
    assert [r.is_first.item() for r in records] == [1, 0, 0, 0, 1, 0]
    assert [r.is_last.item() for r in records] == [0, 0, 0, 1, 0, 0]
    assert [r.is_terminal.item() for r in records] == [0, 0, 0, is_terminal, 0, 0]
    assert [r.episodes for r in records] == [[], [], [], [(0, 3, 6.0, None)], [], []]
    assert {str(r.reward.dtype) for r in records} == {"float32"}
    assert {str(r.is_last.dtype) for r in records} == {"bool"}


@pytest.mark.parametrize("parallel", [False, True])
def test_success_is_read_from_the_last_step_of_each_env(open_streams, parallel):
    streams = open_streams(partial(make, "clew/TMaze-v0", {"length": 3}), 4, parallel=parallel)
    oracles = [TMazeOracle() for _ in range(4)]
    record, actions, finished = streams.reset(), [], []
    for _ in range(4):
        actions = [oracle.act(o) for oracle, o in zip(oracles, record.observation, strict=True)]
        if record.observation[1, 3]:
            actions[1] = 5 - actions[1]  # env 1 turns the wrong way
        if record.observation[2, 3]:
            actions[2] = 0  # env 2 does not turn yet
        record = streams.step(actions)
        finished += record.episodes
    assert finished == [(0, 4, 1.0, True), (1, 4, 0.0, False), (3, 4, 1.0, True)]
    assert record.is_last.tolist() == [True, True, False, True]


@pytest.mark.parametrize("name", MAKERS)
def test_the_parallel_streams_are_the_serial_ones(open_streams, name):
    serial = open_streams(MAKERS[name], 2, seed=3)
    parallel = open_streams(MAKERS[name], 2, seed=3, parallel=True)
    assert_same_records(serial.reset(), parallel.reset())
    for actions in random_actions(serial, 25):
        assert_same_records(serial.step(actions), parallel.step(actions))


def test_every_episode_can_be_played_again_by_itself(open_streams):
    streams = open_streams(MAKERS["cartpole"], 2, seed=5)
    record, starts = streams.reset(), [[], []]
    for actions in random_actions(streams, 150):
        for index in np.flatnonzero(record.is_first):
            starts[index].append(record.observation[index])
        record = streams.step(actions)
    env = MAKERS["cartpole"]()
    for index, observations in enumerate(starts):
        assert len(observations) > 2
        for episode, observation in enumerate(observations):
            again, _ = env.reset(seed=episode_seed(5, index, episode))
            np.testing.assert_array_equal(observation, again)
    assert len(np.unique(np.concatenate(starts), axis=0)) == sum(map(len, starts))


def test_another_seed_gives_other_episodes(open_streams):
    one, same, other = (open_streams(MAKERS["cartpole"], seed=seed).reset() for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.observation, same.observation)
    assert not np.isclose(one.observation, other.observation).any()


def test_reset_goes_on_to_the_next_episode(open_streams):
    streams = open_streams(MAKERS["cartpole"], 1)
    streams.reset()
    again, _ = MAKERS["cartpole"]().reset(seed=episode_seed(0, 0, 1))
    np.testing.assert_array_equal(streams.reset().observation[0], again)


def test_records_are_not_views_of_a_reused_buffer(open_streams):
    streams = open_streams(partial(Script), 2)
    first = streams.reset()
    kept = copy.deepcopy(first)
    streams.step([0, 0])
    assert_same_records(first, kept)


def test_reused_action_buffers_do_not_rewrite_the_past(open_streams):
    streams = open_streams(MAKERS["pendulum"], 1)
    streams.reset()
    buffer = np.zeros((1, 1), np.float32)
    for value in (0.5, 1.0):
        buffer[:] = value
        streams.step(buffer)
    assert streams.state()["streams"][0]["actions"].tolist() == [[0.5], [1.0]]


@pytest.mark.parametrize("parallel", [False, True])
@pytest.mark.parametrize("name", MAKERS)
def test_a_restart_is_exact(open_streams, name, parallel):
    """From 14 places, among them ends and beginnings of episodes, into streams that went on."""
    original = open_streams(MAKERS[name], seed=7)
    restored = open_streams(MAKERS[name], seed=7, parallel=parallel)
    record, actions = original.reset(), random_actions(original, 44)
    for step in range(14):
        last = restored.restore(original.state())
        assert_same_records(last, record._replace(episodes=[]))
        for now in (2 * step, 2 * step + 1, 2 * step + 2):
            record_of_restored = restored.step(actions[now])
            if now < 2 * step + 2:
                record = original.step(actions[now])
                assert_same_records(record, record_of_restored)


def test_a_restart_goes_on_with_the_right_episode_number(open_streams):
    original, restored = (open_streams(MAKERS["cartpole"], 2) for _ in range(2))
    original.reset()
    actions = random_actions(original, 200)
    for row in actions[:90]:
        original.step(row)
    restored.restore(original.state())
    for row in actions[90:]:
        assert_same_records(original.step(row), restored.step(row))


def test_an_env_that_cannot_be_repeated_starts_anew_with_a_warning(open_streams, caplog):
    noise = np.random.default_rng(0)
    streams = open_streams(lambda: Script(noise=noise), 2)
    streams.reset()
    before = streams.step([0, 1])
    record = streams.restore(streams.state())
    assert "env 1 (Script) did not play its episode again" in caplog.text
    np.testing.assert_array_equal(record.observation, before.observation)
    assert record.is_last.all()
    assert not record.is_terminal.any()
    state = streams.state()  # saved again before the next step
    assert all(stream["pending_reset"] for stream in state["streams"])
    assert streams.step([0, 0]).is_first.all()
    assert [stream["episode"] for stream in streams.state()["streams"]] == [1, 1]


def test_state_is_plain_data(open_streams):
    def leaves(value):
        if isinstance(value, dict):
            assert all(isinstance(key, str) for key in value)
            value = list(value.values())
        return [leaf for v in value for leaf in leaves(v)] if isinstance(value, list) else [value]

    streams = open_streams(MAKERS["minigrid"])
    streams.reset()
    kinds = {type(leaf) for leaf in leaves(streams.state())}
    assert kinds <= {int, float, bool, str, np.ndarray}


def test_impossible_settings_are_named(open_streams):
    for settings, name in (({"num_envs": 0}, "num_envs"), ({"num_envs": 1, "seed": -1}, "seed")):
        with pytest.raises(ValueError, match=name):
            EnvStreams(Script, **settings)
    streams = open_streams(Script, 2)
    with pytest.raises(ValueError, match="reset"):
        streams.step([0, 0])
    streams.reset()
    with pytest.raises(ValueError, match="one for each of 2"):
        streams.step([0])
    with pytest.raises(ValueError, match="saved settings"):
        open_streams(Script, 2, seed=1).restore(streams.state())
