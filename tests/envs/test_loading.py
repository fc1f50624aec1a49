"""Environments of the user's own: in files, in modules, and announced by installed packages."""

import importlib
import subprocess
import sys
import textwrap
from pathlib import Path

import gymnasium as gym
import pytest

import envs
from envs import EnvStreams, make
from envs.loading import absolute

SOURCE = """
import gymnasium as gym
import numpy as np
from gymnasium import spaces


class Mine(gym.Env):
    observation_space = spaces.Dict({"seen": spaces.Box(0.0, 9.0, (1,), np.float32)})
    action_space = spaces.MultiDiscrete([2, 3])

    def __init__(self, start=0.0):
        self.start = start

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return {"seen": np.array([self.start], np.float32)}, {}

    def step(self, action):
        return {"seen": np.array([action.sum()], np.float32)}, 1.0, False, False, {}
"""
REGISTERS = f"{SOURCE}\n\ngym.register('ID', entry_point=Mine)\n"


@pytest.fixture(autouse=True)
def clean(monkeypatch, tmp_path):
    """Stand in an empty folder; forget what a test imports and registers."""
    modules, ids, path = set(sys.modules), set(gym.registry), list(sys.path)
    monkeypatch.chdir(tmp_path)
    importlib.invalidate_caches()
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        del sys.modules[name]
    for env_id in set(gym.registry) - ids:
        del gym.registry[env_id]


def write(path: str, text: str = SOURCE) -> Path:
    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(textwrap.dedent(text))
    return file


def first_seen(env: gym.Env) -> float:
    return env.reset(seed=0)[0]["seen"].item()


def test_a_class_in_a_file(tmp_path):
    write("deep/down/worlds.py")
    for where in ("deep/down/worlds.py", tmp_path / "deep/down/worlds.py"):
        assert first_seen(make(f"{where}:Mine", {"start": 3.0})) == 3
    assert make("deep/down/worlds.py:Mine", {"max_episode_steps": 2}, max_steps=1).spec


def test_a_wrapper_in_a_file():
    write("worlds.py", f"{SOURCE}\n\nclass Around(gym.Wrapper): pass\n")
    assert "<Around<" in str(make("worlds.py:Mine", wrappers=["worlds.py:Around"]))


def test_an_id_that_a_file_registers():
    write("worlds.py", REGISTERS.replace("ID", "test/InFile-v0"))
    assert first_seen(make("worlds.py:test/InFile-v0")) == 0


@pytest.mark.parametrize("name", ["envs", "agent", "runs", "worldmodel", "numpy"])
def test_a_file_may_have_any_name_and_its_neighbours_too(name):
    """Fails where a user's file, or what it imports, is taken for a module of ours."""
    ours = {key: module for key, module in sys.modules.items() if key.partition(".")[0] == "envs"}
    write(f"{name}.py")
    assert first_seen(make(f"{name}.py:Mine")) == 0
    write("envs/helper.py", "NINE = 9.0")
    write("agent.py", "class Walker: pass")
    head = "import agent\nfrom envs.helper import NINE\nagent.Walker\n"
    write("world.py", f"{head}{SOURCE.replace('start=0.0', 'start=NINE')}")
    assert first_seen(make("world.py:Mine")) == 9
    assert sys.modules["envs"] is envs
    assert all(sys.modules[key] is module for key, module in ours.items())
    assert importlib.import_module("agent").__file__ != str(Path("agent.py").resolve())


def test_modules_beside_a_file_are_found_when_it_runs_too():
    write("deep/late.py", "EIGHT = 8.0")
    late = "from late import EIGHT\n        self.start = EIGHT"
    write("deep/world.py", SOURCE.replace("self.start = start", late))
    assert first_seen(make("deep/world.py:Mine")) == 8


def test_a_module_in_this_folder():
    write("mine/worlds.py")
    write("mine/ids.py", REGISTERS.replace("ID", "test/InModule-v0"))
    assert first_seen(make("mine.worlds:Mine", {"start": 2.0})) == 2
    assert first_seen(make("mine.ids:test/InModule-v0")) == 0


def test_workers_find_what_a_file_has():
    write("worlds.py")
    streams = EnvStreams(Maker(absolute("worlds.py:Mine")), 2, parallel=True)
    try:
        streams.reset()
        record = streams.step([[1, 2], [0, 1]])
        assert record.observation["seen"].tolist() == [[3], [1]]
    finally:
        streams.close()


class Maker:
    """What `functools.partial(make, env_id)` is, to be sent to a process."""

    def __init__(self, env_id: str) -> None:
        self.env_id = env_id

    def __call__(self) -> gym.Env:
        return make(self.env_id)


def test_an_id_of_a_file_means_the_same_everywhere(tmp_path):
    """Fails where a run cannot be resumed or evaluated from another folder."""
    assert absolute("deep/worlds.py:Mine") == f"{tmp_path}/deep/worlds.py:Mine"
    assert absolute("mine.worlds:Mine") == "mine.worlds:Mine"
    assert absolute("CartPole-v1") == "CartPole-v1"


