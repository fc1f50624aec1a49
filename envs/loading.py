"""Code of the user's own: environments in a file, in a module, or announced by a package.

Unusual: our packages have common names (agent, envs, runs), and the user's may have the same. While
a file of theirs is loaded, modules beside it win over ours of the same name, and then step aside.
A module is looked for in the current folder too, after everything that is installed.
"""

import hashlib
import importlib
import importlib.machinery
import importlib.util
import logging
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from importlib import metadata
from pathlib import Path
from types import ModuleType

from gymnasium.envs.registration import namespace

logger = logging.getLogger(__name__)

OURS = ("agent", "envs", "runs", "worldmodel")
ROOT = Path(__file__).resolve().parents[1]
EXTRAS = {name: "mujoco" for name in ("dm_control", "mujoco", "labmaze", "memory_maze")}


def is_file(where: str) -> bool:
    """Whether the part of an env id before its last colon names a file."""
    return where.endswith(".py")


def absolute(env_id: str) -> str:
    """An env id that means the same in every folder."""
    where, _, name = env_id.rpartition(":")
    return f"{Path(where).expanduser().resolve()}:{name}" if is_file(where) else env_id


def load_file(where: str) -> ModuleType:
    """The module that a Python file makes, under a name that no other module has.

    Raises:
        ValueError: where there is no such file, or it fails as it is loaded.
    """
    path = Path(where).expanduser().resolve()
    if not path.is_file():
        others = ", ".join(sorted(p.name for p in path.parent.glob("*.py"))[:9])
        beside = f"the folder {path.parent} has {others}" if others else "give the path to it"
        raise ValueError(f"there is no file {path}: {beside}")
    name = f"clew_{path.stem}_{hashlib.sha1(str(path).encode()).hexdigest()[:8]}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        try:
            with _neighbours_first(path.parent):
                spec.loader.exec_module(sys.modules[name])
        except (Exception, SystemExit) as error:
            del sys.modules[name]
            raise ValueError(_fails(path, error)) from error
    return sys.modules[name]


def _fails(path: Path, error: BaseException) -> str:
    if isinstance(error, SyntaxError):
        return f"{error.filename} is no valid Python, in line {error.lineno}: {error.msg}"
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path)]
    line = f" in line {lines[-1]}" if lines else ""
    text = f"{path} fails as it is loaded{line} ({type(error).__name__}: {error})"
    if isinstance(error, ImportError) and "relative import" in str(error):
        return f"{text}: a file has no package; name its module instead, package.module:Class"
    if isinstance(error, SystemExit):
        return f'{text}: what runs it as a program belongs under `if __name__ == "__main__":`'
    return f"{text}: {cure(error)}" if isinstance(error, ImportError) else text


@contextmanager
def _neighbours_first(folder: Path) -> Iterator[None]:
    """Modules in the file's folder and in the current one come before all others."""
    folders = [folder] if folder == Path.cwd() else [folder, Path.cwd()]
    importlib.invalidate_caches()
    taken = {name: p for name in OURS for place in folders[::-1] if (p := _own(place, name))}
    hidden = {key: sys.modules.pop(key) for key in list(sys.modules) if _top(key) in taken}
    sys.modules.update({name: _namespace(name, p) for name, p in taken.items() if _is_bare(p)})
    sys.path[:0] = map(str, folders)
    try:
        yield
    finally:
        for place in folders:
            sys.path.remove(str(place))
        if str(folder) not in sys.path:
            sys.path.append(str(folder))  # for what is imported later, as it runs
        for key in [key for key in sys.modules if _top(key) in taken]:
            del sys.modules[key]
        sys.modules.update(hidden)


def import_module(module: str, needed_by: str) -> ModuleType:
    """A module that is installed, or in the current folder.

    Raises:
        ValueError: where it is not there, with what to install or what hides it.
    """
    if not all(part.isidentifier() for part in module.split(".")):
        raise ValueError(
            f"{needed_by}: {module!r} is the name of no module; write package.module:Class, or "
            "path/to/file.py:Class"
        )
    if not {"", str(Path.cwd())} & set(sys.path):
        sys.path.append(str(Path.cwd()))
    try:
        return importlib.import_module(module)
    except ImportError as error:
        advice = hidden_by_us(module) or cure(error)
        raise ValueError(f"{needed_by} cannot be imported ({error}): {advice}") from error


def hidden_by_us(module: str) -> str:
    """What to do where a module of the user's has the name of one of ours; "" where none has."""
    name = _top(module)
    theirs = _own(Path.cwd(), name) if name in OURS else None
    if theirs is None:
        return ""
    inside = theirs.joinpath(*module.split(".")[1:])
    file = inside.with_suffix(".py") if inside.suffix != ".py" else inside
    return (
        f"{name!r} is clew's own package {ROOT / name}, which hides {theirs}. Name the file "
        f"instead, {file}:ClassName, or rename yours"
    )


def cure(error: ImportError) -> str:
    """What to install."""
    package = _top(error.name or "")
    if not isinstance(error, ModuleNotFoundError) or not package:
        return "check that the package is installed and its version fits"
    if package in EXTRAS:
        return f"pip install 'clew[{EXTRAS[package]}]'"
    return f"pip install {package}, or go to the folder that holds it"


def load_plugins() -> None:
    """Let every installed package register what it announces under `gymnasium.envs`.

    Gymnasium did this itself before 1.0. The name of an entry point is the namespace of its ids,
    or __root__. One that fails is told and left out.
    """
    for entry in metadata.entry_points(group="gymnasium.envs"):
        inside = nullcontext() if entry.name == "__root__" else namespace(entry.name)
        try:
            with inside:
                register = entry.load()
                if callable(register):
                    register()
        except Exception as error:
            logger.warning("entry point %s = %s: %r", entry.name, entry.value, error)


def _own(folder: Path, name: str) -> Path | None:
    """A user's module of this name in a folder; None where there is none, or it is ours."""
    file, package = folder / f"{name}.py", folder / name
    if folder.resolve() == ROOT:
        return None
    if package.is_dir() and any(package.glob("*.py")):
        return package
    return file if file.is_file() else None


def _is_bare(path: Path) -> bool:
    """Whether a package is a folder alone: Python would prefer ours, which is more."""
    return path.is_dir() and not (path / "__init__.py").exists()


def _namespace(name: str, folder: Path) -> ModuleType:
    spec = importlib.machinery.ModuleSpec(name, None, is_package=True)
    spec.submodule_search_locations = [str(folder)]
    return importlib.util.module_from_spec(spec)


def _top(module: str) -> str:
    return module.partition(".")[0]
