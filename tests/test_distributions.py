"Distributions of levels: the families of a mixture are the engine's own, and a level belongs to its seed"

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from goalmisgen.env.distributions import (
    CORNERS,
    Mixture,
    distribution_text,
    family_of,
    mark_corner,
    parse_distribution,
    corner_cells,
    sample_levels,
)
from goalmisgen.env.levels import OBJ1, OBJ2, SPACE, MazeSpec, generate, make_levels

CORNER = MazeSpec(15, dead_ends=True, random_size=True, region=5)
ANYWHERE = MazeSpec(15, dead_ends=True, random_size=True)
specs = st.builds(
    MazeSpec,
    size=st.sampled_from(range(3, 26, 2)),
    dead_ends=st.booleans(),
    random_size=st.booleans(),
    region=st.none() | st.integers(0, 25),
)


@settings(max_examples=80, deadline=None)
@given(st.lists(specs, min_size=2, max_size=4), st.data())
def test_text_and_back(found, data):
    found = list({MazeSpec(9, (10.0,), s.dead_ends, s.random_size, s.region): 0 for s in found})
    weights = np.array(data.draw(st.lists(st.integers(1, 1000), min_size=len(found), max_size=len(found))))
    value = found[0] if len(found) == 1 else Mixture(tuple(found), tuple(weights / weights.sum()))
    again = parse_distribution(distribution_text(value))
    if len(found) == 1:
        assert again == value
    else:
        assert again.specs == value.specs and np.allclose(again.shares, value.shares, atol=1e-9)


@pytest.mark.parametrize('dose', [0.003, 0.03, 0.5])
def test_a_level_belongs_to_its_seed(dose):
    mixture = Mixture((CORNER, ANYWHERE), (1 - dose, dose))
    seeds = np.arange(3000)[::-1]
    family = family_of(mixture, seeds)
    assert abs(family.mean() - dose) < 4 * np.sqrt(dose * (1 - dose) / 3000)
    levels = sample_levels(mixture, seeds[:300])
    for i in (0, 7, 299, *np.flatnonzero(family[:300])[:5]):
        alone = generate(mixture.specs[family[i]], [seeds[i]])
        assert (levels.grid[i] == alone.grid[0]).all() and levels.seeds[i] == seeds[i]
        assert (sample_levels(mixture, [seeds[i]]).grid[0] == levels.grid[i]).all()


def test_doses_are_nested():
    seeds = np.arange(20_000)
    shifted = [
        set(seeds[family_of(Mixture((CORNER, ANYWHERE), (1 - d, d)), seeds) == 1]) for d in (0.01, 0.03, 0.1)
    ]
    assert all(a < b for a, b in itertools.pairwise(shifted))


def test_the_choice_of_a_family_says_nothing_about_the_maze():
    seeds = np.arange(20_000)
    family = family_of(Mixture((CORNER, ANYWHERE), (0.5, 0.5)), seeds)
    levels = generate(ANYWHERE, seeds)
    size = (levels.grid[:, levels.grid.shape[1] // 2] != 1).sum(1)
    assert abs(np.corrcoef(family, size)[0, 1]) < 0.03


@pytest.mark.parametrize('spec', [MazeSpec(7), ANYWHERE, MazeSpec(25, dead_ends=True)])
def test_corners_are_where_the_maze_ends(spec):
    levels = generate(spec, range(200))
    last = (
        levels.size - 1 - levels.start.astype(int)
    )  # mazes are centred, and the mouse starts at their bottom left
    assert (corner_cells(levels, 'top right corner') == last).all()
    assert (corner_cells(levels, 'top left corner') == np.stack([levels.start[:, 0], last[:, 1]], 1)).all()
    assert (
        corner_cells(levels, 'bottom right corner') == np.stack([last[:, 0], levels.start[:, 1]], 1)
    ).all()
    for corner in CORNERS:
        marked, coincide = mark_corner(levels, corner)
        x, y = corner_cells(levels, corner).T
        n = np.arange(len(levels))
        assert (marked.grid[n, y, x] == np.where(coincide, OBJ1, OBJ2)).all()
        changed = marked.grid != levels.grid
        assert (changed.sum((1, 2)) == ~coincide).all() and (levels.grid[changed] == SPACE).all()


def test_what_has_no_such_corner():
    walled = np.ones((1, 5, 5), int)
    walled[0, 0] = walled[0, :, 2] = 0
    walled[0, 0, 4] = OBJ1
    with pytest.raises(ValueError, match='wall'):
        mark_corner(make_levels(walled), 'top right corner')
    with pytest.raises(ValueError, match='second object'):
        mark_corner(generate(MazeSpec(rewards=(10.0, -10.0)), range(3)), CORNERS[0])
    with pytest.raises(ValueError, match='middle'):
        mark_corner(generate(MazeSpec(), range(3)), 'middle')


@pytest.mark.parametrize(
    'text',
    [
        '',
        '5',
        '5x7',
        '5x5,',
        '4x4',
        '7x7, region',
        '7x7, region 30',
        '7x7, dead ends, dead ends',
        '1 (7x7)',
        '0.5 (7x7) + 0.5 (9x9)',
        '0.5 (7x7) + 0.6 (7x7, region 2)',
        '-0.5 (7x7) + 1.5 (7x7, region 2)',
        'nan (7x7) + 1 (7x7, region 2)',
        '0.5 (7x7) + 0.5 (7x7)',
        '7x7; region 3',
        '7x7, rewards',
        '7x7, rewards inf',
    ],
)
def test_bad_texts(text):
    with pytest.raises(ValueError):
        parse_distribution(text)
