"Stock Procgen as an independent judge of our levels, frames and steps; and what it must never be given"

import subprocess
import sys
from functools import cache
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from goalmisgen.env import procgen, states
from goalmisgen.env.levels import DUEL, OBJ1, WALL, MazeSpec, _one_size, generate, make_levels, random_words
from goalmisgen.env.maze import MazeEnv
from goalmisgen.env.random import level_seeds
from goalmisgen.env.table import ACTION_MOVES, StateTable
from goalmisgen.env.objects import OBJECTS, GoalObject
from goalmisgen.env.procgen import (
    Engine,
    EngineMaze,
    check_state,
    put_level,
    read_levels,
    read_state,
    write_state,
)
from goalmisgen.env.render import Renderer

pytestmark = pytest.mark.skipif(find_spec('procgen') is None, reason='no procgen package is installed')
PAIRS = [('yellow line', 'red gem'), ('invisible gem', 'cyan line'), ('black line', 'white gem')]
few = settings(max_examples=12, derandomize=True, deadline=None)
seeds = st.integers(0, 2**31 - 1)


@cache
def maze(pair=PAIRS[0]):
    "One engine for each pair of objects: it takes a second to start"
    return EngineMaze(pair)


def places(levels):
    "Every open cell and facing of every level: int (3, B) of level, cell, facing"
    i, y, x = np.nonzero(levels.grid != WALL)
    return np.repeat([i, levels.size * y + x, 0 * i], 2, axis=1) + np.arange(2 * len(i)) % 2 * np.array(
        [[0], [0], [1]]
    )


def assert_same_frames(engine, levels, states, background):
    renderer = Renderer(levels.size, engine.objects, background)
    ours = renderer.frames(renderer.scenes(levels), *map(torch.as_tensor, states)).numpy()
    np.testing.assert_array_equal(ours, engine.look(levels, *states, background))


# Frames


@pytest.mark.parametrize('background', ['black', 'textured'])
@pytest.mark.parametrize('pair', PAIRS)
def test_every_state_of_duel_levels(pair, background):
    "Twelve levels with some 34 states each"
    levels = generate(DUEL, np.arange(12) + 100 * PAIRS.index(pair))
    states = places(levels)
    assert states.shape[1] > 390
    assert_same_frames(maze(pair), levels, states, background)


@pytest.mark.parametrize('background', ['black', 'textured'])
@pytest.mark.parametrize('size', [3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25])
def test_other_sizes(size, background):
    "Nine mazes, one for each texture"
    rng = np.random.default_rng(size)
    levels = generate(MazeSpec(size, (10.0, -10.0), random_size=size > 3), rng.integers(0, 2**31, 9))
    levels = make_levels(levels.grid, np.arange(9), levels.start)
    states = places(levels)
    assert_same_frames(maze(), levels, states[:, rng.integers(0, states.shape[1], 64)], background)


def arbitrary_levels(size, seed):
    "64 grids of any cells in any arrangement, and the mouse anywhere in them"
    rng = np.random.default_rng(seed)
    grid = rng.choice([0, 1, 2, 3], (64, size, size), p=[0.5, 0.4, 0.05, 0.05])
    xy = rng.integers(0, size, (64, 2))
    grid[np.arange(64), xy[:, 1], xy[:, 0]] = 0
    return make_levels(grid, rng.integers(0, 9, 64), xy)


@few
@given(
    st.integers(1, 12).map(lambda k: 2 * k + 1),
    seeds,
    st.sampled_from(['black', 'textured']),
    st.sampled_from(PAIRS),
)
def test_arbitrary_grids(size, seed, background, pair):
    levels = arbitrary_levels(size, seed)
    x, y = levels.start.astype(int).T
    assert_same_frames(maze(pair), levels, (np.arange(64), x + size * y, np.arange(64) % 2), background)


@pytest.mark.parametrize('obj', OBJECTS, ids=str)
def test_sprites(obj, tmp_path):
    "The picture that the engine is given is ours, and takes the place of its own"
    from PIL import Image

    procgen._asset_copy(tmp_path / 'assets', [GoalObject.parse('white gem'), obj])
    with Image.open(tmp_path / 'assets/misc_assets/explosion1.png') as im:
        rgba = np.array(im)
    np.testing.assert_array_equal(rgba, procgen.sprite(obj))
    assert (tmp_path / 'assets/kenney/Enemies/mouse_move.png').exists()


# Steps


