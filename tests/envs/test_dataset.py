"""What is recorded is what happened, and what is played is what was recorded."""

import json
import sys
from functools import partial

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from envs import EnvStreams, TMaze, make
from envs.dataset import DatasetError, DatasetStreams, Origin, open_dataset, origin
from envs.recorder import Recorder, write_dataset

pytestmark = pytest.mark.skipif(sys.version_info < (3, 11), reason="Minari needs Python 3.11")

IMAGES = ["minigrid.wrappers:RGBImgPartialObsWrapper", "minigrid.wrappers:ImgObsWrapper"]
MAZE = ("maze_layout", "agent_pos", "agent_dir", "targets_pos", "target_index")
MAKERS = {
    "tmaze": (partial(make, "clew/TMaze-v0", {"length": 5}), ()),
    "pendulum": (partial(make, "Pendulum-v1", {"max_episode_steps": 9}), ()),
    "missions": (partial(make, "MiniGrid-Empty-8x8-v0", {"max_steps": 15}), ()),
    "pictures": (partial(make, "MiniGrid-Empty-8x8-v0", {"max_steps": 15}, IMAGES), ()),
    "maze": (partial(make, "clew/MemoryMaze-7x7-v0", {"frame_size": 32}, (), 30), MAZE),
}
ABOUT = {"policy": "explorer", "description": "for a test"}
SMALL = spaces.Dict(a=spaces.Box(-1, 1, (2,)), b=spaces.Tuple([spaces.Discrete(3, start=1)]))
ACTIONS = spaces.MultiDiscrete([2, 4])


def record(folder, maker, frames=100, num_envs=3, infos=(), seed=0):
    """A dataset of the explorer's, its recorder and the MinariDataset."""
    streams = EnvStreams(maker, num_envs, seed, infos=infos)
    recorder = Recorder(streams, lambda _: streams.explore(), frames, infos)
    write_dataset(folder, "of/tests-v0", recorder, ABOUT)
    streams.close()
    return recorder, open_dataset(str(folder))


@pytest.fixture(scope="module")
def tmaze(tmp_path_factory):
    """The path of a dataset of T-Mazes; not to be written to."""
    folder = tmp_path_factory.mktemp("datasets") / "tmaze"
    record(folder, MAKERS["tmaze"][0])
    return str(folder)


def episode(steps, **changes):
    """An episode of SMALL and ACTIONS as Minari takes it, its observations counting."""
    from minari.data_collector import EpisodeBuffer

    count = np.arange(steps + 1)
    observations = {"a": np.stack([count, -count], 1) / 99, "b": (1 + count % 3,)}
    actions = np.stack([count[:-1] % 2, count[:-1] % 4], 1)
    last = count[1:] == steps
    parts = {"rewards": count[1:] / 7, "terminations": last, "truncations": ~last & False}
    parts |= {"observations": observations, "actions": actions, **changes}
    return EpisodeBuffer(**parts)


def write(folder, episodes, spec=None):
    """A dataset that somebody else made."""
    import minari
    from minari.dataset.minari_storage import MinariStorage

    folder.mkdir()
    storage = MinariStorage.new(folder / "data", SMALL, ACTIONS, spec, jpeg_encoding=False)
    storage.update_metadata({"dataset_id": "of/others-v0", "minari_version": minari.__version__})
    storage.update_episodes(episodes)
    return str(folder)


def rows(values, index):
    """One of many, in every leaf."""
    if isinstance(values, dict):
        return {name: rows(value, index) for name, value in values.items()}
    return tuple(rows(v, index) for v in values) if isinstance(values, tuple) else values[index]


def assert_equal(one, other):
    """The same numbers and words in every leaf, to the last bit."""
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        one, other = list(one.values()), [other[name] for name in one]
    if isinstance(one, list | tuple):
        for part, of_other in zip(one, other, strict=True):
            assert_equal(part, of_other)
    else:
        np.testing.assert_array_equal(one, other)


