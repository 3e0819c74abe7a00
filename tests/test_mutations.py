"""Damaged states: hundreds with fixed seeds, GOALMISGEN_MUTATIONS of them if that is set. Each is refused
with a `ValueError`, or it is another state in which everything is as it says: the same when read again, drawn
and played as our own mazes are
"""

import os
from collections import Counter
from importlib.util import find_spec

import numpy as np
import pytest
import torch

from goalmisgen.env.levels import OBJ1, OBJ2, WALL, MazeSpec, generate, make_levels, parse_level
from goalmisgen.env.maze import MazeEnv
from goalmisgen.env.random import order_seeds
from goalmisgen.env.table import ACTION_MOVES, MOVE_STEPS
from goalmisgen.env.procgen import Engine, EngineMaze
from goalmisgen.env.render import Renderer
from goalmisgen.env.states import check_state, put_level, read_levels, read_state, write_state

pytestmark = pytest.mark.slow

MUTATIONS = int(os.environ.get('GOALMISGEN_MUTATIONS', 300))
PAIR, N = ('yellow line', 'red gem'), 64
RECOMPUTED = (
    'unit view_dim x_off y_off center_x center_y visibility'.split()
)  # The engine works these out anew
INTEGERS = [0, 1, 2, 3, -1, 5, 7, 15, 100, 499, 500, 2**31 - 1, -(2**31)]
FLOATS = [0, 1, -1, 0.5, 1.5, np.nan, np.inf, -np.inf, 1e-8, 64, 1e30]


def altered(value, rng):
    "One value of a state, changed"
    if isinstance(value, str):
        at = rng.integers(len(value))
        return value[:at] + rng.choice(list('0123456789 x-')) + value[at + 1 :]
    if isinstance(value, np.ndarray):
        value = value.copy()
        if value.dtype.names is None:
            value[tuple(rng.integers(0, len(value), 2))] = rng.choice([100, 51, 2, 54, 0, 1, -1])
        else:
            name = rng.choice(value.dtype.names)
            value[name] = rng.choice(FLOATS if value[name].dtype.kind == 'f' else INTEGERS)
        return value
    if isinstance(value, np.floating):
        return np.float32(rng.choice([*FLOATS, value + 0.5, value * 1.001]))
    return int(rng.choice([*INTEGERS, value + 1 if value < 2**31 - 1 else 0, rng.integers(-50, 50)]))


def damaged(state, rng):
    "The bytes of a state with a field or a bit changed, or cut short"
    data, kind = write_state(state), rng.integers(6)
    if kind == 0:
        return data[: rng.integers(len(data))]
    if kind == 1:
        flipped = bytearray(data)
        flipped[rng.integers(len(data))] ^= 1 << rng.integers(8)
        return bytes(flipped)
    name = 'entities' if kind == 2 else rng.choice(list(state))
    return write_state({**state, name: altered(state[name], rng)})


def without_recomputed(state):
    return write_state({**state, **dict.fromkeys(RECOMPUTED, 0.0)})


def our_step(levels, cell, facing, time, action):
    "Reward, end, and cell and facing where the episode goes on"
    size, grid, (dx, dy) = levels.size, levels.grid[0], MOVE_STEPS[ACTION_MOVES[action]]
    x, y = cell % size + dx, cell // size + dy
    if not (0 <= x < size and 0 <= y < size and grid[y, x] != WALL):
        x, y = cell % size, cell // size
    won = grid[y, x] == OBJ1
    return 10 * won, bool(won or time + 1 >= 500), x + size * y, int(dx > 0) if dx else facing


def check_play(states, engine, rng):
    "The engine takes the states, gives them back, draws and plays them as we do"
    engine.load([write_state(s) for s in states])
    for s, back in zip(states, engine.states()):
        assert without_recomputed(s) == without_recomputed(back)
    frames, actions = engine.frames(), rng.integers(0, 15, N)
    reward, done = Engine.step(engine, actions)
    for s, frame, action, r, d, after in zip(states, frames, actions, reward, done, engine.states()):
        levels, mouse, then = read_levels([s]), s['entities'][0], after['entities'][0]
        renderer = Renderer(levels.size, PAIR, 'textured' if s['use_backgrounds'] else 'black')
        cell, facing = int(mouse['x']) + levels.size * int(mouse['y']), int(mouse['is_reflected'])
        place = [torch.tensor([v]) for v in (0, cell, facing)]
        np.testing.assert_array_equal(frame, renderer.frames(renderer.scenes(levels), *place)[0])
        now = int(then['x']) + levels.size * int(then['y']), int(then['is_reflected'])
        ours = our_step(levels, cell, facing, s['cur_time'], action)
        assert (r, d) == ours[:2] and (d or now == ours[2:])


@pytest.mark.skipif(find_spec('procgen') is None, reason='no procgen package is installed')
def test_damaged_engine_states():
    rng = np.random.default_rng(0)
    with EngineMaze(PAIR, N) as engine:
        levels = [generate(MazeSpec(size, (10.0, 0.0)), rng.integers(0, 2**31, 16)) for size in (5, 5, 7, 15)]
        engine.load(
            [
                put_level(engine._blank, batch, i, background=('black', 'textured')[i % 2])
                for batch in levels
                for i in range(16)
            ]
        )
        for _ in range(3):
            Engine.step(engine, rng.integers(0, 9, N))
        whole, fate, taken = engine.states(), Counter(), []
        for _ in range(MUTATIONS):
            try:
                state = check_state(read_state(damaged(whole[rng.integers(N)], rng)))
                read_levels([state])
                taken.append(state)
            except ValueError:
                fate['refused'] += 1
            if len(taken) == N:
                check_play(taken, engine, rng)
                fate['taken'] += N
                taken.clear()
        if taken:
            check_play((taken * N)[:N], engine, rng)
    assert fate['refused'] > MUTATIONS / 3 and fate['taken'] + len(taken) > MUTATIONS / 6


