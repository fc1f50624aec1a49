"""How the body moves: a ball that is driven and steered, with friction against floor and walls.

Unusual: not a table of calibrated steps but the original's mechanics, reduced to what a ball can do:
slide in three directions, turn, and roll about its side axis. A ball that pushes against a wall does
not slide along it: friction holds it and turns it to face the wall, so an agent that bumps must turn
away. Constants are the original's, and so are its soft contacts with elliptic friction cones, which
let go of the floor for moments while the ball turns; they are solved contact by contact, at the
original's 50 substeps an action. Units: metres, seconds, kilograms, radians.

Compiled functions call only those of their own file and use only its constants: Numba's cache
notices changes of that file alone.
"""

import math

import numpy as np
from numba import njit

CELL = 2.0
RADIUS = 0.2
SUBSTEPS, DT = 50, 0.005  # 4 actions a second

X, Y, Z, HEADING, VX, VY, VZ, TURN, ROLL = range(9)
STATE = 9

MASS, TURN_INERTIA, ROLL_INERTIA = 22.0, 1.185, 0.016
DRIVE, STEER = 50.0, 30.0  # torque at full action
ROLL_DAMPING, TURN_DAMPING = 5.0, 20.0
GRAVITY = 9.81
SLIDE, TWIST_ARM = 1.0, 0.02  # friction: sliding, and turning on the spot (in metres)
# Soft contacts: penetration and slip are pulled back with these rates.
STIFFNESS, REPULSION = 1 / (0.95 * 0.02) ** 2, 2 / (0.95 * 0.02)
SOFTEST, HARDEST, SOFT_DEPTH = 0.9, 0.95, 0.001
SWEEPS = 3
TOUCH = 0.8  # from the ball's centre to that of an object on the floor
NEARBY = TOUCH + 0.55  # nothing farther away can be touched during one action

# Noop, forward, left, right, forward and left, forward and right: (drive, steer to the left).
CONTROLS = np.array([(0, 0), (1, 0), (0, 1), (0, -1), (1, 1), (1, -1)], np.float64)
# The damping of the two joints is integrated implicitly.
TURN_GAIN = TURN_INERTIA / (TURN_INERTIA + DT * TURN_DAMPING)
ROLL_GAIN = ROLL_INERTIA / (ROLL_INERTIA + DT * ROLL_DAMPING)

NX, NY, DEPTH = range(3)  # a wall contact: normal away from the wall, penetration
# The forces of a contact, and where the search for its friction begins next time.
NORMAL, ALONG, ACROSS, TWIST, SLOPE, EXTRA = range(6)
GROUND = 0  # contact 0 is the floor, then up to two walls

_njit = njit(cache=True, error_model="numpy", fastmath=True)


@_njit
def move(
    bodies: np.ndarray,
    walls: np.ndarray,
    targets: np.ndarray,
    actions: np.ndarray,
    active: np.ndarray,
    forces: np.ndarray,
    touched: np.ndarray,
) -> None:
    """Carry out one action for each active body, and note which of its targets it touches.

    `bodies` (N, 9) in metres, `walls` (N, rows, columns) with the outer walls, `targets` and
    `touched` (N, objects, ...), `forces` (N, 3, 6) from the action before, or zeros.
    """
    contacts = np.zeros((2, 3))
    for n in range(len(bodies)):
        touched[n, :] = False
        if active[n]:
            _act(bodies[n], walls[n], targets[n], actions[n], contacts, forces[n], touched[n])


@_njit
def _act(
    body: np.ndarray,
    walls: np.ndarray,
    targets: np.ndarray,
    action: int,
    contacts: np.ndarray,
    forces: np.ndarray,
    touched: np.ndarray,
) -> None:
    nearby = False
    for k in range(len(targets)):
        if math.hypot(targets[k, 0] - body[X], targets[k, 1] - body[Y]) < NEARBY:
            nearby = True
    for _ in range(SUBSTEPS):
        substep(body, walls, action, contacts, forces)
        if nearby:
            height = body[Z] + RADIUS
            for k in range(len(targets)):
                dx, dy = targets[k, 0] - body[X], targets[k, 1] - body[Y]
                if dx * dx + dy * dy + height * height < TOUCH * TOUCH:
                    touched[k] = True


