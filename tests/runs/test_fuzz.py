"""Whatever is typed, and whatever lies in a config: done, or refused in words; never a traceback.

HYPOTHESIS_PROFILE=nightly tries ten times as much, and elsewhere every time.
"""

import contextlib
import gc
import io
import json
import os
import resource
from collections.abc import Iterator
from dataclasses import asdict, fields, is_dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import event, given
from hypothesis import strategies as st

from agent.agent import Agent
from runs.cli import COMMANDS, main
from runs.config import Config
from runs.folder import read_config
from runs.recipes import RECIPES
from runs.train import Trainer
from worldmodel.codec import ObservationCodec
from worldmodel.config import from_dict
from worldmodel.model import ModelConfig
from worldmodel.spaces import flatten_observation, space_from_json, space_to_json

ROOM = 4 * 2**30  # bytes that a case may take: what asks for more must be refused


@contextlib.contextmanager
def narrow() -> Iterator[None]:
    """Keep a case from taking the whole machine's memory."""
    gc.collect()  # what earlier cases mapped is not this one's
    before = resource.getrlimit(resource.RLIMIT_AS)
    statm = Path("/proc/self/statm")
    if statm.exists():
        used = int(statm.read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_AS, (used + ROOM, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def options(config: Any, prefix: str = "--") -> list[str]:
    """The options of all settings."""
    found = []
    for field in fields(config):
        value, name = getattr(config, field.name), prefix + field.name.replace("_", "-")
        found += options(value, f"{name}.") if is_dataclass(value) else [name]
    return found


NUMBERS = st.sampled_from([-1, 0, 1, 2, 3, 5, 17, 4_097, 10**6, 10**9, 2**31, 2**63, 10**30])
NUMBERS |= st.integers(-(2**70), 2**70)
FLOATS = st.floats(width=64) | st.floats(-2, 2)
LETTERS = st.characters(blacklist_characters="/\0", blacklist_categories=("Cs",))
TEXT = st.text(LETTERS, max_size=12)
KNOWN = st.sampled_from(
    [
        *("cpu", "cuda", "auto", "bf16", "scan", "attend:4", "attend:", "scan:0x0", "mlp", "mamba"),
        *("--", "-h", "--help", "true", "null", "length=5", "length=-3", "length=1e99", "spare=no"),
        *("length=[1]", 'length="x"', "a=b=c", "=", "CartPole-v1", "clew/TMaze-v0", "nowhere:Mine"),
        *("no.py:Class", ":", "os:path", "clew/MemoryLength-v0", "return", "all", "ppo", "random"),
        *RECIPES,
    ]
)
VALUES = (NUMBERS | FLOATS).map(str) | KNOWN | TEXT
OTHERS = [
    *("--episodes", "--suite", "--frames", "--policy", "--json", "--max-steps", "--out", "--quick"),
    *("--patterns", "--resume", "--name", "--no-parallel", "--jobs", "--add", "--ppo.gamma"),
]
OPTIONS = st.sampled_from([*options(Config()), *OTHERS]) | TEXT.map("--{}".format)
PAIRS = st.tuples(OPTIONS, st.lists(VALUES, min_size=1, max_size=2)).map(lambda p: [p[0], *p[1]])
SETTINGS = st.tuples(st.sampled_from(options(Config())), NUMBERS.map(str)).map(list)
WORDS = st.lists(SETTINGS, max_size=2) | st.lists(
    SETTINGS | PAIRS | VALUES.map(lambda word: [word]), max_size=4
)
COMMANDS_ = st.sampled_from(["train"] * 12 + [*COMMANDS, "", "trian", "-x", "\u1234"])

# What ends each command soon where nothing is wrong with it: training is stopped by its own means.
SOON = {
    "train": ["--out", "runs"],
    "collect": ["--frames", "5", "--out", "data", "--name", "test/fuzz-v0"],
    "check-env": ["--steps", "5"],
    "evaluate": ["--episodes", "1"],
    "compare": ["--out", "comparison"],
    "report": ["--results", "results", "--readme", "README.md"],
    "baseline": ["--steps", "1", "--evaluation-episodes", "0", "--num-envs", "1", "--out", "runs"],
    "bench": ["--no-such-option"],
}


@contextlib.contextmanager
def stopped_at_once(folder: Path) -> Iterator[io.StringIO]:
    """In a folder of its own, where each training is interrupted as soon as it has begun."""
    start, said = Trainer.start, io.StringIO()

    def interrupted(trainer: Trainer) -> None:
        start(trainer)
        trainer.stop = True

    before, Trainer.start = Path.cwd(), interrupted
    threads = torch.get_num_threads()
    os.chdir(folder)
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            yield said
    finally:
        os.chdir(before)
        Trainer.start = start
        torch.set_num_threads(threads)


@given(command=COMMANDS_, recipe=st.sampled_from(["", "debug", "debug", "tmaze"]), words=WORDS)
def test_the_command_line(
    tmp_path_factory: pytest.TempPathFactory, command: str, recipe: str, words: list[list[str]]
) -> None:
    """Fails where something that can be typed is a traceback, or does not end."""
    named = [recipe] if recipe and command == "train" else []
    argv = [command, *named, *chain(*words), *SOON.get(command, [])]
    with narrow(), stopped_at_once(tmp_path_factory.mktemp("fuzz")) as said:
        code = main(argv)
    told = said.getvalue()
    event(f"{command if command in COMMANDS else 'no command'} ends with {code}")
    assert code in (0, 2, 130) or (command == "check-env" and code == 1), (code, told)
    assert "Traceback" not in told
    assert code != 2 or told.strip(), "refused without a word"


JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | FLOATS | TEXT | KNOWN,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)


def places(tree: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to every part of a tree of dictionaries and lists."""
    if not isinstance(tree, dict | list):
        return [path]
    inner = tree.items() if isinstance(tree, dict) else enumerate(tree)
    return [path, *(p for key, value in inner for p in places(value, (*path, key)))]


def changed(tree: Any, path: tuple[Any, ...], value: Any) -> Any:
    """A tree with one part replaced."""
    if not path:
        return value
    key, *rest = path
    if isinstance(tree, dict):
        return tree | {key: changed(tree[key], tuple(rest), value)}
    return [changed(v, tuple(rest), value) if i == key else v for i, v in enumerate(tree)]


CONFIG = json.loads(json.dumps(asdict(RECIPES["debug"].config)))
FORM = {"version": "1", "recipe": None, "scan": "torch", "config": CONFIG}


@st.composite
def mutations(draw: st.DrawFn, tree: Any) -> Any:
    """A tree in which some parts are something else, or have another name."""
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(places(tree)))
        tree = changed(tree, path, draw(JSON))
    return tree


@given(form=mutations(FORM))
def test_what_lies_in_a_config(tmp_path_factory: pytest.TempPathFactory, form: Any) -> None:
    """Fails where a config that cannot be is a traceback, or one that can be is changed."""
    run = tmp_path_factory.mktemp("run")
    (run / "config.json").write_text(json.dumps(form))
    try:
        config, _ = read_config(run)
    except ValueError:
        return
    assert from_dict(Config, asdict(config)) == config


def sizes(largest: int) -> st.SearchStrategy[int]:
    """Small numbers, that a space may be made of."""
    return st.integers(1, largest)


def boxes() -> st.SearchStrategy[spaces.Box]:
    """Boxes of any rank and of most dtypes."""
    shapes = st.lists(sizes(5), max_size=4).map(tuple)
    bounds = st.sampled_from([(0, 1), (-3, 7), (0, 255), (0, 0), (-np.inf, np.inf), (0, np.inf)])
    dtypes = st.sampled_from([np.float32, np.float64, np.float16, np.uint8, np.int16, np.int64])

    def build(shape: tuple[int, ...], bound: tuple[float, float], dtype: Any) -> spaces.Box:
        whole = np.issubdtype(dtype, np.integer)
        low, high = (0, 200) if whole else bound
        return spaces.Box(low, high, shape, dtype)

    return st.builds(build, shapes, bounds, dtypes)


LEAVES = st.one_of(
    boxes(),
    st.builds(spaces.Discrete, sizes(6), start=st.integers(-5, 5)),
    st.lists(sizes(4), min_size=1, max_size=3).map(spaces.MultiDiscrete),
    st.lists(sizes(3), min_size=1, max_size=2).map(spaces.MultiBinary),
    sizes(9).map(spaces.Text),
    st.just(spaces.Sequence(spaces.Discrete(2))),
    st.just(spaces.Graph(spaces.Discrete(2), None)),
)
NAMES = st.text(min_size=1, max_size=4) | st.sampled_from(["a/b", "a", "0", "observation", "."])
SPACES = st.recursive(
    LEAVES,
    lambda inner: (
        st.dictionaries(NAMES, inner, min_size=1, max_size=3).map(spaces.Dict)
        | st.lists(inner, min_size=1, max_size=3).map(spaces.Tuple)
    ),
    max_leaves=4,
)
TINY = ModelConfig(layers=("scan", "mlp"), width=8, head=4, state=4, latents=2, classes=2, codec=8)


def written(space: spaces.Space) -> Any:
    """A space as it comes back from a file."""
    return json.loads(json.dumps(space_to_json(space)))


@given(observed=SPACES, acted=LEAVES)
def test_spaces_are_read_or_refused(observed: spaces.Space, acted: spaces.Space) -> None:
    """Fails where a space is neither, or where one that is read is not acted in or not saved."""
    try:
        agent = Agent(observed, acted, TINY)
    except ValueError:
        return
    observed.seed(0)
    seen = flatten_observation(agent.model.codec.names, observed.sample())
    tensors = {name: torch.as_tensor(leaf[None]) for name, leaf in seen.items()}
    action, state = agent.act(tensors, agent.initial(1), torch.ones(1, dtype=torch.bool))
    assert acted.contains(action[0].numpy().astype(acted.dtype))
    assert state.carry.features.isfinite().all()
    forms = [written(observed), written(acted)]
    again = Agent(*(space_from_json(form) for form in forms), TINY)
    again.load_state_dict(agent.state_dict())
    assert [written(again.observation_space), written(again.action_space)] == forms


@given(space=SPACES, data=st.data())
def test_descriptions_of_spaces_are_read_or_refused(space: spaces.Space, data: Any) -> None:
    """Fails where an agent.json that was tampered with is a traceback, or kills the process."""
    form = data.draw(mutations(written(space)))
    with contextlib.suppress(ValueError):
        ObservationCodec(space_from_json(form), 8, 1)
