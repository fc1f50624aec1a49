"""Environments that die, hang, raise or return NaN: begun anew, counted, and at last given up."""

import os
import re
import signal
import sys
import time
from functools import partial

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from envs import ContractError, EnvFailedError, EnvStreams
from envs.contract import Guard


class Mortal(gym.Env):
    """Six steps an episode; something happens at step 3 of episodes whose seed is even."""

    observation_space = spaces.Box(-9, 9, (2,))
    action_space = spaces.Discrete(2)

    def __init__(self, fate, always=False):
        self.fate, self.always = fate, always

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time, self.seed = 0, seed or 0
        return self.look(), {}

    def step(self, action):
        self.time += 1
        time.sleep(0.2 * (self.fate == "slow"))
        reward = 1.0
        if self.time == 3 and (self.always or self.seed % 2 == 0):
            reward = self.meet()
        return self.look(), reward, self.time == 6, False, {}

    def meet(self):
        if self.fate == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.fate == "exits":
            os._exit(7)
        if self.fate == "hangs":
            time.sleep(60)
        if self.fate == "raises":
            raise OSError("the simulator lost its window")
        if self.fate == "leaves":
            sys.exit("no more")
        if self.fate == "shape":
            self.look = lambda: np.zeros(3, np.float32)
        return float("nan") if self.fate == "nan" else 1.0

    def look(self):
        return np.array([self.time, self.np_random.random()], np.float32)


def make(fate, always=False):
    return Guard(Mortal(fate, always))


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    """Do not wait long for what hangs."""
    monkeypatch.setattr("envs.vector.PATIENCE", 1.0)


@pytest.fixture
def open_streams():
    """Build EnvStreams that are closed when the test ends."""
    opened = []

    def build(fate, num_envs=2, always=False, **settings):
        maker = partial(make, fate, always)
        opened.append(EnvStreams(maker, num_envs, seed=4, **settings))
        return opened[-1]

    yield build
    for streams in opened:
        streams.close()


def play(streams, steps):
    return [streams.reset(), *(streams.step([0] * streams.num_envs) for _ in range(steps))]


FATES = [
    ("killed", True, "its process died .killed by SIGKILL"),
    ("exits", True, "its process died .exit code 7"),
    ("hangs", True, "its process gave no answer within 0.5 s"),
    ("raises", True, "OSError: the simulator lost its window"),
    ("raises", False, "OSError: the simulator lost its window"),
    ("leaves", True, "SystemExit: no more"),
    ("leaves", False, "SystemExit: no more"),
    ("nan", True, "reward = nan is not finite"),
    ("nan", False, "reward = nan is not finite"),
]


@pytest.mark.parametrize(("fate", "parallel", "said"), FATES)
def test_what_fails_begins_anew_and_is_counted(open_streams, caplog, fate, parallel, said):
    """Fails where one bad environment ends a run, or harms the streams beside it."""
    streams = open_streams(fate, parallel=parallel, timeout=0.5 if fate == "hangs" else 60)
    records, well = play(streams, 16), play(open_streams("none"), 60)
    assert 0 < streams.restarts == len(caplog.records) <= 4
    assert re.search(rf"is begun anew \(1 of 10 times\): .*{said}", caplog.text)
    for stream in range(2):
        seen = [r.observation[stream].tolist() for r in records]
        episodes = [[r for r in seen[i:j]] for i, j in _episodes(records, stream)]
        expected = [
            [r.observation[stream].tolist() for r in well[i:j]] for i, j in _episodes(well, stream)
        ]
        for number, (episode, whole) in enumerate(zip(episodes, expected, strict=False)):
            # Episodes keep their numbers, so their seeds: each is a beginning of the healthy one.
            assert episode == whole[: len(episode)], number
    assert all(np.isfinite(r.reward).all() for r in records)
    finished = [e.length for r in records for e in r.episodes]
    assert set(finished) == {6}


def _episodes(records, stream):
    starts = [i for i, r in enumerate(records) if r.is_first[stream]]
    return list(zip(starts, [*starts[1:], len(records)], strict=True))


@pytest.mark.parametrize(("fate", "parallel", "said"), FATES[1:5])
def test_what_fails_too_often_ends_with_its_traceback(open_streams, fate, parallel, said):
    """Fails where a run goes on for ever with an environment that never works."""
    streams = open_streams(fate, always=True, parallel=parallel, timeout=0.5, max_restarts=2)
    with pytest.raises(EnvFailedError, match=f"(?s)env 0 failed in .*{said}") as info:
        play(streams, 20)
    assert streams.restarts == 2
    if fate == "raises":
        assert "in meet\n    raise OSError" in str(info.value)


