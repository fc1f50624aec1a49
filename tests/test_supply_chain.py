"""What is installed: every file by its hash, and in the versions that were tested."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
LOCK = (ROOT / "requirements.lock").read_text()
ENTRY = re.compile(
    r"^(?P<asked>[a-z0-9][^\\\n]*?) ?(?P<hashes>(?:\\\n +--hash=sha256:[0-9a-f]{64} ?)*)$", re.M
)

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")


def pins(text: str) -> dict[str, set[str]]:
    """The versions of each package that a file allows."""
    found: dict[str, set[str]] = {}
    for line in re.findall(r"^[a-z0-9][^\\\n]*", text, re.M):
        asked = Requirement(line.strip())
        found.setdefault(canonicalize_name(asked.name), set()).add(str(asked.specifier))
    return found


def test_every_locked_file_has_its_hash() -> None:
    """Fails where something could be installed that nobody has looked at."""
    entries = list(ENTRY.finditer(LOCK))
    assert len(entries) == len(re.findall(r"^[a-z0-9]", LOCK, re.M)) > 100
    for entry in entries:
        assert entry["hashes"], entry["asked"]
        assert re.match(r"[\w.-]+==[^=]+$", entry["asked"].partition(" ; ")[0])


def test_what_is_locked_is_what_was_tested() -> None:
    """Fails where the lock was not renewed with constraints.txt: make lock."""
    tested, locked = pins((ROOT / "constraints.txt").read_text()), pins(LOCK)
    for name in tested.keys() & locked.keys():
        assert tested[name] & locked[name], (name, tested[name], locked[name])


def test_all_that_is_required_is_locked() -> None:
    """Fails where a new dependency is not in the lock: make lock."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    locked = pins(LOCK)
    for requirement in map(Requirement, asked):
        assert canonicalize_name(requirement.name) in locked, f"{requirement}: make lock"


@pytest.mark.skipif(not shutil.which("make"), reason="needs make")
def test_an_audit_that_cannot_ask_says_so(tmp_path: Path) -> None:
    """Fails where a database that cannot be asked looks like one that knows of nothing."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    tools = tmp_path / ".venv" / "tools"
    tools.mkdir(parents=True)
    (tmp_path / ".venv" / "bin").mkdir()
    (tmp_path / ".venv" / "bin" / "python").symlink_to(sys.executable)
    for file in ("pyproject.toml", "constraints.txt", ".venv/.made", ".venv/tools/.installed"):
        (tmp_path / file).touch()
    ends = {
        "raise SystemExit('ERROR: einops: not found')": (2, "NOTHING WAS CHECKED"),
        "print('Found 1 known vulnerability'); raise SystemExit(1)": (2, "Found 1 known"),
        "print('No known vulnerabilities found')": (0, "No known vulnerabilities"),
    }
    for program, (code, said) in ends.items():
        (tools / "pip_audit.py").write_text(program)
        done = subprocess.run(
            ["make", "audit"], cwd=tmp_path, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == code
        assert said in done.stdout + done.stderr
        assert ("NOTHING" in done.stderr) == ("ERROR" in program)