def assert_played_again(maker, dataset, infos=()):
    """Every episode, played anew by its seed and actions, is the same to the last bit."""
    env = maker()
    metadata = dataset.storage.get_episode_metadata(dataset.episode_indices)
    for told, found in zip(metadata, dataset, strict=True):
        observation, info = env.reset(seed=told["seed"])
        for step in range(len(found) + 1):
            assert_equal(rows(found.observations, step), observation)
            assert found.infos.keys() == set(infos)
            for name in infos:
                np.testing.assert_array_equal(found.infos[name][step], info[name])
            if step < len(found):
                observation, reward, ended, cut, info = env.step(found.actions[step])
                assert found.rewards[step] == np.float32(reward)
                assert found.terminations[step] == ended
                assert found.truncations[step] == cut or (told["cut"] and step == len(found) - 1)


@pytest.mark.parametrize("name", MAKERS)
def test_what_is_recorded_can_be_played_again(name, tmp_path):
    """Fails where a frame, action, reward, end or info is not that of its place, or is changed."""
    maker, infos = MAKERS[name]
    recorder, dataset = record(tmp_path / "d", maker, infos=infos)
    assert_played_again(maker, dataset, infos)
    assert dataset.total_steps == 100
    assert len(dataset) == len(recorder.told) > 3
    assert 0 < sum(told["cut"] for told in recorder.told) <= 3
    assert all(e.terminations[-1] or e.truncations[-1] for e in dataset)
    assert dataset.action_space == maker().action_space


def test_an_environment_that_fails_leaves_a_cut_episode(tmp_path, monkeypatch):
    """Fails where what came before and after a failure is recorded as one episode."""
    step, broken = TMaze.step, []

    def flaky(self, action):
        if self._steps == 3 and len(broken) < 4 and self.np_random.random() < 0.5:
            broken.append(self)
            raise RuntimeError("unlucky")
        return step(self, action)

    monkeypatch.setattr(TMaze, "step", flaky)
    recorder, dataset = record(tmp_path / "d", MAKERS["tmaze"][0])
    monkeypatch.setattr(TMaze, "step", step)
    assert recorder.streams.restarts == len(broken) == 4
    assert sum(told["cut"] for told in recorder.told) > 4
    assert_played_again(MAKERS["tmaze"][0], dataset)


def test_what_fails_leaves_nothing(tmp_path):
    """Fails where half a dataset, or a folder made for it, stays behind."""
    streams = EnvStreams(MAKERS["tmaze"][0], 2)

    def tires(record):
        if record.is_last.any():
            raise KeyboardInterrupt
        return streams.explore()

    with pytest.raises(KeyboardInterrupt):
        write_dataset(tmp_path / "new" / "d", "of/t-v0", Recorder(streams, tires, 99), ABOUT)
    assert not list(tmp_path.iterdir())


def test_an_info_that_is_not_always_there_is_refused(tmp_path):
    with pytest.raises(ValueError, match="does not give the info 'is_success' with every record"):
        record(tmp_path / "d", MAKERS["tmaze"][0], infos=("is_success",))
    assert not list(tmp_path.iterdir())


def played(streams, steps):
    """Records and the actions after them."""
    records = [streams.reset()]
    actions = [streams.explore()]
    for _ in range(steps):
        records.append(streams.step(actions[-1]))
        actions.append(streams.explore())
    return records, actions


def episodes_of(streams, steps):
    """What each stream played: lists of (observations, actions, rewards, terminal)."""
    records, actions = played(streams, steps)
    found = []
    for index in range(streams.num_envs):
        for now, action in zip(records, actions, strict=True):
            if now.is_first[index]:
                seen, done, paid = [], [], []
            seen.append(now.observation[index])
            paid.append(now.reward[index])
            if now.is_last[index]:
                found.append((np.stack(seen), done, paid[1:], now.is_terminal[index]))
            done = [*done, action[index]]
    return found


