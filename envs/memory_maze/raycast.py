"""First-person pictures of many mazes in one call.

Unusual: the camera looks down a little, as the original's does, so the pixels of a column lie in
slightly different directions. A fan of rays, finer than the columns, finds which wall face lies in
each direction; every pixel then meets that face, the floor or the sky exactly. Light comes from the
camera and does not weaken, so each face has one brightness. Rays are (ahead, to the right, up) with
a step of about 1 ahead; lengths are cells.

Compiled functions call only those of their own file and use only its constants: Numba's cache
notices changes of that file alone.
"""

import math
from functools import cache
from typing import NamedTuple

import numpy as np
from numba import njit

from envs.memory_maze.textures import textures

FIELD_OF_VIEW = math.radians(80.0)  # across and down, between the edges of the picture
DOWNWARDS = math.atan(0.1)  # how far the camera looks down
EYE_HEIGHT, EYE_AHEAD = 0.45, 0.075  # of the camera, over the floor and before the body's centre
WALL_HEIGHT = 0.75
BALL = 0.3  # radius of an object: the upper half of a ball on the floor
TEXELS = 128  # of a texture, along one cell
LEVELS = 6  # sizes of it, each half of the one before
SOFTNESS = 0.5  # a coarser one is taken where a pixel is wider than this many texels
AMBIENT, DIFFUSE = 0.3, 0.6
SKY = np.array([102.0, 153.0, 204.0])  # straight up; darker towards the horizon
COLOURS = np.array(
    [(170, 38, 30), (99, 170, 88), (39, 140, 217), (93, 105, 199), (220, 193, 59), (220, 128, 107)]
) * (255 / 220)
BORDER_SHADE = 0.7
FAN = 4  # rays of the fan for each column

# What each ray of the fan found, as rows of an array: 1/distance to the face is
# ACROSS · right + AHEAD · ahead, and the place along the face, in cells, is
# SIDE + distance · (SIDE_ACROSS · right + SIDE_AHEAD · ahead).
ACROSS, AHEAD, SIDE_ACROSS, SIDE_AHEAD, SIDE = range(5)
# And as whole numbers: brightness in 256ths, where its texture begins, texels in a row of it.
SHADE, START, WIDE = range(3)

_njit = njit(cache=True, error_model="numpy", fastmath=True)


class Lens(NamedTuple):
    """What never changes from picture to picture: the rays of rows and columns, and the sky."""

    ahead: np.ndarray  # [row]
    up: np.ndarray  # [row]
    right: np.ndarray  # [column]
    fan: np.ndarray  # [row, column], flat: the nearest ray of the fan
    slopes: np.ndarray  # [ray]: right / ahead
    pixel: float  # how wide a pixel is, at distance 1
    sky: np.ndarray  # [row, column], flat, packed


class Paint(NamedTuple):
    """Textures as flat arrays of packed colours: all sizes of one, then of the next."""

    wall: np.ndarray
    floor: np.ndarray  # corridors, rooms; in the light that all floors have
    starts: np.ndarray  # where each size begins
    total: int  # texels of all sizes of a texture


@cache
def lens(height: int, width: int) -> Lens:
    """The camera of pictures of a size; it sees 80° up and down, and in proportion across."""
    tangent = math.tan(FIELD_OF_VIEW / 2)
    v = (1 - (2 * np.arange(height) + 1) / height) * tangent
    right = ((2 * np.arange(width) + 1) / width - 1) * tangent * width / height
    ahead = math.cos(DOWNWARDS) + v * math.sin(DOWNWARDS)
    up = -math.sin(DOWNWARDS) + v * math.cos(DOWNWARDS)
    slope = right[None] / ahead[:, None]
    spread, rays = float(np.abs(slope).max()) * 1.001, FAN * width
    fan = ((slope + spread) / (2 * spread) * rays).astype(np.int32).clip(0, rays - 1)
    slopes = ((np.arange(rays) + 0.5) / rays * 2 - 1) * spread
    rise = up[:, None] / np.sqrt(ahead[:, None] ** 2 + right[None] ** 2 + up[:, None] ** 2)
    sky = _pack((0.5 + 0.445 * rise)[..., None] * SKY)
    ahead, up, right = (array.astype(np.float32) for array in (ahead, up, right))
    return Lens(ahead, up, right, fan.ravel(), slopes, 2 * tangent / height, sky.ravel())


@cache
def _paint() -> Paint:
    made, light = textures(TEXELS, LEVELS), AMBIENT + DIFFUSE * math.sin(DOWNWARDS)
    sizes = [(TEXELS >> level) ** 2 for level in range(LEVELS)]
    starts = np.cumsum([0, *sizes[:-1]], dtype=np.int32)
    return Paint(_flat(made.walls, 1.0), _flat(made.floors, light), starts, sum(sizes))