def assert_same_steps(engine, levels, actions, background):
    """The engine and our table play the same game; `actions` int (steps, num_envs). Returns the number of
    episodes that end"""
    table, renderer = StateTable(levels, (10.0, 0.0)), Renderer(levels.size, engine.objects, background)
    scenes, state, ends = renderer.scenes(levels), table.start, 0
    engine.put(levels, background=background)
    for t, action in enumerate(actions):
        move = torch.tensor(ACTION_MOVES)[action]
        won, state = table.outcome[state, move] == 1, table.next[state, move].long()
        level, cell, facing = (a[state] for a in (table.level, table.cell, table.facing))
        reward, done = engine.step(action)
        there = [reward, done, *engine.places()]
        np.testing.assert_array_equal(
            np.stack([10 * won, won, cell, facing]), np.stack(there), err_msg=f'step {t}'
        )
        np.testing.assert_array_equal(
            renderer.frames(scenes, level, cell, facing), engine.frames(), err_msg=f'step {t}'
        )
        ends += done.sum()
    return ends


@pytest.mark.parametrize('background', ['black', 'textured'])
def test_steps(background):
    rng = np.random.default_rng(1)
    levels = generate(MazeSpec(rewards=(10.0, 0.0)), rng.integers(0, 2**31, 64))
    assert assert_same_steps(maze(), levels, rng.integers(0, 15, (60, 64)), background) > 20


@settings(few, max_examples=8)
@given(st.sampled_from([3, 5, 9, 15, 25]), seeds)
def test_steps_on_arbitrary_grids(size, seed):
    rng, levels = np.random.default_rng(seed), arbitrary_levels(size, seed)
    assert_same_steps(maze(), levels, rng.integers(0, 15, (10, 64)), 'textured')


