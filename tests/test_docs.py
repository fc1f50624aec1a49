"""What the pages under docs/ tell a reader to type is typed here, at a smaller size."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from runs.cli import main
from runs.evaluation.suites import SUITES

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "your-own-environment.md"
MEASURING = ROOT / "docs" / "measuring-memory.md"
SMALLER = {
    "--steps": "150",
    "--prefill": "80",
    "--num-envs": "2",
    "--replay.batch": "2",
    "--replay.context": "16",
    "--replay-ratio": "4",
    "--threads": "1",
    "--evaluation-episodes": "2",
}


def blocks(page: Path) -> list[tuple[str, str]]:
    """Kind and text of all blocks of code, in order."""
    return re.findall(r"^```(\w+)\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


def smaller(command: list[str]) -> list[str]:
    """A command of clew's that takes a second or two."""
    words = list(command)
    if words[0] == "evaluate" and "--episodes" in words:
        words[words.index("--episodes") + 1] = "2"
    elif words[0] == "evaluate":
        words += ["--episodes", "2"]
    elif "--resume" in words:
        words[words.index("--steps") + 1] = "170"
    elif words[0] == "train":
        for name, value in SMALLER.items():
            if name in words:
                words[words.index(name) + 1] = value
            else:
                words += [name, value]
    return words


def run(line: str) -> int:
    """A line of a shell; its exit code."""
    words = shlex.split(line, comments=True)
    if words[0] == "clew":
        return main(smaller(words[1:]))
    assert words[0] == "python"
    path = {"PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, *words[1:]], env=os.environ | path).returncode


def test_your_own_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Fails where a command of the page fails, or prints something else than the page says."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    done, said = [], ""
    for kind, text in blocks(PAGE):
        if kind == "python":
            Path(text.partition("\n")[0].removeprefix("# ")).write_text(text)
        elif kind == "sh":
            capsys.readouterr()
            for line in text.replace("\\\n", "").splitlines():
                assert run(line) == 0, line
                done.append(line.split()[1])
            said = re.sub(r"[\d,]+ steps/s", "", capsys.readouterr().out)
        else:
            assert kind == "text"
            for line in text.splitlines():
                assert re.sub(r"[\d,]+ steps/s", "", line) in said
    assert done == ["check-env", "train", "train", "evaluate", "train", "-m", "train"]
    assert {path.name for path in tmp_path.glob("*.py")} == {"light.py", "test_light.py"}


def test_measuring_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails where a command of the page fails, or the page leaves out a suite or names another."""
    monkeypatch.chdir(tmp_path)
    assert run("clew train debug --name maze --prefill 60") == 0
    for copy in ("maze-s0", "maze-s1", "ppo"):
        shutil.copytree("outputs/maze", f"outputs/{copy}")
    ((_, text),) = blocks(MEASURING)
    for line in text.splitlines():
        assert run(line) == 0, line
    assert len(list(Path("outputs").glob("*/evaluation*/report.html"))) == 9
    named = re.findall(r"^\| `([\w-]+)` \|", MEASURING.read_text(), re.MULTILINE)
    assert set(named) == set(SUITES)


def test_promises_are_tested() -> None:
    """Fails where docs/reliability.md names a test that is not there."""
    named = re.findall(r"`(test_\w+)(?:::(test_\w+))?", (ROOT / "docs/reliability.md").read_text())
    assert len(named) > 15
    for module, test in named:
        (path,) = (ROOT / "tests").rglob(f"{module}.py")
        assert f"\ndef {test}" in path.read_text(), (module, test)
