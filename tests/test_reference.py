"Levels, frames, episodes and level orders are those recorded from the paper's own environment"

import re
from collections import Counter
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.stats import chi2

from goalmisgen.env.levels import (
    DUEL,
    OBJ1,
    OBJ2,
    TRAIN,
    WALL,
    MazeSpec,
    _generate,
    census,
    find_levels,
    generate,
    random_words,
)
from goalmisgen.env.maze import MazeEnv
from goalmisgen.env.random import level_seeds
from goalmisgen.env.table import ACTION_MOVES, StateTable
from goalmisgen.env.render import Renderer, asset_dir, human_view

REFERENCE = Path(__file__).parents[2] / 'shared/reference'
pytestmark = pytest.mark.skipif(
    not REFERENCE.is_dir(), reason='the recorded reference data does not lie beside this repository'
)

PAIR = ('red line', 'yellow gem')
WORLDS = dict(
    levels_train=(TRAIN, ('yellow line',)),
    levels_duel=(DUEL, PAIR),
    levels_duel_wd9=(MazeSpec(9, (10.0, -10.0)), PAIR),
    levels_duel_wd25=(MazeSpec(25, (10.0, -10.0)), PAIR),
)
BACKGROUNDS = dict(black='black', textured='tex')  # ours: the reference's
each_world = pytest.mark.parametrize('name', WORLDS)
each_background = pytest.mark.parametrize('background', BACKGROUNDS)


@lru_cache(maxsize=2)
def recorded(name):
    with np.load(REFERENCE / f'{name}.npz') as z:
        return dict(z)


def cells(grid, code):
    "Where the one cell with this code is: (x, y) in each level"
    assert ((grid == code).sum((1, 2)) == 1).all()
    return np.argwhere(grid == code)[:, :0:-1]


# Levels


@each_world
def test_levels(name):
    spec, r = WORLDS[name][0], recorded(name)
    levels = generate(spec, r['seeds'])
    assert len(levels) >= 100
    np.testing.assert_array_equal(levels.grid, r['grid'])
    np.testing.assert_array_equal(levels.background, r['background_index'])
    np.testing.assert_array_equal(levels.start, r['agent_xy'])
    assert (r['maze_dim'] == spec.size).all()
    for code, goal in ((OBJ1, 'goal1_xy'), (OBJ2, 'goal2_xy'))[: len(spec.rewards)]:
        np.testing.assert_array_equal(cells(levels.grid, code), r[goal])


@each_world
def test_random_numbers_of_levels(name):
    """The first draw is the recorded one, and as many are spent: a generator that spends one too many is
    caught even where the level is right"""
    spec, r = WORLDS[name][0], recorded(name)
    np.testing.assert_array_equal((random_words(r['seeds'], 1)[0] / 2**32).astype(np.float32), r['bg_pct_x'])
    _, spent = _generate(spec, r['seeds'].astype(np.uint32), 4000)
    np.testing.assert_array_equal((spent - 1) % 624 + 1, r['rng_pos'])


def test_one_object_or_two():
    "The two games share their walls and the first object, seed by seed"
    one, two = generate(TRAIN, range(500)), generate(DUEL, range(500))
    np.testing.assert_array_equal(one.grid, np.where(two.grid == OBJ2, 0, two.grid))


def test_census_layouts():
    """The eleven layouts and 204 levels, and how often each comes in 100,000 seeds: exactly from the seeds,
    within chance from the probabilities"""
    r, c, levels = recorded('layouts5'), census(TRAIN), generate(TRAIN, range(100_000))
    walls, prob = c.layouts

    def key(w):
        return np.asarray(w, bool).tobytes()

    expected = {key(w): 1e5 * p for w, p in zip(walls, prob)}
    assert {key(w) for w in r['walls']} == set(expected) and len(expected) == 11
    assert Counter(key(g == WALL) for g in levels.grid) == {key(w): n for w, n in zip(r['walls'], r['count'])}
    assert 0.001 < spread(r['count'], [expected[key(w)] for w in r['walls']]) < 0.999