@_njit
def substep(
    body: np.ndarray, walls: np.ndarray, action: int, contacts: np.ndarray, forces: np.ndarray
) -> None:
    """Move one body by `DT`; `contacts` (2, 3) and `forces` (3, 6) are scratch memory.

    Forces start from those of the substep before: call with zeros first.
    """
    count = find_contacts(body, walls, contacts)
    for c in range(1 + count, 3):
        forces[c, :] = 0.0
    fx, fy = math.cos(body[HEADING]), math.sin(body[HEADING])
    acc = np.empty(5)
    _free_acceleration(body, action, acc)
    _apply(forces, contacts, count, fx, fy, acc)
    for hard in range(2):
        for _ in range(1 if count == 0 else SWEEPS):
            _solve_ground(body, forces[GROUND], fx, fy, acc, hard == 1)
            for c in range(count):
                _solve_wall(body, contacts[c], forces[1 + c], fx, fy, acc, hard == 1)
    _integrate(body, acc)


@_njit
def _free_acceleration(body: np.ndarray, action: int, acc: np.ndarray) -> None:
    drive, steer = CONTROLS[action, 0], CONTROLS[action, 1]
    acc[0] = acc[1] = 0.0
    acc[2] = -GRAVITY
    acc[3] = (STEER * steer - TURN_DAMPING * body[TURN]) / TURN_INERTIA
    acc[4] = (DRIVE * drive - ROLL_DAMPING * body[ROLL]) / ROLL_INERTIA


@_njit
def _apply(
    forces: np.ndarray, contacts: np.ndarray, count: int, fx: float, fy: float, acc: np.ndarray
) -> None:
    """Add what the forces that are already known do."""
    ground = forces[GROUND]
    _push_ground(ground[NORMAL], ground[ALONG], ground[ACROSS], ground[TWIST], fx, fy, acc)
    for c in range(count):
        f, nx, ny = forces[1 + c], contacts[c, NX], contacts[c, NY]
        _push_wall(f[NORMAL], f[ALONG], f[ACROSS], f[TWIST], nx, ny, fx, fy, acc)


@_njit
def _push_ground(
    normal: float, along: float, across: float, twist: float, fx: float, fy: float, acc: np.ndarray
) -> None:
    acc[0] += (fx * along - fy * across) / MASS
    acc[1] += (fy * along + fx * across) / MASS
    acc[2] += normal / MASS
    acc[3] += twist / TURN_INERTIA
    acc[4] -= RADIUS * along / ROLL_INERTIA


@_njit
def _push_wall(
    normal: float,
    along: float,
    across: float,
    twist: float,
    nx: float,
    ny: float,
    fx: float,
    fy: float,
    acc: np.ndarray,
) -> None:
    facing, aside = fx * nx + fy * ny, -fy * nx + fx * ny
    acc[0] += (nx * normal - ny * along) / MASS
    acc[1] += (ny * normal + nx * along) / MASS
    acc[2] += across / MASS
    acc[3] -= RADIUS * along / TURN_INERTIA
    acc[4] += (RADIUS * facing * across + aside * twist) / ROLL_INERTIA


@_njit
def _solve_ground(
    body: np.ndarray, force: np.ndarray, fx: float, fy: float, acc: np.ndarray, hard: bool
) -> None:
    """The floor carries the ball, lets it roll, and resists slipping and turning on the spot."""
    depth = -body[Z]
    if depth <= 0:
        _push_ground(-force[0], -force[1], -force[2], -force[3], fx, fy, acc)
        force[:4] = 0.0
        return
    slip = body[VX] * fx + body[VY] * fy - RADIUS * body[ROLL]
    drift = -body[VX] * fy + body[VY] * fx
    a1, a2, a3 = 1 / MASS + RADIUS**2 / ROLL_INERTIA, 1 / MASS, 1 / TURN_INERTIA
    b0 = acc[2] + REPULSION * body[VZ]
    b1 = acc[0] * fx + acc[1] * fy - RADIUS * acc[4] + REPULSION * slip - a1 * force[ALONG]
    b2 = -acc[0] * fy + acc[1] * fx + REPULSION * drift - a2 * force[ACROSS]
    b3 = acc[3] + REPULSION * body[TURN] - a3 * force[TWIST]
    n, along, across, twist = force[0], force[1], force[2], force[3]
    _solve(depth, b0, b1, b2, b3, a1, a2, a3, force, hard)
    _push_ground(
        force[0] - n, force[1] - along, force[2] - across, force[3] - twist, fx, fy, acc
    )


