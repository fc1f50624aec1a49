"""Any environment, from the command line: checked, trained, resumed and evaluated."""

import importlib.util
import json
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

import runs
from runs.cli import main
from runs.config import Config
from runs.folder import read_config
from runs.session import default_name

OUTSIDE = """
    import os

    import gymnasium as gym
    import numpy as np
    from gymnasium import spaces


    class Lockbox(gym.Env):
        '''See a code of two digits at the first step, dial it at the fifth.'''

        def __init__(self, digits=3, fault=""):
            self.digits, self.fault, self.age = digits, fault, 0
            self.observation_space = spaces.Dict(
                code=spaces.MultiDiscrete([digits + 1, digits + 1]),
                eye=spaces.Box(0, 255, (9, 7, 1), np.uint8),
                inner=spaces.Tuple([spaces.MultiBinary(2), spaces.Text(5), spaces.Discrete(2)]),
                box=spaces.Box(-np.inf, np.inf, (2, 2, 2, 1), np.float64),
            )
            self.action_space = spaces.MultiDiscrete([digits, digits])

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            self.time, self.code = 0, self.np_random.integers(0, self.digits, 2)
            return self.look(), {}

        def step(self, action):
            assert self.action_space.contains(action), action
            self.time += 1
            self.age += 1
            if self.fault == "dies":
                os._exit(3)
            if self.fault == "ages" and self.age > 55:
                raise OSError("worn out")
            over = self.time == 5
            right = over and bool((action == self.code).all())
            return self.look(), float(right), over, False, {"is_success": right} if over else {}

        def look(self):
            seen = {
                "code": self.code + 1 if self.time == 0 else np.zeros(2, np.int64),
                "eye": np.full((9, 7, 1), self.time, np.uint8),
                "inner": (np.ones(2, np.int8), "hello", int(self.time == 4)),
                "box": np.full((2, 2, 2, 1), 3.0 * self.time),
            }
            if self.fault == "late" and self.time == 3:
                seen["code"] = np.array([9, 0])
            return seen
"""
POPGYM = "popgym:popgym-RepeatPreviousEasy-v0"
KNOWN = [
    "CartPole-v1",
    "Pendulum-v1",
    "MiniGrid-MemoryS13Random-v0",
    "MiniGrid-DoorKey-6x6-v0",
    pytest.param(
        POPGYM,
        marks=pytest.mark.skipif(
            importlib.util.find_spec("popgym") is None, reason="popgym is not installed"
        ),
    ),
    "theirs/lockbox.py:Lockbox",
]
QUICK = [
    *("--steps", "150", "--prefill", "80", "--evaluation-episodes", "2", "--threads", "1"),
    "--env-kwargs",
]