def test_census_goals():
    r, c = recorded('layouts5'), census(TRAIN)
    layout = {w.astype(bool).tobytes(): i for i, w in enumerate(r['walls'])}
    which = np.array([layout[(g == WALL).tobytes()] for g in c.levels.grid])
    x, y = cells(c.levels.grid, OBJ1).T
    counts = r['goal_count'][which, y, x]
    assert len(c) == (r['goal_count'] > 0).sum() == 204 and counts.sum() == 100_000
    np.testing.assert_array_equal(
        np.bincount(find_levels(generate(TRAIN, range(100_000)), c.levels), minlength=204), counts
    )
    assert 0.001 < spread(counts, 1e5 * c.prob) < 0.999


def spread(observed, expected):
    "Probability that chance alone puts counts at least as far from their expectation"
    observed, expected = np.asarray(observed), np.asarray(expected)
    return chi2.sf(((observed - expected) ** 2 / expected).sum(), len(observed) - 1)


# Frames


@each_background
@each_world
def test_first_frames(name, background):
    spec, objects = WORLDS[name]
    r = recorded(name)
    levels = generate(spec, r['frames_seeds'])
    frames = Renderer(spec.size, objects, background).first_frames(levels).numpy()
    np.testing.assert_array_equal(frames, r[f'frames_{BACKGROUNDS[background]}'])


@each_background
@pytest.mark.parametrize('i', range(17))
def test_objects(i, background):
    r = recorded('objects')
    level = generate(DUEL, [int(r['level'])])
    for objects, place in (((r['names'][i], 'white gem'), 'obj1'), (('white gem', r['names'][i]), 'obj2')):
        frame = Renderer(5, objects, background).first_frames(level)[0].numpy()
        np.testing.assert_array_equal(
            frame, r[f'frames_{BACKGROUNDS[background]}_as_{place}'][i], err_msg=f'{objects}'
        )


@each_background
@pytest.mark.parametrize('i', range(5))
def test_human_view(i, background):
    """Close to the recorded smooth picture. Two grey levels are the bound: the worst of the ten is off by
    1.97, wrong pictures by 3.5 and more"""
    r = recorded('human512')
    levels = generate(DUEL, r['seeds'])
    real = r[f'human512_{BACKGROUNDS[background]}'][i].astype(int)

    def off(picture):
        return abs(picture - real).mean()

    ours = human_view(levels, i, background=background)
    wrong = [
        ours[:, ::-1],
        ours[::-1],
        human_view(levels, (i + 1) % 5, background=background),
        human_view(levels, i, PAIR[::-1], background),
    ]
    assert off(ours) < 2 < 3.5 < min(map(off, wrong))
    assert off(ours) < off(human_view(levels, i, background=background, facing=1))


# Episodes


@pytest.mark.parametrize('i', range(100))
def test_episode(i):
    r = recorded('episodes')
    seed, n, actions = int(r['level_seed'][i]), r['length'][i], r['actions'][i].tolist()
    background = 'textured' if r['textured'][i] else 'black'
    objects = str(r['obj1'][i]), str(r['obj2'][i])
    env = MazeEnv(1, DUEL, background, num_levels=1, start_level=seed, objects=objects)
    for t in range(n + 1):
        x, y = r['agent_xy'][i, t] - 0.5
        here = [int(v[env.state]) for v in (env.table.cell, env.table.facing)]
        assert here == [x + 5 * y, r['is_reflected'][i, t]], f'place after {t} steps'
        assert int(env.time) == r['cur_time'][i, t], f'time after {t} steps'
        info = [int(v) for v in (env.prev_level_seed, env.prev_level_complete, env.level_seed)]
        assert info == r['info'][i, t].tolist(), f'info after {t} steps'
        np.testing.assert_array_equal(
            env.frames()[0].numpy(), r['frames'][i, t], err_msg=f'frame after {t} steps'
        )
        if t < n:
            reward, done = env.step([actions[t]])
            assert (reward.item(), done.item()) == (r['rewards'][i, t], r['dones'][i, t]), f'step {t}'


