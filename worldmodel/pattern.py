"""The pattern of a backbone as words, and the named patterns of the paper's comparison.

    scan        a block-wise scan whose block is the whole frame
    scan:HxW    a block-wise scan with blocks of H x W tokens
    attend:K    frame-local attention over the last K frames, the own one included
    mlp         two linear maps
    clock       frames since the episode began, as sinusoids
    gru         a gated recurrent unit at every token's place

Named patterns stand for several words (Po et al. 2025, arXiv 2505.20171, tables 1 and 2). All have
the same width and, to a few per cent, as many parameters.

    lssvwm        scans for every token's place, a scan over the whole frame, local attention, MLPs
    mamba         one scan over the whole frame, no attention
    mamba-local   one scan over the whole frame, local attention
    block-1       as lssvwm, with scans for every token's place alone
    window[:K]    causal transformer that sees K frames (192), a third of them in each layer
    full[:K]      causal transformer that sees the whole context, of K frames at most (1024)
    gru           gated recurrent units, attention inside the frame
"""

import difflib
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

Grid = tuple[int, int]

TRANSFORMERS = ("window", "full")
WINDOW, FULL = 192, 1024
DEPTH = 3  # attentions of a transformer


class Word(NamedTuple):
    """One operation: its kind, and its numbers."""

    kind: str
    numbers: tuple[int, ...] = ()


def read_pattern(layers: Sequence[str], grid: Grid) -> list[Word]:
    """The operations that words or a pattern's name stand for, on a grid of tokens.

    Raises:
        ValueError: where a word means nothing or a block does not tile the grid; says what would.
    """
    if not layers:
        raise ValueError("model.layers is empty: name at least one operation, such as 'scan'.")
    return [_read_word(word, grid) for word in _expand(tuple(layers), grid)]


def _expand(layers: tuple[str, ...], grid: Grid) -> tuple[str, ...]:
    """A pattern's name, alone, as words; words stay as they are."""
    name, colon, argument = layers[0].partition(":")
    if len(layers) > 1 or name not in PATTERNS or (colon and name not in TRANSFORMERS):
        return layers
    return PATTERNS[name](grid, argument)


def _layers(scan: str, attend: str = "attend:10") -> tuple[str, ...]:
    return (scan, attend, "mlp")


def _window(grid: Grid, argument: str) -> tuple[str, ...]:
    """Layers pass on what they saw: three of them reach three times as far as one."""
    frames = _frames(f"window:{argument or WINDOW}")
    return _transformer((frames - 1) // DEPTH + 1)


def _full(grid: Grid, argument: str) -> tuple[str, ...]:
    return _transformer(_frames(f"full:{argument or FULL}"))


def _transformer(frames: int) -> tuple[str, ...]:
    return ("clock", *(f"attend:{frames}", "mlp") * DEPTH, "mlp")


PATTERNS: dict[str, Callable[[Grid, str], tuple[str, ...]]] = {
    "lssvwm": lambda grid, argument: _layers("scan:1x1") + _layers("scan"),
    "mamba": lambda grid, argument: ("scan", "mlp", "mlp") * 2,
    "mamba-local": lambda grid, argument: _layers("scan") * 2,
    "block-1": lambda grid, argument: _layers("scan:1x1") * 2,
    "window": _window,
    "full": _full,
    "gru": lambda grid, argument: _layers("gru", "attend:1") * 2,
}


def _read_word(word: str, grid: Grid) -> Word:
    kind, colon, argument = word.partition(":")
    if kind == "scan":
        return Word(kind, _read_block(argument, grid) if colon else grid)
    if kind == "attend":
        return Word(kind, (_frames(word),))
    if word in ("mlp", "clock", "gru"):
        return Word(word)
    if kind in PATTERNS:
        raise ValueError(
            f"model.layers: {word!r} cannot be used so: the name of a pattern stands alone, and "
            "only window:K and full:K take a number."
        )
    near = difflib.get_close_matches(word, [*PATTERNS, "scan", "attend", "clock"], cutoff=0.6)
    raise ValueError(
        f"model.layers: {word!r} names no operation{f' (nearest: {near[0]})' if near else ''}. "
        "Valid: 'scan', 'scan:HxW' (block of H x W tokens), 'attend:K' (K frames), 'mlp', 'clock', "
        f"'gru', or one pattern alone: {', '.join(PATTERNS)} (window:K and full:K see K frames)."
    )


def _frames(word: str) -> int:
    """K of 'attend:K', 'window:K' and 'full:K'."""
    kind, _, argument = word.partition(":")
    if not argument.isdecimal() or int(argument) < 1:
        raise ValueError(f"model.layers: {word!r} must say how many frames it sees: '{kind}:10'.")
    return int(argument)


def _read_block(argument: str, grid: Grid) -> Grid:
    match = re.fullmatch(r"(\d+)x(\d+)", argument)
    block = (int(match[1]), int(match[2])) if match else (0, 0)
    if 0 in block or grid[0] % block[0] or grid[1] % block[1]:
        rows, columns = (divisors(n) for n in grid)
        raise ValueError(
            f"model.layers: 'scan:{argument}' does not tile the grid of {grid[0]} x "
            f"{grid[1]} tokens. A block is HxW with H in {rows} and W in {columns}."
        )
    return block


def divisors(n: int) -> list[int]:
    """The numbers that divide n."""
    return [d for d in range(1, n + 1) if n % d == 0]