@pytest.fixture(autouse=True)
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand in a folder of the user's own, which holds an environment."""
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "lockbox.py").write_text(textwrap.dedent(OUTSIDE))
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("env_id", KNOWN)
def test_check_env_finds_nothing_wrong(env_id: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Fails where a good environment is refused, or a key is not said to be read."""
    assert main(["check-env", env_id, "--steps", "200", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["wrong"] == []
    assert report["steps_per_second"] > 100
    assert all(part["read"] for part in report["observation"].values())
    assert report["action"]["acted"]


@pytest.mark.parametrize("env_id", KNOWN)
def test_trains_and_is_evaluated(env_id: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Fails where an id of the issue's list does not run from the command line as it is."""
    limits = {"MiniGrid": ["max_steps=20"], "Pendulum": ["max_episode_steps=20"]}
    short = next((limit for name, limit in limits.items() if name in env_id), [])
    assert main(["train", "debug", "--env", env_id, *QUICK, *short, "--name", "run"]) == 0
    report = json.loads(Path("outputs/run/evaluation/return.json").read_text())
    assert report["episodes"] == 2
    assert np.isfinite(report["players"]["greedy"]["return"]["mean"])
    assert ("is Text" in capsys.readouterr().out) == ("MiniGrid" in env_id or "theirs" in env_id)


@pytest.mark.slow
@pytest.mark.parametrize("env_id", KNOWN)
def test_trains_two_thousand_steps(env_id: str) -> None:
    """Fails where a whole short training breaks: what the issue asks for, to the letter."""
    assert main(["train", "debug", "--env", env_id, "--env-kwargs", "--threads", "1"]) == 0


def test_how_keys_are_read_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    """Fails where a user cannot see what the model makes of each part."""
    asked = ["check-env", "theirs/lockbox.py:Lockbox", "--env-kwargs", "digits=4", "--steps", "20"]
    assert main([*asked, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert {key: part["read"] for key, part in report["observation"].items()} == {
        "box": "numbers: 8 by symlog",
        "code": "categories: 2 of 5",
        "eye": "picture of 9 x 7 x 1, 0 to 255, in 4 x 4 tokens",
        "inner/0": "categories: 2 of 2",
        "inner/1": "not read: it is Text",
        "inner/2": "categories: 1 of 2",
    }
    assert report["action"]["acted"] == "categories: 2 of 4"
    assert report["env_kwargs"] == {"digits": 4}
    assert main(asked) == 0
    said = capsys.readouterr().out
    assert "Nothing is wrong with it." in said
    assert re.search(r"20 steps, 4 episodes ended, [\d,]+ steps/s", said)


def test_what_is_wrong_is_told_and_ends_with_1(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["theirs/lockbox.py:Lockbox", "--env-kwargs", "fault=late"]
    assert main(["check-env", *asked]) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert "Wrong: The observation 'code'[0] = 9 lies outside the categories of its space" in said


def test_what_goes_wrong_as_it_trains_is_told_without_a_traceback(
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked = ["--env", "theirs/lockbox.py:Lockbox", *QUICK, "fault=late"]
    assert main(["train", "debug", *asked]) == 1
    said = capsys.readouterr().err
    assert "Lockbox: The observation 'code'[0] = 9 lies outside the categories" in said
    assert "clew check-env tells what else" in said
    assert "Traceback" not in said


def test_what_can_be_read_is_told_before_it_is_played() -> None:
    """Fails where an environment that takes this process with it leaves an empty screen."""
    code = "import sys; from runs.cli import main; sys.exit(main(sys.argv[1:]))"
    asked = ["check-env", "theirs/lockbox.py:Lockbox", "--env-kwargs", "fault=dies"]
    path = {"PYTHONPATH": str(Path(runs.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", code, *asked], capture_output=True, text=True, env=os.environ | path
    )
    assert done.returncode == 3
    assert "MultiDiscrete([4 4])" in done.stdout


@pytest.mark.parametrize(
    ("every", "said"), [("50", "Saved up to step 100."), ("500", "Nothing is s")]
)
def test_what_is_left_of_a_run_that_failed_is_told(
    every: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Fails where an environment that failed too often does not say how to go on."""
    asked = ["--env", "theirs/lockbox.py:Lockbox", *QUICK, "fault=ages", "--num-envs", "2"]
    asked += ["--env-restarts", "0", "--checkpoint-every", every, "--name", "run"]
    assert main(["train", "debug", *asked]) == 1
    told = capsys.readouterr()
    assert said in told.out
    assert ("train --resume outputs/run" in told.out) == (every == "50")
    assert "OSError: worn out. 0 restarts are allowed (--env-restarts)" in told.err


@pytest.mark.parametrize(
    ("action", "said"),
    [
        ("spaces.Box(-1, np.inf, (1,))", "must be bounded: wrap the environment"),
        ("spaces.Dict(turn=spaces.Discrete(2))", "Discrete, MultiDiscrete and bounded Box are"),
    ],
)
def test_spaces_that_are_not_supported_are_wrong(
    action: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = Path("theirs/lockbox.py")
    file.write_text(file.read_text().replace("spaces.MultiDiscrete([digits, digits])", action))
    assert main(["check-env", f"{file}:Lockbox", "--steps", "3"]) == 1
    assert said in " ".join(capsys.readouterr().out.split())


def test_channels_that_come_first_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    """Fails where a picture on its side is read without a word."""
    file = Path("theirs/lockbox.py")
    file.write_text(file.read_text().replace("(9, 7, 1)", "(1, 9, 7)"))
    assert main(["check-env", f"{file}:Lockbox", "--steps", "3"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "'eye' of shape (1, 9, 7) is read as a picture of height x width x channels" in said


def test_what_is_wrong_from_the_start_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Fails where an environment that cannot be trained in leaves a folder, or a traceback."""
    file = Path("theirs/lockbox.py")
    file.write_text(file.read_text().replace("return self.look(), {}\n", "return self.look()\n", 1))
    assert main(["train", "debug", "--env", f"{file}:Lockbox", *QUICK]) == 2
    assert "reset() returned dict without info" in capsys.readouterr().err
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize("arguments", ["CartPole-v9", "nowhere.py:Mine", "CartPole-v1 --steps 0"])
def test_what_cannot_be_checked_is_refused(arguments: str) -> None:
    assert main(["check-env", *arguments.split()]) == 2


@pytest.mark.parametrize("parallel", ["--no-parallel", "--parallel"])
def test_a_run_finds_its_file_from_every_folder(
    parallel: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails where a path that was given relative to one folder is read relative to another."""
    asked = ["--env", "theirs/lockbox.py:Lockbox", *QUICK, "--num-envs", "2", parallel]
    assert main(["train", "debug", *asked, "--name", "run"]) == 0
    run = tmp_path / "outputs" / "run"
    assert read_config(run)[0].env == f"{tmp_path}/theirs/lockbox.py:Lockbox"
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert main(["evaluate", str(run), "--episodes", "2"]) == 0
    assert main(["train", "--resume", str(run), "--steps", "170"]) == 0


@pytest.mark.parametrize(
    ("env", "name"),
    [
        ("/home/me/Maze.py:Mine", "maze-mine"),
        ("clew/TMaze-v0", "clew-tmaze-v0"),
        ("popgym:popgym-RepeatPreviousEasy-v0", "popgym-popgym-repeatpreviouseasy-v0"),
    ],
)
def test_a_run_is_named_by_its_environment(env: str, name: str) -> None:
    """Fails where the name of a run is a path, or holds what no folder's name may."""
    assert re.fullmatch(rf"{name}-\d+-\d+-s3", default_name(Config(env=env, seed=3), None))