@pytest.mark.parametrize("parallel", [False, True])
def test_what_breaks_the_contract_is_not_tried_again(open_streams, parallel):
    """Fails where an error in the user's code is taken for bad luck."""
    streams = open_streams("shape", parallel=parallel)
    with pytest.raises(ContractError, match=r"Mortal: .*shape \(3,\), and its space says \(2,\)"):
        play(streams, 20)
    assert streams.restarts == 0


class Double(Mortal):
    def look(self):
        return super().look().astype(np.float64) + 9


def guarded():
    return Guard(Double("none"))


@pytest.mark.parametrize("parallel", [False, True])
def test_what_all_processes_see_is_told_once(parallel, caplog, capfd, monkeypatch):
    """Fails where sixteen processes say the same sixteen times, or none of them is heard."""
    monkeypatch.setattr("envs.contract.TOLD", set())
    streams = EnvStreams(guarded, 3, parallel=parallel)
    records = play(streams, 4)
    streams.close()
    dtype, beyond = (record.getMessage() for record in caplog.records)
    assert "Double: The observation is of dtype float64" in dtype
    assert "lies outside the bounds of its space, -9.0 to 9.0" in beyond
    assert records[-1].observation.dtype == np.float32
    assert "float64" not in capfd.readouterr().err


@pytest.mark.parametrize("parallel", [False, True])
def test_a_failure_at_the_very_start_is_told_at_once(parallel):
    """Fails where an environment that cannot begin is tried again and again."""
    streams = EnvStreams(partial(Lame, "no licence"), 1, parallel=parallel)
    with pytest.raises((EnvFailedError, RuntimeError), match="no licence"):
        streams.reset()
    assert streams.restarts == 0
    streams.close()


class Lame(Mortal):
    def reset(self, *, seed=None, options=None):
        raise RuntimeError(self.fate)


def test_a_process_is_small(open_streams):
    """Fails where every environment's process loads torch, which takes seconds and much memory."""
    streams = EnvStreams(partial(Loaded, "torch"), 1, parallel=True)
    assert streams.reset().observation.tolist() == [[0, 0]]
    streams.close()


class Loaded(Mortal):
    def look(self):
        return np.full(2, self.fate in sys.modules, np.float32)


def test_a_restart_after_failures_is_exact(open_streams):
    """Fails where episodes are counted otherwise once one of them was cut short."""
    original, restored = open_streams("nan"), open_streams("nan")
    play(original, 11)
    assert original.restarts
    restored.restore(original.state())
    for _ in range(12):
        one, other = original.step([0, 0]), restored.step([0, 0])
        np.testing.assert_array_equal(one.observation, other.observation)
        np.testing.assert_array_equal(one.is_first, other.is_first)


def test_to_play_an_episode_again_may_take_its_time(open_streams):
    """Fails where a long episode of a slow environment cannot be resumed: no step took too long."""
    settings = {"parallel": True, "timeout": 0.6, "num_envs": 1}
    streams, again = (open_streams("slow", always=True, **settings) for _ in range(2))
    last = play(streams, 5)[-1]
    record = again.restore(streams.state())
    np.testing.assert_array_equal(record.observation, last.observation)
    assert not record.is_last.any()
    assert again.restarts == 0


def test_a_process_that_dies_between_two_steps_costs_no_checkpoint(open_streams):
    """Fails where the death of a process is only survived in the middle of a step."""
    streams, again = (open_streams("none", parallel=True) for _ in range(2))
    last = play(streams, 8)[-1]
    for place in streams._places:
        os.kill(place._process.pid, signal.SIGKILL)
    states = [streams.state(), streams.state()]
    assert streams.restarts == 2
    assert streams.explore().shape == (2,)
    record = again.restore(states[1])
    np.testing.assert_array_equal(record.observation, last.observation)
    one, other = streams.step([0, 0]), again.step([0, 0])
    assert one.is_first.all()
    assert other.is_first.all()
    np.testing.assert_array_equal(one.observation, other.observation)


def test_closing_does_not_wait_for_what_hangs(open_streams):
    """Fails where Ctrl-C leaves a user waiting for every process in turn."""
    streams = open_streams("hangs", parallel=True, always=True, timeout=60)
    play(streams, 2)
    for place in streams._places:
        place.send("step", 0)
    began = time.monotonic()
    streams.close()
    assert time.monotonic() - began < 1.9