def test_every_episode_is_played_as_it_was_recorded(tmaze):
    """Fails where a record is of another step, an action of another, or a cut is an end."""
    recorded = {e.observations.tobytes() + e.actions.tobytes(): e for e in open_dataset(tmaze)}
    found = episodes_of(DatasetStreams(tmaze, 3), 200)
    for observations, actions, rewards, terminal in found:
        one = recorded[observations.tobytes() + np.array(actions).tobytes()]
        np.testing.assert_array_equal(one.rewards, rewards)
        assert one.terminations[-1] == terminal
    assert {terminal for *_, terminal in found} == {True, False}
    assert len(found) > 2 * len(recorded)


def test_the_record_convention(tmp_path):
    cut = {"terminations": [False, False], "truncations": [False, True]}
    path = write(tmp_path / "d", [episode(2), episode(2, **cut)])
    streams = DatasetStreams(path, 1, seed=1)
    records, _ = played(streams, 6)
    assert [r.is_first.item() for r in records] == [1, 0, 0, 1, 0, 0, 1]
    assert [r.is_last.item() for r in records] == [0, 0, 1, 0, 0, 1, 0]
    assert sorted(r.is_terminal.item() for r in records[:6]) == [0] * 5 + [1]
    np.testing.assert_allclose([r.reward.item() for r in records[:3]], [0, 1 / 7, 2 / 7])
    assert [r.observation["b"][0].item() for r in records[:4]] == [1, 2, 3, 1]
    assert [e for r in records[:3] for e in r.episodes] == [(0, 2, pytest.approx(3 / 7), None)]
    assert {str(r.reward.dtype) for r in records} == {"float32"}
    assert records[0].observation["a"].shape == (1, 2)


def test_a_pass_plays_each_episode_once_in_an_order_of_its_own(tmp_path):
    """Fails where streams play the same episode, or short ones are played more often."""
    path = write(tmp_path / "d", [episode(n) for n in (1, 9, 2, 3, 30, 4, 5)])

    def order(seed):
        streams = DatasetStreams(path, 3, seed)
        return [streams._next().number for _ in range(21)]

    passes = [tuple(order(0)[at : at + 7]) for at in (0, 7, 14)]
    assert [sorted(one) for one in passes] == [list(range(7))] * 3
    assert len(set(passes)) == 3
    assert order(0) == order(0) != order(1)