@pytest.mark.parametrize(
    ("name", "env_id", "said"),
    [
        (
            "worlds.py",
            "wrlds.py:Mine",
            r"there is no file .*/wrlds.py: the folder .* has worlds.py",
        ),
        ("worlds.py", "worlds.py:Mien", "has no 'Mien', and registers no such id; its env.*: Mine"),
        ("worlds.py", "worlds.py:np", "has no 'np', and registers no such id; its environments"),
        ("mine/worlds.py", "mine.worlds:Mien", "mine.worlds has no 'Mien'.*environments: Mine"),
        ("worlds.py", "worlds.py:Mine:x", "'worlds.py:Mine' is the name of no module; write"),
        ("worlds.py", "./worlds:Mine", "'./worlds' is the name of no module; .*path/to/file.py"),
        ("worlds.py", "worlds.py", "worlds.py wants a class, file.py:Class; its env.*: Mine"),
        ("envs.py", "envs:Mine", r"envs has no 'Mine'.*which hides .*/envs.py. Name the file inst"),
        (
            "agent/w.py",
            "agent.w:Mine",
            r"hides .*/agent. Name the file instead, .*/agent/w.py:Class",
        ),
        ("worlds.py", "gone.worlds:Mine", "cannot be imported .*: pip install gone"),
    ],
)
def test_what_cannot_be_found_is_told_with_what_can(name, env_id, said):
    write(name)
    with pytest.raises(ValueError, match=said):
        make(env_id)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("def f(:", "is no valid Python, in line 1"),
        (
            "\nimport no_such_package",
            "fails as it is loaded in line 2 .*pip install no_such_package",
        ),
        ("x = 1\n1 / 0", r"fails as it is loaded in line 2 \(ZeroDivisionError: division by zero"),
        ("from .other import x", "a file has no package; name its module instead"),
        ("import mujoco_not_there", "pip install mujoco_not_there"),
        ("class Mine: pass", "must inherit from the gymnasium.Env class"),
        (SOURCE.replace("start=0.0", "start"), "needs arguments, as --env-kwargs .*: .*start"),
        (f"{SOURCE}\nimport sys\nsys.exit()", "line 22 .SystemExit: .*: what runs it as a program"),
        (
            SOURCE.replace("    action_space", "    actions"),
            "env 'Mine': its action_space is not there: set self.action_space in __init__",
        ),
        (
            SOURCE.replace("spaces.MultiDiscrete([2, 3])", "[2, 3]"),
            "its action_space is of type builtins.list: set self.action_space",
        ),
    ],
)
def test_a_file_that_does_not_load_is_told_why(text, said):
    write("worlds.py", text)
    for _ in range(2):
        with pytest.raises(ValueError, match=said):
            make("worlds.py:Mine")


def test_a_missing_extra_names_the_command(monkeypatch):
    """Fails where a user is told to install a package of whose version clew is particular."""
    monkeypatch.setitem(sys.modules, "labmaze", None)
    write("worlds.py", "import labmaze")
    with pytest.raises(ValueError, match=r"pip install 'clew\[mujoco\]'"):
        make("worlds.py:Mine")


def installed(where: Path, name: str, value: str) -> None:
    """A package as pip installs it, with an entry point under gymnasium.envs."""
    info = where / "plug-1.0.dist-info"
    write(str(info / "METADATA"), "Metadata-Version: 2.1\nName: plug\nVersion: 1.0\n")
    write(str(info / "entry_points.txt"), f"[gymnasium.envs]\n{name} = {value}\n")


@pytest.mark.parametrize(("name", "prefix"), [("__root__", ""), ("plugged", "plugged/")])
def test_ids_that_an_installed_package_announces(tmp_path, monkeypatch, name, prefix):
    register = "\n\ndef register():\n    gym.register('Announced-v0', entry_point=Mine)\n"
    write("site/plug.py", SOURCE + register)
    installed(tmp_path / "site", name, "plug:register")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    assert first_seen(make(f"{prefix}Announced-v0")) == 0


def test_a_package_that_fails_to_announce_is_told_and_left_out(tmp_path, monkeypatch, caplog):
    write("site/plug.py", "raise OSError('no display')")
    installed(tmp_path / "site", "__root__", "plug:register")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    with pytest.raises(ValueError, match="unknown env id 'Announced-v0'"):
        make("Announced-v0")
    assert "entry point __root__ = plug:register: OSError('no display')" in caplog.text


def test_folders_of_the_users_do_not_hide_clew_from_itself(tmp_path):
    """Fails where PYTHONPATH names a folder with an `agent` of its own, and clew loads that."""
    write("theirs/agent.py", "raise SystemExit('theirs')")
    write("theirs/envs/__init__.py", "raise SystemExit('theirs')")
    root = Path(envs.__file__).parents[1]
    code = f"""
        import sys
        sys.path[:0] = [{str(tmp_path / "theirs")!r}]
        import importlib.util as u
        spec = u.spec_from_file_location("runs", {str(root / "runs/__init__.py")!r})
        runs = sys.modules["runs"] = u.module_from_spec(spec)
        from runs.cli import main
        sys.exit(main(["check-env", "clew/TMaze-v0", "--steps", "9"]))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True)
    assert done.returncode == 0, done.stderr