def test_every_move_from_every_place():
    "All fifteen actions from all states of two levels"
    levels = generate(MazeSpec(rewards=(10.0, 0.0)), [3, 4])
    level, cell, facing = (np.repeat(a, 15) for a in places(levels)[:, :])
    keep = levels.grid.reshape(2, -1)[level, cell] != OBJ1  # nobody stands there
    level, cell, facing, action = (
        a[keep] for a in (level, cell, facing, np.tile(np.arange(15), len(level) // 15))
    )
    table, engine = StateTable(levels, (10.0, 0.0)), maze()
    row = {k: i for i, k in enumerate(zip(*(a.tolist() for a in (table.level, table.cell, table.facing))))}
    state = [row[k] for k in zip(level.tolist(), cell.tolist(), facing.tolist())]
    to, outcome = (a[state, np.array(ACTION_MOVES)[action]] for a in (table.next.long(), table.outcome))
    for b in range(0, len(action), 64):
        at = np.arange(b, b + 64) % len(action)
        engine.put(levels[level[at]], cell[at], facing[at])
        reward, done = engine.step(action[at])
        np.testing.assert_array_equal(np.stack([10 * outcome[at], outcome[at]]), [reward, done])
        np.testing.assert_array_equal(np.stack([table.cell[to[at]], table.facing[to[at]]]), engine.places())


def test_timeout():
    engine = maze()
    engine.put(generate(DUEL, range(64)))
    dones = [engine.step([4] * 64)[1] for _ in range(1000)]
    assert np.flatnonzero(np.any(dones, 1)).tolist() == [499, 999] and dones[499].all()


def test_forced_end():
    engine = maze()
    engine.put(
        generate(DUEL, range(64)), cell=6, facing=1
    )  # cell 6 is a wall in all of these mazes, where a mouse can be put
    reward, done = engine.step([-1] * 64)
    assert done.all() and not reward.any() and not np.any(engine.places())


# Levels


@cache
def stock(game, mode):
    "States of 300 levels as the engine makes them: list of bytes"
    with Engine(game, 300, mode, num_levels=100_000, start_level=7, seed=11) as engine:
        return procgen._split(**engine._ask('states'))


@pytest.mark.parametrize('mode, size', [('easy', 15), ('hard', 25)])
def test_levels_of_stock_mazes(mode, size):
    "300 mazes of random sizes with dead ends, in the order that the seed gives"
    states = [*map(read_state, stock('maze', mode))]
    theirs = read_levels(states)
    ours = generate(MazeSpec(size, random_size=True, dead_ends=True), level_seeds(11, 300, 1, 100_000, 7)[0])
    for field in ('grid', 'background', 'start', 'seeds'):
        np.testing.assert_array_equal(getattr(ours, field), getattr(theirs, field))
    assert {s['maze_dim'] for s in states} == set(range(3, size + 1, 2))


@pytest.mark.parametrize('mode, size', [('easy', 11), ('hard', 13)])
def test_removal_of_dead_ends(mode, size):
    """300 mazes of `chaser`, which opens dead ends as the paper's mazes do. It draws two numbers more than
    ours before the walls"""
    states = [*map(read_state, stock('chaser', mode))]
    words = random_words([s['level_seed'] for s in states], 2000)
    grid, spent = _one_size(MazeSpec(size), size, words, 4)
    assert spent.max() < 2000
    np.testing.assert_array_equal(grid == WALL, np.stack([s['grid'] for s in states]) == 5)


def test_level_order():
    "Sixteen levels of four environments, one after the other"
    seeds = level_seeds(123, 4, 16, 500, 9)
    env = MazeEnv(4, num_levels=500, start_level=9, seed=123)
    with Engine('maze', 4, num_levels=500, start_level=9, seed=123) as engine:
        for row in seeds:
            assert [s['level_seed'] for s in engine.states()] == env.level_seed.tolist() == row.tolist()
            for e in (engine, env):
                e.step([-1] * 4)


# States


@pytest.mark.parametrize('mode', ['easy', 'hard'])
@pytest.mark.parametrize('game', ['maze', 'chaser'])
def test_bytes_survive_a_round_trip(game, mode):
    for data in stock(game, mode):
        assert write_state(read_state(data)) == data


def test_loading_a_state_again_changes_nothing():
    rng, engine = np.random.default_rng(0), maze()
    engine.put(generate(DUEL, range(64)))
    before, frames = engine.states(), engine.frames()

    def play():
        return [engine.step(a) for a in np.random.default_rng(1).integers(0, 15, (20, 64))], engine.frames()

    first = play()
    for action in rng.integers(0, 15, (5, 64)):
        engine.step(action)
    engine.load(before)
    np.testing.assert_array_equal(engine.frames(), frames)
    for a, b in zip(first, play()):
        np.testing.assert_array_equal(a, b)


@cache
def stock_state():
    maze().put(generate(DUEL, range(64)))
    return maze().states()[0]


def changed(name, value):
    "The state with one field, or `mouse` field, changed"
    state = dict(stock_state())
    if not name.startswith('mouse '):
        return {**state, name: value}
    mouse = state['entities'].copy()
    mouse[name[6:]] = value
    return {**state, 'entities': mouse}


NOBODY = np.zeros(0, states._ENTITY)
BAD = [  # Field, value, what the message says
    ('version', 1, 'version: got 1'),
    ('game', 'heist', 'fields missing or not known'),
    ('use_generated_assets', 1, 'use_generated_assets'),
    ('distribution_mode', 2, 'distribution_mode: got 2; allowed: 0, 1, 10'),
    ('grid', np.full((5, 5), 101), r'grid code: got \[101\]'),
    ('grid', np.full((5, 5), -1), 'grid code'),
    ('grid', np.full((5, 5), 2.0), 'grid: got'),
    ('grid', np.full((4, 5), 100), 'size of the grid'),
    ('grid', np.full((7, 7), 100), 'main_width: got 5'),
    ('grid', np.zeros((0, 0), int), 'grid in the state bytes'),
    ('grid_size', 24, 'grid_size: got 24; allowed: 25'),
    ('world_dim', 0, 'world_dim'),
    ('maze_dim', 99, 'maze_dim'),
    ('background_index', 9, 'background_index: got 9'),
    ('background_index', -1, 'background_index: got -1'),
    ('visibility', np.inf, 'visibility'),
    ('level_seed_high', 0, 'level_seed_low'),
    ('timeout', 2**31, 'timeout: got 2147483648'),
    ('timeout', 0.5, 'timeout: got 0.5'),
    ('rng', '', 'mersenne'),
    ('rng', '1 2 3', "got '1 2 3'"),
    ('rng', ' '.join(['4294967296'] * 625), 'mersenne'),
    ('rng', 7, 'rng: got 7; allowed: a text'),
    ('entities', NOBODY, 'number of entities: got 0'),
    ('entities', None, 'entities: got None'),
    ('mouse x', 5.5, 'mouse position'),
    ('mouse x', -0.5, 'mouse position'),
    ('mouse x', np.nan, 'mouse position'),
    ('mouse y', 1.0, 'mouse position'),
    ('mouse type', 3, 'mouse type'),
    ('mouse is_reflected', 2, 'mouse is_reflected'),
    ('mouse grow_rate', 9, 'mouse grow_rate'),
]


@pytest.mark.parametrize('name, value, message', BAD, ids=[f'{n}-{i}' for i, (n, *_) in enumerate(BAD)])
def test_bad_states_are_refused(name, value, message):
    with pytest.raises(ValueError, match=message):
        maze().load([changed(name, value)] * 64)
    assert maze().frames().any()


@settings(few, max_examples=60)
@given(st.data())
def test_bytes_cut_off_or_added(data):
    whole = write_state(stock_state())
    cut = data.draw(st.integers(0, len(whole) - 1))
    with pytest.raises(ValueError, match='state'):
        read_state(whole[:cut])
    with pytest.raises(ValueError, match='nothing after it'):
        read_state(whole + bytes(1 + cut % 9))


def test_not_a_state():
    for what in (None, 'maze', bytearray(9), bytes(2**20 + 1)):
        with pytest.raises(ValueError, match='state'):
            read_state(what)
    for drop, add in ((('timeout',), {}), ((), {'colour': 3})):
        fields = {k: v for k, v in (stock_state() | add).items() if k not in drop}
        with pytest.raises(ValueError, match='timeout|colour'):
            write_state(fields)


INTEGERS, FLOATS = [-(2**31), -1, 0, 1, 2, 99, 2**31 - 1], [np.nan, np.inf, -1, 0, 1e9]
KINDS = dict(states._FIELDS + states._MAZE) | {
    f'mouse {n}': states._ENTITY[n].kind for n in states._ENTITY.names
}


@pytest.mark.slow
def test_any_number_is_refused_or_survived():
    """Every number of a state, one after the other, gets values that nobody expects: the engine is not given
    them, or lives on"""
    refused = 0
    with EngineMaze(PAIRS[0], 1) as engine:
        for name, kind in KINDS.items():
            for value in INTEGERS if kind == 'i' else FLOATS if kind == 'f' else []:
                try:
                    engine.load([changed(name, value)])
                except ValueError:
                    refused += 1
                    continue
                for action in (7, 5, -1, 7):
                    Engine.step(engine, [action])
                assert len(engine.states()) == 1, (name, value)
    assert 200 < refused < 400


# The process


def test_the_caller_outlives_the_engine():
    engine = EngineMaze(PAIRS[0], 2)
    with pytest.raises(RuntimeError, match=r'has died \(exit code 1\): .*fassert'):
        engine._ask('load', index=np.arange(1), **procgen._join([write_state(stock_state())[:-8]]))
    with pytest.raises(RuntimeError, match='closed'):
        engine.frames()
    engine.close()


def test_games_that_can_only_be_read():
    "And no process is left behind when the last name of an engine goes"
    engine = Engine('chaser', 1)
    process = engine._process
    with pytest.raises(ValueError, match='only be read'):
        engine.load(engine.states())
    assert process.poll() is None
    del engine
    assert process.poll() is not None


def test_a_plain_script():
    "No guard for `__main__`, no banner of gym, nothing of Procgen in the caller, and no error at the end"
    code = """import sys
from goalmisgen.env.procgen import Engine
print(Engine('maze', 2).frames().shape)
print({'gym', 'gym3', 'procgen'} & set(sys.modules))"""
    run = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert (run.stdout, run.stderr, run.returncode) == ('(2, 64, 64, 3)\nset()\n', '', 0)


LEVELS = generate(DUEL, range(64))
WRONG = [
    (lambda: Engine('coinrun'), 'game'),
    (lambda: Engine(mode='memory'), 'mode'),
    (lambda: Engine(num_envs=0), 'num_envs'),
    (lambda: Engine(num_levels=-1), 'num_levels'),
    (lambda: Engine(seed=2**31), 'seed'),
    (lambda: Engine(objects=['yellow cheese']), 'shape'),
    (lambda: Engine(objects=['red gem'] * 3), 'objects'),
    (lambda: EngineMaze(()), 'objects'),
    (lambda: maze().put(LEVELS[:3]), 'number of levels'),
    (lambda: maze().put(LEVELS, cell=25), 'cell'),
    (lambda: maze().put(LEVELS, facing=2), 'facing'),
    (lambda: maze().put(LEVELS, background='grey'), 'background'),
    (lambda: maze().step([0]), 'shape of actions'),
    (lambda: maze().step([15] * 64), 'actions'),
    (lambda: maze().step([0.5] * 64), 'actions'),
    (lambda: maze().load([stock_state()]), 'number of states'),
    (lambda: check_state(changed('entities', NOBODY)), 'number of entities'),
    (lambda: put_level(stock_state(), LEVELS, 0, -1), 'cell'),
    (lambda: read_levels([stock_state(), changed('world_dim', 7)]), 'sizes of the levels'),
]


@pytest.mark.parametrize('call, message', WRONG)
def test_bad_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call()