def assert_same_records(one, other):
    assert_equal(one.observation, other.observation)
    for name in ("reward", "is_first", "is_terminal", "is_last"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def test_a_restart_is_exact(tmaze):
    """Fails where a stream goes on elsewhere, or its next episodes are others."""
    original, restored = DatasetStreams(tmaze, 3, seed=7), DatasetStreams(tmaze, 3, seed=7)
    now = original.reset()
    for _ in range(40):
        assert_same_records(restored.restore(json.loads(json.dumps(original.state()))), now)
        for _ in range(3):
            now = original.step(original.explore())
            assert_same_records(now, restored.step(restored.explore()))


def test_a_state_of_other_streams_is_refused(tmaze, tmp_path):
    """Fails where a run goes on with another dataset than it began with, and nobody is told."""
    streams = DatasetStreams(tmaze, 3)
    streams.reset()
    state = streams.state()
    record(tmp_path / "d", MAKERS["tmaze"][0], frames=99)
    for other in ((tmaze, 2), (tmaze, 3, 1), (str(tmp_path / "d"), 3)):
        with pytest.raises(ValueError, match="played another dataset, or with another seed"):
            DatasetStreams(*other).restore(state)


def test_other_actions_are_refused(tmaze):
    streams = DatasetStreams(tmaze, 2)
    with pytest.raises(ValueError, match="reset"):
        streams.step([0, 0])
    streams.reset()
    with pytest.raises(ValueError, match="its own actions only"):
        streams.step(streams.explore() + 1)


def test_an_unknown_dataset_names_the_nearest(tmp_path, monkeypatch):
    """Fails where a slip of the pen is not put right, or leaves a folder of that name."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    with pytest.raises(ValueError, match=r"no dataset 'of/tosts-v0'.* there is none here yet"):
        DatasetStreams("of/tosts-v0", 1)
    record(tmp_path / "of" / "tests-v0", MAKERS["tmaze"][0])
    with pytest.raises(ValueError, match=r"nearest ids here: of/tests-v0\. Record one by clew col"):
        DatasetStreams("of/tosts-v0", 1)
    assert DatasetStreams("of/tests-v0", 1).dataset.id == "of/tests-v0"
    assert [path.name for path in (tmp_path / "of").iterdir()] == ["tests-v0"]


def test_what_is_missing_is_named_with_its_cure(tmaze, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, "h5py", None)
        with pytest.raises(ValueError, match=r"need Minari and h5py .*: pip install 'minari\[hdf5"):
            DatasetStreams(tmaze, 1)
        patched.setattr(sys, "version_info", (3, 10, 4))
        with pytest.raises(ValueError, match=r"needs Python 3\.11 or newer; this is 3\.10"):
            DatasetStreams(tmaze, 1)
    DatasetStreams(tmaze, 1)


def test_what_cannot_be_read_is_named(tmaze, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "metadata.json").write_text("{")
    with pytest.raises(ValueError, match=r"cannot be read \(JSONDecodeError"):
        DatasetStreams(str(tmp_path), 1)
    for num_envs, seed, name in ((0, 0, "num_envs"), (1, -1, "seed")):
        with pytest.raises(ValueError, match=name):
            DatasetStreams(tmaze, num_envs, seed)


def test_nothing_to_play_is_refused(tmp_path):
    """Fails where an episode without steps or without an end is found while it is played."""
    import h5py

    with pytest.raises(ValueError, match="of/others-v0 has no episodes"):
        DatasetStreams(write(tmp_path / "none", []), 1)
    path = write(tmp_path / "endless", [episode(2), episode(2, terminations=[True, False])])
    with pytest.raises(ValueError, match="episode 1 ends neither by termination nor by trunc"):
        DatasetStreams(path, 1)
    with h5py.File(tmp_path / "endless" / "data" / "main_data.hdf5", "a") as file:
        file["episode_1/rewards"].resize(0, axis=0)
    with pytest.raises(ValueError, match="episode 1 has no steps"):
        DatasetStreams(path, 1)


FINE = {"a": np.zeros((4, 2)), "b": (np.ones(4, np.int64),)}
FAULTS = {
    "a is not finite": {"observations": FINE | {"a": np.full((4, 2), np.nan)}},
    r"a is float64 of shape \(3, 2\), and should be 4 times": {
        "observations": FINE | {"a": np.zeros((3, 2))}
    },
    "b/0 has values outside the categories": {
        "observations": FINE | {"b": (np.array([1, 2, 3, 4]),)}
    },
    "observation lacks 'a'": {"observations": {"b": FINE["b"]}},
    "action has values outside the categories": {"actions": np.array([[0, 0], [2, 0], [0, 0]])},
    "a reward is not finite": {"rewards": [0.0, 1e39, 0.0]},
    "it goes on after its end": {"terminations": [False, True, True]},
}


@pytest.mark.parametrize("said", FAULTS)
def test_what_the_spaces_do_not_promise_is_refused(said, tmp_path):
    """Fails where a fault of a dataset reaches the model, or is told without its place."""
    path = write(tmp_path / "d", [episode(3, **FAULTS[said])])
    with pytest.raises(DatasetError, match=f"of/others-v0, episode 0: {said}"):
        DatasetStreams(path, 1).reset()
    DatasetStreams(write(tmp_path / "fine", [episode(3, observations=FINE)]), 1).reset()


def test_where_it_was_recorded_is_known_of_others_datasets_too(tmp_path):
    """Fails where an environment cannot be made again by what a dataset says of it."""
    kwargs = {"max_episode_steps": 7, "sutton_barto_reward": True}
    spec = gym.make("CartPole-v1", disable_env_checker=True, **kwargs).spec
    spec.additional_wrappers = ()
    found = origin(open_dataset(write(tmp_path / "said", [episode(2)], spec)))
    assert found == Origin("CartPole-v1", kwargs, ())
    assert origin(open_dataset(write(tmp_path / "unsaid", [episode(2)]))) is None