def test_state_table():
    "Every recorded step is a look-up in the table of states"
    r = recorded('episodes')
    table = StateTable(generate(DUEL, r['level_seed']), DUEL.rewards)
    cell = (r['agent_xy'] - 0.5) @ [1, 5]
    row = {
        key: i for i, key in enumerate(zip(*(v.tolist() for v in (table.level, table.cell, table.facing))))
    }
    place = [
        [row[i, int(cell[i, t]), int(r['is_reflected'][i, t])] for t in range(n + 1)]
        for i, n in enumerate(r['length'])
    ]
    here, there = (np.concatenate([p[k : len(p) - 1 + k] for p in place]) for k in (0, 1))
    taken = r['actions'] >= 0
    move = np.array(ACTION_MOVES)[r['actions'][taken]]
    assert len(here) == taken.sum() == 2893
    np.testing.assert_array_equal(table.next[here, move], there)
    np.testing.assert_array_equal(np.array([0, 10, -10])[table.outcome[here, move]], r['rewards'][taken])


@pytest.mark.parametrize(
    'key',
    ['num4_nl100000_sl0_rs0', 'num4_nl0_sl0_rs0', 'num2_nl500_sl7_rs123', 'num3_nl100000_sl0_rs2147483647'],
)
def test_level_order(key):
    r = recorded('level_seed_sequences')[key]
    n, num_levels, start, seed = map(int, re.findall(r'\d+', key))
    np.testing.assert_array_equal(level_seeds(seed, n, len(r), num_levels, start), r)
    env = MazeEnv(n, num_levels=num_levels, start_level=start, seed=seed)
    for row in r[1:]:
        env.step([-1] * n)
        assert env.level_seed.tolist() == row.tolist()


# Other games of the same engine, and which specs they are

RANDOM = MazeSpec(15, random_size=True, dead_ends=True)
DECOY = replace(RANDOM, rewards=(10.0, 0.0))
GAMES = dict(
    maze=RANDOM,
    maze_aisc_rr0=replace(RANDOM, region=0),
    maze_aisc_rr5=replace(RANDOM, region=5),
    maze_aisc_rr10=replace(RANDOM, region=10),
    maze_yellowline=RANDOM,
    maze_redline_yellowgem=DECOY,
    maze_yellowstar_redgem=DECOY,
    maze_yellowline_test=TRAIN,
    maze_redline_yellowgem_test=MazeSpec(rewards=(10.0, 0.0)),
)
SPRITES = dict(
    maze=['misc_assets/cheese'], maze_yellowstar_redgem=['kenney/Items/star', 'kenney/Items/gemRed']
)
SPRITES |= {f'maze_aisc_rr{n}': SPRITES['maze'] for n in (0, 5, 10)}
each_mode = pytest.mark.parametrize('mode', ['easy', 'hard'])


def game_levels(game, mode):
    spec = GAMES[game] if mode == 'easy' else replace(GAMES[game], size=25)
    return spec, generate(spec, range(5))


def test_every_game_is_named():
    keys = recorded('other_games').keys()
    assert {k.rsplit('_', 2 if k.endswith(('frames', 'grid')) else 3)[0] for k in keys} == set(GAMES)


@each_mode
@pytest.mark.parametrize('game', GAMES)
def test_other_games(game, mode):
    r = recorded('other_games')
    spec, levels = game_levels(game, mode)
    np.testing.assert_array_equal(levels.grid, r[f'{game}_{mode}_grid'])
    dim = spec.size - 2 * levels.start.astype(int)  # the maze is centred, and the mouse starts in its corner
    np.testing.assert_array_equal(dim, np.repeat(r[f'{game}_{mode}_maze_dim'][:, None], 2, 1))


@each_mode
@pytest.mark.parametrize('game', SPRITES)
def test_frames_of_other_games(game, mode):
    "Those whose sprites are Procgen's own"
    spec, levels = game_levels(game, mode)
    sprites = [np.array(Image.open(asset_dir() / f'{name}.png').convert('RGBA')) for name in SPRITES[game]]
    frames = Renderer(spec.size, sprites, 'textured').first_frames(levels).numpy()
    np.testing.assert_array_equal(frames, recorded('other_games')[f'{game}_{mode}_frames'])