def _flat(levels: list[np.ndarray], light: float) -> np.ndarray:
    """[texture, row, column, RGB] at several sizes → [texture, all their texels], flat."""
    packed = [_pack(level * light).reshape(len(level), -1) for level in levels]
    return np.concatenate(packed, axis=1).ravel()


def _pack(colours: np.ndarray) -> np.ndarray:
    red, green, blue = np.moveaxis((colours + 0.5).astype(np.int32), -1, 0)
    return red | green << 8 | blue << 16


def draw(
    poses: np.ndarray,
    walls: np.ndarray,
    paint: np.ndarray,
    rooms: np.ndarray,
    targets: np.ndarray,
    asked: np.ndarray,
    out: np.ndarray,
) -> None:
    """Draw what each body sees into `out` (N, height, width, 3), with the border.

    `poses` are rows (x, y, heading). `walls`, `paint` (which texture) and `rooms` are
    (N, rows, columns) and include the outer walls, `targets` (N, objects, 2), `asked` (N) the
    object that the border shows.
    """
    _draw_all(poses, walls, paint, rooms, targets, asked, lens(*out.shape[1:3]), _paint(), out)


@_njit
def _draw_all(
    poses: np.ndarray,
    walls: np.ndarray,
    paint: np.ndarray,
    rooms: np.ndarray,
    targets: np.ndarray,
    asked: np.ndarray,
    look: Lens,
    images: Paint,
    out: np.ndarray,
) -> None:
    rays, columns = len(look.slopes), out.shape[2]
    found, whole = np.empty((5, rays), np.float32), np.empty((3, rays), np.int32)
    near, line = np.empty(columns, np.float32), np.empty(columns, np.int32)
    border = border_width(out.shape[1])
    for n in range(len(poses)):
        fx, fy = math.cos(poses[n, 2]), math.sin(poses[n, 2])
        x, y = poses[n, 0] + EYE_AHEAD * fx, poses[n, 1] + EYE_AHEAD * fy
        _cast_fan(x, y, fx, fy, walls[n], paint[n], look, images, found, whole)
        inside, flat, size = rooms[n].ravel(), out[n].ravel(), rooms.shape[1]
        for row in range(border, out.shape[1] - border):
            _measure(row, look, found, near)
            _draw_row(row, x, y, fx, fy, inside, size, look, images, found, whole, near, line)
            _write_row(line, flat[3 * row * columns : 3 * (row + 1) * columns])
        _draw_balls(x, y, fx, fy, targets[n], look, found, border, out[n])
        _draw_border(asked[n], border, out[n])


