"""How the body moves: a ball that is driven and steered, with friction against floor and walls.

Unusual: not a table of calibrated steps but the original's mechanics, reduced to what a ball can
do: slide in three directions, turn, and roll about its side axis. A ball that pushes against a wall
does not slide along it: friction holds it and turns it to face the wall, so an agent that bumps
must turn away. Constants are the original's, and so are its soft contacts with elliptic friction
cones, which let go of the floor for moments while the ball turns; they are solved contact by
contact, at the original's 50 substeps an action. Units: metres, seconds, kilograms, radians.

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
SWEEPS = 2
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
# Scratch memory: five accelerations (three directions, turning, rolling), and where forward is.
FX, FY, SCRATCH = 5, 6, 7

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
    contacts, scratch = np.zeros((2, 3)), np.zeros(SCRATCH)
    for n in range(len(bodies)):
        touched[n, :] = False
        if active[n]:
            nearby = False
            for k in range(targets.shape[1]):
                dx, dy = targets[n, k, 0] - bodies[n, X], targets[n, k, 1] - bodies[n, Y]
                nearby |= dx * dx + dy * dy < NEARBY * NEARBY
            # Out of reach of them all, none is looked for.
            near = targets[n] if nearby else targets[n, :0]
            act(bodies[n], walls[n], actions[n], contacts, forces[n], scratch, near, touched[n])


@_njit
def act(
    body: np.ndarray,
    walls: np.ndarray,
    action: int,
    contacts: np.ndarray,
    forces: np.ndarray,
    scratch: np.ndarray,
    targets: np.ndarray,
    touched: np.ndarray,
) -> None:
    """Move one body for a quarter of a second; `contacts` (2, 3) and `scratch` (7) are memory."""
    scratch[FX], scratch[FY] = math.cos(body[HEADING]), math.sin(body[HEADING])
    drive, steer = CONTROLS[action, 0], CONTROLS[action, 1]
    for _ in range(SUBSTEPS):
        _substep(body, walls, drive, steer, contacts, forces, scratch)
        height = body[Z] + RADIUS
        for k in range(len(targets)):
            dx, dy = targets[k, 0] - body[X], targets[k, 1] - body[Y]
            if dx * dx + dy * dy + height * height < TOUCH * TOUCH:
                touched[k] = True


@_njit
def _substep(
    body: np.ndarray,
    walls: np.ndarray,
    drive: float,
    steer: float,
    contacts: np.ndarray,
    forces: np.ndarray,
    acc: np.ndarray,
) -> None:
    """Move one body by `DT`. Forces start from those of the substep before."""
    count = find_contacts(body, walls, contacts)
    for c in range(1 + count, 3):
        forces[c, NORMAL] = forces[c, ALONG] = forces[c, ACROSS] = forces[c, TWIST] = 0.0
    acc[0] = acc[1] = 0.0
    acc[2] = -GRAVITY
    acc[3] = (STEER * steer - TURN_DAMPING * body[TURN]) / TURN_INERTIA
    acc[4] = (DRIVE * drive - ROLL_DAMPING * body[ROLL]) / ROLL_INERTIA
    _push(forces, GROUND, contacts, 1.0, acc)
    for c in range(count):
        _push(forces, 1 + c, contacts, 1.0, acc)
    for _ in range(1 if count == 0 else SWEEPS):
        _solve_ground(body, contacts, forces, acc, False)
        for c in range(count):
            _solve_wall(body, contacts, c, forces, acc, False)
    for _ in range(1 if count == 0 else SWEEPS):
        _solve_ground(body, contacts, forces, acc, True)
        for c in range(count):
            _solve_wall(body, contacts, c, forces, acc, True)
    _integrate(body, acc)


@_njit
def _push(forces: np.ndarray, c: int, contacts: np.ndarray, part: float, acc: np.ndarray) -> None:
    """Add what the forces of a contact do, or with part -1 take it away."""
    fx, fy = acc[FX], acc[FY]
    normal, along = part * forces[c, NORMAL], part * forces[c, ALONG]
    across, twist = part * forces[c, ACROSS], part * forces[c, TWIST]
    if c == GROUND:
        acc[0] += (fx * along - fy * across) / MASS
        acc[1] += (fy * along + fx * across) / MASS
        acc[2] += normal / MASS
        acc[3] += twist / TURN_INERTIA
        acc[4] -= RADIUS * along / ROLL_INERTIA
        return
    nx, ny = contacts[c - 1, NX], contacts[c - 1, NY]
    facing, aside = fx * nx + fy * ny, -fy * nx + fx * ny
    acc[0] += (nx * normal - ny * along) / MASS
    acc[1] += (ny * normal + nx * along) / MASS
    acc[2] += across / MASS
    acc[3] -= RADIUS * along / TURN_INERTIA
    acc[4] += (RADIUS * facing * across + aside * twist) / ROLL_INERTIA


@_njit
def _solve_ground(
    body: np.ndarray, contacts: np.ndarray, forces: np.ndarray, acc: np.ndarray, hard: bool
) -> None:
    """The floor carries the ball, lets it roll, and resists slipping and turning on the spot."""
    fx, fy = acc[FX], acc[FY]
    _push(forces, GROUND, contacts, -1.0, acc)
    slip = body[VX] * fx + body[VY] * fy - RADIUS * body[ROLL]
    drift = -body[VX] * fy + body[VY] * fx
    _solve(
        -body[Z],
        acc[2] + REPULSION * body[VZ],
        acc[0] * fx + acc[1] * fy - RADIUS * acc[4] + REPULSION * slip,
        -acc[0] * fy + acc[1] * fx + REPULSION * drift,
        acc[3] + REPULSION * body[TURN],
        1 / MASS + RADIUS**2 / ROLL_INERTIA,
        1 / MASS,
        1 / TURN_INERTIA,
        forces,
        GROUND,
        hard,
    )
    _push(forces, GROUND, contacts, 1.0, acc)


@_njit
def _solve_wall(
    body: np.ndarray,
    contacts: np.ndarray,
    c: int,
    forces: np.ndarray,
    acc: np.ndarray,
    hard: bool,
) -> None:
    """A wall pushes back, and resists slipping sideways, up and down."""
    nx, ny = contacts[c, NX], contacts[c, NY]
    _push(forces, 1 + c, contacts, -1.0, acc)
    facing, aside = acc[FX] * nx + acc[FY] * ny, -acc[FY] * nx + acc[FX] * ny
    slide = -body[VX] * ny + body[VY] * nx - RADIUS * body[TURN]
    climb = body[VZ] + RADIUS * facing * body[ROLL]
    # Climbing and twisting both roll the ball: each is solved with the other as it was.
    mixed = RADIUS * facing * aside / ROLL_INERTIA
    _solve(
        contacts[c, DEPTH],
        acc[0] * nx + acc[1] * ny + REPULSION * (body[VX] * nx + body[VY] * ny),
        -acc[0] * ny + acc[1] * nx - RADIUS * acc[3] + REPULSION * slide,
        acc[2] + RADIUS * facing * acc[4] + REPULSION * climb + mixed * forces[1 + c, TWIST],
        aside * (acc[4] + REPULSION * body[ROLL]) + mixed * forces[1 + c, ACROSS],
        1 / MASS + RADIUS**2 / TURN_INERTIA,
        1 / MASS + (RADIUS * facing) ** 2 / ROLL_INERTIA,
        max(aside * aside, 1e-6) / ROLL_INERTIA,
        forces,
        1 + c,
        hard,
    )
    _push(forces, 1 + c, contacts, 1.0, acc)


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
    forces: np.ndarray,
    c: int,
    hard: bool,
) -> None:
    """New forces of contact `c`, all others held: soft ones, then friction that does not give.

    `b` is how the accelerations without this contact miss what is wanted (away from the other
    body, along, across, twist), and `a` what a unit of each force of friction does to them.
    """
    if hard:
        _hard_friction(b1, b2, b3, a1, a2, a3, forces, c)
        return
    if depth <= 0:
        forces[c, NORMAL] = forces[c, ALONG] = forces[c, ACROSS] = forces[c, TWIST] = 0.0
        return
    part = min(depth / SOFT_DEPTH, 1.0)
    blend = 2 * part * part if part < 0.5 else 1 - 2 * (1 - part) ** 2
    hardness = SOFTEST + (HARDEST - SOFTEST) * blend
    soft = (1 - hardness) / hardness / MASS
    b0 -= STIFFNESS * hardness * depth
    soft3 = soft / TWIST_ARM**2

    if b0 >= math.sqrt(b1 * b1 + b2 * b2 + (TWIST_ARM * b3) ** 2):
        forces[c, NORMAL] = forces[c, ALONG] = forces[c, ACROSS] = forces[c, TWIST] = 0.0
        return
    f0, f1, f2 = -b0 / (1 / MASS + soft), -b1 / (a1 + soft), -b2 / (a2 + soft)
    f3 = -b3 / (a3 + soft3)
    if f0 >= math.sqrt(f1 * f1 + f2 * f2 + (f3 / TWIST_ARM) ** 2):
        forces[c, NORMAL], forces[c, ALONG], forces[c, ACROSS], forces[c, TWIST] = f0, f1, f2, f3
        return
    _slipping(b0, b1, b2, TWIST_ARM * b3, a1, a2, TWIST_ARM**2 * a3, 0.5 / soft, forces, c)


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
    forces: np.ndarray,
    c: int,
) -> None:
    """Forces on the surface of the friction cone; slip adds to the normal force there.

    Newton's method for the ratio of the normal force to what slip is left.
    """
    slope = forces[c, SLOPE] if forces[c, SLOPE] > 0 else stiff
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
    forces[c, SLOPE] = slope
    u1, u2, u3 = b1 / (1 + a1 * slope), b2 / (1 + a2 * slope), b3 / (1 + a3 * slope)
    forces[c, NORMAL] = slope * math.sqrt(u1 * u1 + u2 * u2 + u3 * u3)
    forces[c, ALONG], forces[c, ACROSS], forces[c, TWIST] = (
        -slope * u1,
        -slope * u2,
        -slope * u3 * TWIST_ARM,
    )


@_njit
def _hard_friction(
    b1: float, b2: float, b3: float, a1: float, a2: float, a3: float, forces: np.ndarray, c: int
) -> None:
    """Friction that ends all slip, or as much as the normal force allows."""
    limit = forces[c, NORMAL]
    b3, a3 = b3 * TWIST_ARM, a3 * TWIST_ARM**2
    extra = 0.0
    y1, y2, y3 = -b1 / a1, -b2 / a2, -b3 / a3
    size = math.sqrt(y1 * y1 + y2 * y2 + y3 * y3)
    if limit > 0 and size > limit:
        extra = forces[c, EXTRA]
        for _ in range(8):
            y1, y2, y3 = -b1 / (a1 + extra), -b2 / (a2 + extra), -b3 / (a3 + extra)
            size = math.sqrt(y1 * y1 + y2 * y2 + y3 * y3)
            slope = y1 * y1 / (a1 + extra) + y2 * y2 / (a2 + extra) + y3 * y3 / (a3 + extra)
            change = size * size * (size / limit - 1) / slope
            extra = max(extra + change, 0.0)
            if abs(change) < 1e-3 * extra:
                break
        forces[c, EXTRA] = extra
        y1, y2, y3 = -b1 / (a1 + extra), -b2 / (a2 + extra), -b3 / (a3 + extra)
    elif limit <= 0:
        y1 = y2 = y3 = 0.0
    forces[c, ALONG], forces[c, ACROSS], forces[c, TWIST] = y1, y2, y3 * TWIST_ARM


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
    angle = DT * body[TURN]
    body[HEADING] += angle
    # A small angle: its cosine and sine by their series.
    square = angle * angle
    cosine, sine = 1 - square / 2 + square * square / 24, angle * (1 - square / 6)
    fx, fy = acc[FX], acc[FY]
    acc[FX], acc[FY] = fx * cosine - fy * sine, fx * sine + fy * cosine


@_njit
def find_contacts(body: np.ndarray, walls: np.ndarray, contacts: np.ndarray) -> int:
    """Where the ball touches walls: their faces, or else a corner. `walls` has an outer border."""
    x, y = body[X], body[Y]
    i, j = math.floor(x / CELL) + 1, math.floor(y / CELL) + 1
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