@_njit
def _solve_wall(
    body: np.ndarray,
    contact: np.ndarray,
    force: np.ndarray,
    fx: float,
    fy: float,
    acc: np.ndarray,
    hard: bool,
) -> None:
    """A wall pushes back, and resists slipping sideways, up and down."""
    nx, ny = contact[NX], contact[NY]
    facing, aside = fx * nx + fy * ny, -fy * nx + fx * ny
    slide = -body[VX] * ny + body[VY] * nx - RADIUS * body[TURN]
    climb = body[VZ] + RADIUS * facing * body[ROLL]
    a1 = 1 / MASS + RADIUS**2 / TURN_INERTIA
    a2 = 1 / MASS + (RADIUS * facing) ** 2 / ROLL_INERTIA
    a3 = max(aside * aside, 1e-6) / ROLL_INERTIA
    b0 = acc[0] * nx + acc[1] * ny + REPULSION * (body[VX] * nx + body[VY] * ny)
    b1 = -acc[0] * ny + acc[1] * nx - RADIUS * acc[3] + REPULSION * slide - a1 * force[ALONG]
    b2 = acc[2] + RADIUS * facing * acc[4] + REPULSION * climb - a2 * force[ACROSS]
    b3 = aside * (acc[4] + REPULSION * body[ROLL]) - a3 * force[TWIST]
    n, along, across, twist = force[0], force[1], force[2], force[3]
    _solve(contact[DEPTH], b0, b1, b2, b3, a1, a2, a3, force, hard)
    _push_wall(
        force[0] - n, force[1] - along, force[2] - across, force[3] - twist, nx, ny, fx, fy, acc
    )


@_njit
def _solve(
    depth: float,
    b0: float,
    b1: float,
    b2: float,
    b3: float,
    a1: float,
    a2: float,
    a3: float,
    force: np.ndarray,
    hard: bool,
) -> None:
    """New forces of one contact, all others held: soft ones, then friction that does not give.

    `b` is how its accelerations miss what is wanted (b0 as it is, the others without its friction),
    and `a` what a unit of each force does to them.
    """
    if hard:
        _hard_friction(b1, b2, b3, a1, a2, a3, force)
        return
    part = min(depth / SOFT_DEPTH, 1.0)
    blend = 2 * part * part if part < 0.5 else 1 - 2 * (1 - part) ** 2
    hardness = SOFTEST + (HARDEST - SOFTEST) * blend
    soft = (1 - hardness) / hardness / MASS
    b0 -= force[NORMAL] / MASS + STIFFNESS * hardness * depth
    soft3 = soft / TWIST_ARM**2

    if b0 >= math.sqrt(b1 * b1 + b2 * b2 + (TWIST_ARM * b3) ** 2):
        force[:4] = 0.0
        return
    f0, f1, f2 = -b0 / (1 / MASS + soft), -b1 / (a1 + soft), -b2 / (a2 + soft)
    f3 = -b3 / (a3 + soft3)
    if f0 >= math.sqrt(f1 * f1 + f2 * f2 + (f3 / TWIST_ARM) ** 2):
        force[0], force[1], force[2], force[3] = f0, f1, f2, f3
        return
    _slipping(b0, b1, b2, TWIST_ARM * b3, a1, a2, TWIST_ARM**2 * a3, 0.5 / soft, force)


@_njit
def _slipping(
    b0: float,
    b1: float,
    b2: float,
    b3: float,
    a1: float,
    a2: float,
    a3: float,
    stiff: float,
    force: np.ndarray,
) -> None:
    """Forces on the surface of the friction cone; slip adds to the normal force there.

    Newton's method for the ratio of the normal force to what slip is left.
    """
    slope = force[SLOPE] if force[SLOPE] > 0 else stiff
    gain = 1 + stiff / MASS
    for _ in range(8):
        d1, d2, d3 = 1 + a1 * slope, 1 + a2 * slope, 1 + a3 * slope
        u1, u2, u3 = b1 / d1, b2 / d2, b3 / d3
        slip = math.sqrt(u1 * u1 + u2 * u2 + u3 * u3)
        less = (u1 * u1 * a1 / d1 + u2 * u2 * a2 / d2 + u3 * u3 * a3 / d3) / slip
        miss = (gain * slope - stiff) * slip + stiff * b0
        change = -miss / (gain * slip - (gain * slope - stiff) * less)
        slope = max(slope + change, 0.2 * slope)
        if abs(change) < 1e-3 * slope:
            break
    force[SLOPE] = slope
    u1, u2, u3 = b1 / (1 + a1 * slope), b2 / (1 + a2 * slope), b3 / (1 + a3 * slope)
    force[NORMAL] = slope * math.sqrt(u1 * u1 + u2 * u2 + u3 * u3)
    force[ALONG], force[ACROSS], force[TWIST] = -slope * u1, -slope * u2, -slope * u3 * TWIST_ARM