@_njit
def border_width(height: int) -> int:
    """2 pixels in a picture of 64 rows."""
    return max(1, int(2 * math.sqrt(height // 64)))


@_njit
def _cast_fan(
    x: float,
    y: float,
    fx: float,
    fy: float,
    walls: np.ndarray,
    paint: np.ndarray,
    look: Lens,
    images: Paint,
    found: np.ndarray,
    whole: np.ndarray,
) -> None:
    """Walk each ray from grid line to grid line until a wall, and note its plane."""
    start_i, start_j = math.floor(x) + 1, math.floor(y) + 1
    for k in range(len(look.slopes)):
        slope = look.slopes[k]
        dx, dy = fx + slope * fy, fy - slope * fx
        i, j = start_i, start_j
        step_i, step_j = (1 if dx > 0 else -1), (1 if dy > 0 else -1)
        per_i, per_j = 1 / max(abs(dx), 1e-12), 1 / max(abs(dy), 1e-12)
        next_i = ((i - (step_i < 0)) - x) * step_i * per_i
        next_j = ((j - (step_j < 0)) - y) * step_j * per_j
        distance, sideways = 0.0, True
        while not walls[j, i]:
            sideways = next_i < next_j
            if sideways:
                distance = next_i
                next_i += per_i
                i += step_i
            else:
                distance = next_j
                next_j += per_j
                j += step_j
        slant, light = _note_face(
            k, x, y, fx, fy, distance, sideways, step_i, step_j, dx, dy, found
        )
        length = math.sqrt(dx * dx + dy * dy)
        level = _level(distance * look.pixel * length / max(slant, 0.25 * length))
        whole[SHADE, k] = int(
            256 * (AMBIENT + DIFFUSE * max(light, 0.0) * math.cos(DOWNWARDS)) + 0.5
        )
        whole[START, k] = paint[j, i] * images.total + images.starts[level]
        whole[WIDE, k] = TEXELS >> level


@_njit
def _note_face(
    k: int,
    x: float,
    y: float,
    fx: float,
    fy: float,
    distance: float,
    sideways: bool,
    step_i: int,
    step_j: int,
    dx: float,
    dy: float,
    found: np.ndarray,
) -> tuple[float, float]:
    """How slanted the ray meets the face, and how much the face is turned to the camera.

    Sides run from left to right for who faces the wall.
    """
    if sideways:
        gap = 1 / max(distance * abs(dx), 1e-6)
        ahead, across, slant = step_i * fx, step_i * fy, abs(dx)
        found[SIDE_AHEAD, k], found[SIDE_ACROSS, k] = -step_i * fy, step_i * fx
        found[SIDE, k] = -step_i * y
    else:
        gap = 1 / max(distance * abs(dy), 1e-6)
        ahead, across, slant = step_j * fy, -step_j * fx, abs(dy)
        found[SIDE_AHEAD, k], found[SIDE_ACROSS, k] = step_j * fx, step_j * fy
        found[SIDE, k] = step_j * x
    found[AHEAD, k], found[ACROSS, k] = ahead * gap, across * gap
    return slant, ahead


@_njit
def _level(size: float) -> int:
    """Which size of a pattern suits pixels that cover so many metres of it."""
    level = 0
    texel = 1.4 * 1 / TEXELS
    while size > texel and level < LEVELS - 1:
        size *= 0.5
        level += 1
    return level


@_njit
def _measure(row: int, look: Lens, found: np.ndarray, near: np.ndarray) -> None:
    """1 / distance to the wall, for each pixel of a row."""
    ahead, first = look.ahead[row], row * len(near)
    for column in range(len(near)):
        k = np.uint32(look.fan[first + column])
        # Never behind: a pixel's ray may pass just beside the face that its fan's ray has met.
        near[column] = max(
            found[ACROSS, k] * look.right[column] + found[AHEAD, k] * ahead, np.float32(0.02)
        )


@_njit
def _draw_row(
    row: int,
    x: float,
    y: float,
    fx: float,
    fy: float,
    rooms: np.ndarray,
    size: int,
    look: Lens,
    images: Paint,
    found: np.ndarray,
    whole: np.ndarray,
    near: np.ndarray,
    line: np.ndarray,
) -> None:
    """A row as packed colours: a wall where it is nearer than the floor, and not below the sky."""
    up, ahead, first = look.up[row], look.ahead[row], row * len(near)
    sky_at, floor_at = np.float32(WALL_HEIGHT - EYE_HEIGHT), np.float32(-EYE_HEIGHT)
    if up < 0:
        _draw_floor(row, x, y, fx, fy, rooms, size, look, images, near, line)
    lift, one, most = np.float32(EYE_HEIGHT + (1 - WALL_HEIGHT) / 2), np.float32(1), np.float32(64)
    for column in range(len(near)):
        if up > sky_at * near[column]:
            line[column] = look.sky[first + column]
        elif up >= floor_at * near[column]:
            k = np.uint32(look.fan[first + column])
            far = one / near[column]
            u = (
                most
                + found[SIDE, k]
                + far * (found[SIDE_ACROSS, k] * look.right[column] + found[SIDE_AHEAD, k] * ahead)
            )
            wide = whole[WIDE, k]
            s = np.int32((u - np.float32(np.int32(u))) * np.float32(wide))
            t = np.int32((lift + far * up) * np.float32(wide))
            plain = images.wall[np.uint32(whole[START, k] + np.int32(t * wide) + s)]
            line[column] = _shaded(plain, whole[SHADE, k])


@_njit
def _shaded(colour: int, shade: int) -> int:
    """A packed colour times so many 256ths; everything stays in 32 bits."""
    outer = np.int32(np.int32((colour & np.int32(0xFF00FF)) * shade) >> 8) & np.int32(0xFF00FF)
    return outer | np.int32(np.int32((colour & np.int32(0xFF00)) * shade) >> 8) & np.int32(0xFF00)


@_njit
def _draw_floor(
    row: int,
    x: float,
    y: float,
    fx: float,
    fy: float,
    rooms: np.ndarray,
    size: int,
    look: Lens,
    images: Paint,
    near: np.ndarray,
    line: np.ndarray,
) -> None:
    up, ahead, floor_at = look.up[row], look.ahead[row], np.float32(-EYE_HEIGHT)
    reach = EYE_HEIGHT / -up
    level = _level(reach * look.pixel * 2.5)
    wide, start = np.float32(TEXELS >> level), np.int32(images.starts[level])
    start_x = np.float32(x + reach * ahead * fx + 1)
    start_y = np.float32(y + reach * ahead * fy + 1)
    step_x, step_y = np.float32(reach * fy), np.float32(-reach * fx)
    zero, top = np.float32(0), np.float32(size - 0.001)
    stride, texels, columns = np.int32(wide), np.int32(images.total), np.int32(size)
    for column in range(len(near)):
        if up < floor_at * near[column]:
            u = min(max(start_x + step_x * look.right[column], zero), top)
            v = min(max(start_y + step_y * look.right[column], zero), top)
            i, j = np.int32(u), np.int32(v)
            s, t = np.int32((u - np.float32(i)) * wide), np.int32((v - np.float32(j)) * wide)
            room = rooms[np.uint32(np.int32(j * columns) + i)]
            line[column] = images.floor[np.uint32(room * texels + start + t * stride + s)]


@_njit
def _write_row(line: np.ndarray, out: np.ndarray) -> None:
    for column in range(len(line)):
        colour, byte = line[column], 3 * column
        out[byte] = colour & 255
        out[byte + 1] = colour >> 8 & 255
        out[byte + 2] = colour >> 16


@_njit
def _draw_balls(
    x: float,
    y: float,
    fx: float,
    fy: float,
    targets: np.ndarray,
    look: Lens,
    found: np.ndarray,
    border: int,
    out: np.ndarray,
) -> None:
    """From far to near, where no wall hides them."""
    count = len(targets)
    distances = np.empty(count)
    for k in range(count):
        distances[k] = math.hypot(targets[k, 0] - x, targets[k, 1] - y)
    for _ in range(count):
        k = int(np.argmax(distances))
        if distances[k] < 0:
            break
        dx, dy = targets[k, 0] - x, targets[k, 1] - y
        ahead, right = dx * fx + dy * fy, dx * fy - dy * fx
        if ahead > -BALL:
            _draw_ball(ahead, right, distances[k], k, look, found, border, out)
        distances[k] = -1.0


@_njit
def _draw_ball(
    ahead: float,
    right: float,
    distance: float,
    k: int,
    look: Lens,
    found: np.ndarray,
    border: int,
    out: np.ndarray,
) -> None:
    first, last = _columns(ahead, right, distance, look, border, len(look.right))
    if first > last or not _may_be_seen(first, last, distance, look, found):
        return
    tilt_ahead, tilt_up = math.cos(DOWNWARDS), -math.sin(DOWNWARDS)
    rest = distance * distance + EYE_HEIGHT**2 - BALL**2
    for row in range(border, len(look.up) - border):
        up, forward = look.up[row], look.ahead[row]
        if up >= 0:
            continue
        for column in range(first, last + 1):
            across = look.right[column]
            a = forward * forward + across * across + up * up
            b = forward * ahead + across * right - up * EYE_HEIGHT
            square = b * b - a * rest
            if square <= 0 or b <= 0:
                continue
            far = (b - math.sqrt(square)) / a
            ray = look.fan[row * len(look.right) + column]
            near = found[ACROSS, ray] * across + found[AHEAD, ray] * forward
            z = EYE_HEIGHT + far * up
            if z < 0 or far * near > 1:
                continue
            facing = ((ahead - far * forward) * tilt_ahead - z * tilt_up) / BALL
            shade = AMBIENT + DIFFUSE * max(facing, 0.0)
            for c in range(3):
                out[row, column, c] = np.uint8(min(COLOURS[k, c] * shade, 255.0))


@_njit
def _columns(
    ahead: float, right: float, distance: float, look: Lens, border: int, width: int
) -> tuple[int, int]:
    """The first and the last column that a ball may be in."""
    first, last = border, width - 1 - border
    if distance <= BALL * 1.05:
        return first, last
    middle, half = math.atan2(right, ahead), math.asin(BALL / distance)
    scale = width / (2 * (look.right[width - 1] + 0.5 * look.pixel))
    widest, narrowest = look.ahead[0], look.ahead[len(look.ahead) - 1]
    low, high = middle - half, middle + half
    if low > -1.4:
        edge = math.tan(min(low, 1.4))
        first = max(
            first, int((edge * (narrowest if edge > 0 else widest)) * scale + width / 2) - 1
        )
    if high < 1.4:
        edge = math.tan(max(high, -1.4))
        last = min(last, int((edge * (widest if edge > 0 else narrowest)) * scale + width / 2) + 1)
    return first, last


@_njit
def _may_be_seen(first: int, last: int, distance: float, look: Lens, found: np.ndarray) -> bool:
    """Whether any wall in these columns is farther than the nearest point of a ball."""
    row = len(look.ahead) // 2
    for column in range(first, last + 1):
        ray = look.fan[row * len(look.right) + column]
        ahead, right = look.ahead[row], look.right[column]
        near = found[ACROSS, ray] * right + found[AHEAD, ray] * ahead
        if near * max(distance - BALL, 0.0) < 1.2 * math.hypot(ahead, right):
            return True
    return False


@_njit
def _draw_border(asked: int, width: int, out: np.ndarray) -> None:
    height, across = out.shape[:2]
    for c in range(3):
        shade = np.uint8(COLOURS[asked, c] * BORDER_SHADE)
        out[:width, :, c] = shade
        out[height - width :, :, c] = shade
        out[:, :width, c] = shade
        out[:, across - width :, c] = shade
