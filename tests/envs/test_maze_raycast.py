"""Pictures against geometry worked by hand: 80° high, 0.9 m above the floor, 5.71° downwards."""

import numpy as np
import pytest

from envs.memory_maze import raycast

ROOM = np.ones((12, 12), np.uint8)  # free from 0 to 10 cells
ROOM[1:-1, 1:-1] = 0
GREEN, RED, BLUE = 1, 0, 2
BEHIND = raycast.EYE_AHEAD  # so that the camera is where a test wants it


def look(x, y, heading=0.0, targets=(), walls=ROOM, size=64, asked=0, paint=None):
    """A picture from a camera at (x, y), in cells; walls are bright green, unlike floor and sky."""
    out = np.zeros((1, size, size, 3), np.uint8)
    pose = (x - BEHIND * np.cos(heading), y - BEHIND * np.sin(heading), heading)
    raycast.draw(
        np.array([pose]),
        walls[None],
        (np.full_like(walls, 2) if paint is None else paint)[None],
        np.zeros_like(walls)[None],
        np.array(targets, float).reshape(1, -1, 2),
        np.array([asked]),
        out,
    )
    return out[0].astype(int)


def is_wall(picture):
    """Where green is strongest: the sky and the floor are blue, objects here red."""
    return picture[..., 1] >= picture.max(-1)


def is_red(picture):
    """Where the first object is."""
    return (picture[..., 0] > 2 * picture[..., 1]) & (picture[..., 0] > 40)


def test_a_wall_ahead_stands_where_geometry_has_it():
    """Fails where height, pitch or field of view are wrong.

    3 m (1.5 cells) ahead: its top is 0.6 m above the eye, 11.31° + 5.71° from the axis, its foot
    16.70° - 5.71° below it. 32 ∓ 32 tan / tan 40° gives rows 20.33 and 39.41.
    """
    column = is_wall(look(8.5, 5.0))[2:-2, 32]
    assert np.flatnonzero(column)[[0, -1]].tolist() == [20 - 2, 38 - 2]


def test_there_is_no_fish_eye():
    """Fails where the distance is measured along rays: the edge of a wall ahead would bend."""
    inside = is_wall(look(8.0, 5.0))[2:-2, 2:-2]
    assert (inside == inside[:, :1]).all()


def test_columns_lie_where_geometry_has_them():
    """Fails where the picture is mirrored, or columns are spread evenly over angles.

    A passage 1 to 2 cells to the left, 3 to 4 cells ahead, with a red wall behind it. That is seen
    from slope 1/3 (its near right edge) to slope 2/4 (its far left edge). On the horizon, row 28,
    from column 32 - 32 · 1/2 · 1.004 / tan 40° = 12.9 to 32 - 32 · 1/3 · 1.004 / tan 40° = 19.2.
    """
    walls, paint = ROOM.copy(), np.full_like(ROOM, 2)
    walls[:, 1 + 8] = 1
    walls[1 + 6, 1 + 8] = 0
    paint[:, -1] = 6
    row = look(5.0, 5.0, walls=walls, paint=paint)[28, 2:-2]
    assert (np.flatnonzero(row[:, 0] > 2 * row[:, 1]) + 2).tolist() == [13, 14, 15, 16, 17, 18]


def test_objects_hide_and_are_hidden():
    """Fails where a ball shines through a wall, stands behind the wall it is before, or floats."""
    pillar = ROOM.copy()
    pillar[1 + 5, 1 + 5] = 1
    ball = [(7.5, 5.5)]
    assert is_red(look(4.4, 5.5, targets=ball))[2:-2, 2:-2].sum() > 20
    assert not is_red(look(4.4, 5.5, targets=ball, walls=pillar))[2:-2, 2:-2].any()
    assert not is_red(look(4.4, 5.5, np.pi, targets=ball))[2:-2, 2:-2].any()


def test_the_nearer_object_is_in_front():
    """Fails where objects are drawn in the order of their numbers."""
    for red, green in (((5.0, 5.0), (6.5, 5.0)), ((6.5, 5.0), (5.0, 5.0))):
        picture = look(3.0, 5.0, targets=[red, green])
        foot = picture[2:-2, 32][is_wall(picture)[2:-2, 32] | is_red(picture)[2:-2, 32]][-1]
        assert (foot[0] > foot[1]) == (red[0] < green[0])


def test_an_object_is_half_a_ball_of_sixty_centimetres():
    """Fails where its size or its height is wrong.

    2 cells (4 m) ahead: the ball's outline is asin(0.6 / 4) = 8.6° to either side of its centre
    where it touches the floor; the eye sees it as wide as 32 tan 8.6° / tan 40° · 2 = 11.6 pixels,
    but for the tilt. Its foot is the floor's at 3.4 m: 14.83° - 5.71° below the axis, row 38.1.
    """
    red = is_red(look(4.0, 5.0, targets=[(6.0, 5.0)]))[2:-2, 2:-2]
    rows, columns = np.flatnonzero(red.any(1)) + 2, np.flatnonzero(red.any(0)) + 2
    assert 11 <= len(columns) <= 12
    assert abs(columns.mean() - 31.5) <= 0.5
    assert rows[-1] in (37, 38)


def test_light_comes_from_the_camera():
    """Fails where a wall seen at 60° is as bright as one seen straight: 0.6 against 0.9."""
    straight = look(8.0, 5.0)[30, 32].sum()
    slanted = look(8.0, 5.0, np.radians(60))[30, 32].sum()
    assert slanted / straight == pytest.approx(0.6 / 0.9, abs=0.08)


def test_the_border_has_the_colour_asked_for():
    """Fails where the border is missing, too wide, or of another object."""
    picture = look(5.0, 5.0, asked=BLUE)
    shade = (raycast.COLOURS[BLUE] * 0.7).astype(int)
    edge = np.ones((64, 64), bool)
    edge[2:-2, 2:-2] = False
    assert (picture[edge] == shade).all()
    assert (picture[2, 2:-2] != shade).any(-1).all()


@pytest.mark.parametrize("size", [16, 100, 256])
def test_pictures_of_any_size_show_the_same(size):
    """Fails where something is counted in pixels of 64."""
    picture = look(8.0, 5.0, 0.3, size=size)
    edge = raycast.border_width(size)
    share = is_wall(picture)[edge:-edge, edge:-edge].mean()
    assert share == pytest.approx(is_wall(look(8.0, 5.0, 0.3))[2:-2, 2:-2].mean(), abs=0.05)


def test_every_pose_can_be_drawn():
    """Fails where a ray runs out of the maze or a texture is read beyond its end."""
    rng = np.random.default_rng(0)
    walls = (rng.random((12, 12)) < 0.3).astype(np.uint8)
    walls[[0, -1]] = walls[:, [0, -1]] = 1
    for _ in range(300):
        x, y = rng.uniform(0.1, 9.9, 2)
        if not walls[int(y) + 1, int(x) + 1]:
            look(x, y, rng.uniform(0, 7), targets=rng.uniform(0, 10, (6, 2)), walls=walls)
    for heading in np.arange(8) * np.pi / 4:  # along the raster
        assert look(5.0, 5.0, heading)[2:-2, 2:-2].std() > 0