@_njit
def _hard_friction(
    b1: float, b2: float, b3: float, a1: float, a2: float, a3: float, force: np.ndarray
) -> None:
    """Friction that ends all slip, or as much as the normal force allows."""
    limit = force[NORMAL]
    b3, a3 = b3 * TWIST_ARM, a3 * TWIST_ARM**2
    extra = 0.0
    y1, y2, y3 = -b1 / a1, -b2 / a2, -b3 / a3
    size = math.sqrt(y1 * y1 + y2 * y2 + y3 * y3)
    if limit > 0 and size > limit:
        extra = force[EXTRA]
        for _ in range(8):
            y1, y2, y3 = -b1 / (a1 + extra), -b2 / (a2 + extra), -b3 / (a3 + extra)
            size = math.sqrt(y1 * y1 + y2 * y2 + y3 * y3)
            slope = y1 * y1 / (a1 + extra) + y2 * y2 / (a2 + extra) + y3 * y3 / (a3 + extra)
            change = size * size * (size / limit - 1) / slope
            extra = max(extra + change, 0.0)
            if abs(change) < 1e-3 * extra:
                break
        force[EXTRA] = extra
        y1, y2, y3 = -b1 / (a1 + extra), -b2 / (a2 + extra), -b3 / (a3 + extra)
    elif limit <= 0:
        y1 = y2 = y3 = 0.0
    force[ALONG], force[ACROSS], force[TWIST] = y1, y2, y3 * TWIST_ARM


@_njit
def _integrate(body: np.ndarray, acc: np.ndarray) -> None:
    body[VX] += DT * acc[0]
    body[VY] += DT * acc[1]
    body[VZ] += DT * acc[2]
    body[TURN] += DT * TURN_GAIN * acc[3]
    body[ROLL] += DT * ROLL_GAIN * acc[4]
    body[X] += DT * body[VX]
    body[Y] += DT * body[VY]
    body[Z] += DT * body[VZ]
    body[HEADING] += DT * body[TURN]


@_njit
def find_contacts(body: np.ndarray, walls: np.ndarray, contacts: np.ndarray) -> int:
    """Where the ball touches walls: their faces, or else a corner. `walls` has an outer border."""
    x, y = body[X], body[Y]
    i, j = int(math.floor(x / CELL)) + 1, int(math.floor(y / CELL)) + 1
    u, v = x - (i - 1) * CELL, y - (j - 1) * CELL
    di = -1 if u < RADIUS else (1 if u > CELL - RADIUS else 0)
    dj = -1 if v < RADIUS else (1 if v > CELL - RADIUS else 0)
    count = 0
    if di != 0 and walls[j, i + di]:
        contacts[count, NX], contacts[count, NY] = -di, 0.0
        contacts[count, DEPTH] = RADIUS - (u if di < 0 else CELL - u)
        count += 1
    if dj != 0 and walls[j + dj, i]:
        contacts[count, NX], contacts[count, NY] = 0.0, -dj
        contacts[count, DEPTH] = RADIUS - (v if dj < 0 else CELL - v)
        count += 1
    if count == 0 and di != 0 and dj != 0 and walls[j + dj, i + di]:
        count = _corner(u - (0.0 if di < 0 else CELL), v - (0.0 if dj < 0 else CELL), contacts)
    return count


@_njit
def _corner(dx: float, dy: float, contacts: np.ndarray) -> int:
    length = math.hypot(dx, dy)
    if length >= RADIUS or length == 0:
        return 0
    contacts[0, NX], contacts[0, NY] = dx / length, dy / length
    contacts[0, DEPTH] = RADIUS - length
    return 1