SPECS = [
    (MazeSpec(), dict(num_levels=50)),
    (MazeSpec(rewards=(10.0, 0.0)), dict(num_levels=0)),
    (MazeSpec(9, dead_ends=True, random_size=True), dict(num_levels=0)),
]


def damaged_place(place, rng):
    place = {k: v.clone() for k, v in place.items()}
    name, kind = rng.choice(list(place)), rng.integers(8)
    if kind == 0:
        del place[name]
    elif kind == 1:
        place[name] = place[name][:-1]
    elif kind == 2:
        place[name] = place[name].double() + rng.choice([0, 0.5, np.nan])
    elif kind == 3:
        place[name] = rng.choice([None, 3, 'x'])
    else:
        place[name][rng.integers(4)] = int(
            rng.choice(
                [*INTEGERS, 2**40, -(2**40), 2**62, *(place[name][0] + rng.integers(-2, 3, 3)).tolist()]
            )
        )
    return place


@pytest.mark.parametrize('spec, options', SPECS, ids=['table', 'streamed', 'random size'])
def test_damaged_places(spec, options):
    """A place that is taken comes back as it is, is open floor of the level that the order gives, and one
    that is refused changes nothing"""
    rng, env = np.random.default_rng(1), MazeEnv(4, spec, seed=3, **options)
    places = []
    for _ in range(40):
        places.append(env.state_dict())
        env.step(rng.integers(-1, 15, 4))
    fate, before = Counter(), env.state_dict()
    for _ in range(MUTATIONS):
        place = damaged_place(places[rng.integers(40)], rng)
        try:
            env.load_state_dict(place)
        except ValueError:
            fate['refused'] += 1
            assert all(torch.equal(v, before[k]) for k, v in env.state_dict().items())
            continue
        fate['taken'] += 1
        place.setdefault('order', before['order'])  # a state without an order leaves the environments theirs
        assert all(torch.equal(v, place[k]) for k, v in env.state_dict().items())
        order = order_seeds(place['order'].numpy(), 64, env.num_levels)
        for i in range(4):
            used, cell, facing, time, last, complete = (
                int(place[k][i])
                for k in ('used', 'cell', 'facing', 'time', 'prev_level_seed', 'prev_level_complete')
            )
            seed = int(order[used, i]) if used < 64 else int(env.level_seed[i])
            level = generate(spec, [seed])
            assert int(env.level_seed[i]) == seed and level.grid[0].ravel()[cell] not in (WALL, OBJ1)
            assert facing in (0, 1) and 0 <= time < 500 and complete in (0, 1)
            if time:
                assert last == seed and not complete
            else:
                assert cell == level.start[0, 0] + spec.size * int(level.start[0, 1]) and facing == 0
        assert len(env.frames()) == 4
        env.step([4] * 4)
        before = env.state_dict()
    assert fate['refused'] > MUTATIONS / 3 and fate['taken'] > MUTATIONS / 30


def damaged_levels(levels, rng):
    parts = dict(
        grid=levels.grid.copy(),
        background=levels.background.copy(),
        start=levels.start.astype(int),
        seeds=levels.seeds.copy(),
    )
    name, kind = rng.choice(list(parts)), rng.integers(4)
    a = parts[name]
    if kind == 0:
        parts[name] = a[:-1]
    elif kind == 1:
        parts[name] = a.astype(float) + rng.choice([0, 0.5, np.nan, -1e9])
    elif kind == 2:
        parts[name] = a.astype(str)
    else:
        parts[name] = a.astype(int)
        parts[name][tuple(rng.integers(0, n) for n in a.shape)] = rng.choice([*INTEGERS, 255, 256, -256])
    return parts


def test_damaged_levels():
    "Arrays that are no levels are refused; others are kept to the last bit"
    rng, levels, fate = (
        np.random.default_rng(2),
        generate(MazeSpec(rewards=(10.0, -10.0)), range(6)),
        Counter(),
    )
    for _ in range(MUTATIONS):
        parts = damaged_levels(levels, rng)
        try:
            made = make_levels(**parts)
        except ValueError:
            fate['refused'] += 1
            continue
        fate['taken'] += 1
        for name, a in parts.items():
            assert np.array_equal(getattr(made, name).astype(float), a.astype(float)), name
        assert set(np.unique(made.grid)) <= {0, WALL, OBJ1, OBJ2} and made.background.max() < 9
    assert fate['refused'] > MUTATIONS / 3 and fate['taken'] > MUTATIONS / 10


def test_damaged_drawings():
    "A drawing of a level with a character changed, put in or taken out is refused, or drawn again as it is"
    from goalmisgen.env.levels import draw_level

    rng = np.random.default_rng(3)
    whole = [draw_level(generate(MazeSpec(rewards=(10.0, -10.0)), [i])) for i in range(20)]
    for _ in range(MUTATIONS):
        text, at = str(rng.choice(whole)), rng.integers(29)
        text = text[:at] + str(rng.choice([*'.#12M x\n', ''])) + text[at + rng.integers(2) :]
        try:
            assert draw_level(parse_level(text)) == '\n'.join(
                line.strip() for line in text.strip().splitlines()
            )
        except ValueError:
            pass
