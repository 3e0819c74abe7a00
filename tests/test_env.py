"Levels, states and steps agree with each other, and with the plainest code that plays the same game"

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from goalmisgen.env import maze
from goalmisgen.env.levels import (
    DUEL,
    OBJ1,
    OBJ2,
    SPACE,
    TRAIN,
    WALL,
    Levels,
    MazeSpec,
    census,
    check_seeds,
    distances,
    draw_level,
    find_levels,
    generate,
    make_levels,
    parse_level,
    random_words,
)
from goalmisgen.env.maze import MazeEnv
from goalmisgen.env.random import level_orders, level_seeds
from goalmisgen.env.rendered import RenderedLevels
from goalmisgen.env.table import MOVE_STEPS, StateTable
from goalmisgen.env.render import Renderer, human_view

some = settings(max_examples=25, derandomize=True, deadline=None)
few = settings(some, max_examples=10)
seeds = st.integers(0, 2**31 - 1)


@st.composite
def specs(draw, largest=11):
    "Any family of levels up to a size"
    size = draw(st.integers(1, (largest - 1) // 2).map(lambda k: 2 * k + 1))
    rewards = draw(st.sampled_from([(10.0,), (10.0, -10.0), (10.0, 0.0), (3.0, 4.0)]))
    region = draw(st.sampled_from([None, 0, 1, 2, 5, 25])) if len(rewards) == 1 else None
    return MazeSpec(size, rewards, draw(st.booleans()), draw(st.booleans()), region)


def same(a: Levels, b: Levels):
    for field in ('grid', 'background', 'start', 'seeds'):
        np.testing.assert_array_equal(getattr(a, field), getattr(b, field), err_msg=field)


# Random numbers


@some
@given(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=4), st.integers(1, 1500))
def test_random_words(some_seeds, n):
    "Numpy's own twister, seed by seed"
    theirs = [np.random.RandomState(s).randint(0, 2**32, n, np.uint32) for s in some_seeds]
    np.testing.assert_array_equal(random_words(some_seeds, n), np.transpose(theirs))


@some
@given(
    st.integers(0, 2**32 - 1), st.integers(1, 5), st.sampled_from([0, 1, 500, 100_000]), st.integers(0, 1000)
)
def test_level_order(seed, num_envs, num_levels, start):
    "One environment after the other draws the seed of its generator, and that one its levels"

    def words(s, n):
        return np.random.RandomState(s).randint(0, 2**32, n, np.uint32).astype(int)

    rows = [
        words(s, 20) % (num_levels or 2**31 - 1) + start * bool(num_levels) for s in words(seed, num_envs)
    ]
    np.testing.assert_array_equal(level_seeds(seed, num_envs, 20, num_levels, start), np.transpose(rows))
    np.testing.assert_array_equal(level_orders(seed, num_envs), words(seed, num_envs))


# Levels


def slow_level(spec, seed):
    """One level by the rules of the game, one random number after the other: grid (size, size), background,
    maze size"""
    source = np.random.RandomState(seed)

    def draw(n):
        return int(source.randint(0, 2**32, dtype=np.uint32)) % n

    draw(1)  # where a background wider than the world would be cut
    background = draw(9)
    d = 3 + 2 * draw((spec.size - 1) // 2) if spec.random_size else spec.size
    between = [((i, j), (i - 1, j), (i + 1, j)) for i in range(1, d, 2) for j in range(0, d, 2)]
    between += [((i, j), (i, j - 1), (i, j + 1)) for i in range(0, d, 2) for j in range(1, d, 2)]
    grid, free, group = (
        {(x, y): WALL for x in range(d) for y in range(d)},
        [],
        {c: {c} for _, *ends in between for c in ends},
    )
    while between:
        wall, a, b = between.pop(draw(len(between)))
        if group[a] is group[b]:
            continue
        for cell in (a, wall, b):
            if cell not in free:
                free.append(cell)
            grid[cell] = SPACE
        group[a] |= group[b]
        for cell in group[b]:
            group[cell] = group[a]
    for x, y in [] if spec.dead_ends else [(x, y) for y in range(d) for x in range(d)]:
        near = [c for c in ((x - 1, y), (x, y - 1), (x, y + 1), (x + 1, y)) if c in grid]
        walls = [c for c in near if grid[c] == WALL]
        if grid[x, y] == SPACE and len(near) - len(walls) == 1 and walls:
            grid[walls[draw(len(walls))]] = SPACE
    if spec.region == 0:
        grid[d - 1, d - 1] = OBJ1
    elif spec.region is not None:
        draw(len(free))
    for code in [] if spec.region == 0 else range(OBJ1, OBJ1 + len(spec.rewards)):
        for _ in range(10**6 if spec.region is None else 100 * d):
            cell = free[draw(len(free))]
            if cell == (0, 0) or grid[cell] != SPACE or min(cell) < d - (spec.region or d):
                continue
            grid[cell] = code
            break
    world, margin = np.full((spec.size, spec.size), WALL, np.uint8), (spec.size - d) // 2
    for (x, y), code in grid.items():
        world[margin + y, margin + x] = code
    return world, background, d


@settings(some, max_examples=100)
@given(specs(25), seeds)
def test_the_plainest_generator(spec, seed):
    grid, background, d = slow_level(spec, seed)
    levels = generate(spec, [seed])
    np.testing.assert_array_equal(levels.grid[0], grid)
    assert levels.background[0] == background and levels.start[0].tolist() == [(spec.size - d) // 2] * 2


@some
@given(specs(25), st.lists(seeds, min_size=1, max_size=40), st.integers(1, 50))
def test_levels_do_not_depend_on_their_batch(spec, level_seeds, chunk):
    together = generate(spec, level_seeds, chunk)
    same(together, generate(spec, level_seeds))
    i = len(level_seeds) // 2
    same(together[i], generate(spec, [level_seeds[i]]))


def test_more_random_numbers_than_foreseen():
    """A region that no free cell meets makes the generator draw a hundred times the maze's size; a batch may
    mix such levels with short ones"""
    spec = MazeSpec(25, dead_ends=True, random_size=True, region=1)
    together = generate(spec, range(60))
    for i in range(60):
        same(together[i], generate(spec, [i]))


@some
@given(specs(25), seeds)
def test_levels_are_mazes(spec, seed):
    """One of each object, open ways from the start to all floor, the objects where the spec says, and as many
    loops as it says"""
    levels = generate(spec, range(seed, seed + 20))
    for g, (x0, y0) in zip(levels.grid, levels.start.tolist()):
        assert x0 == y0 and g[y0, x0] == SPACE
        dim = spec.size - 2 * int(x0)
        inner = g[x0 : x0 + dim, x0 : x0 + dim]
        assert (g != WALL).sum() == (inner != WALL).sum() and (dim == spec.size or spec.random_size)
        assert [(g == c).sum() for c in (OBJ1, OBJ2)] == [1, len(spec.rewards) - 1] or (
            spec.region and not (g == OBJ1).any()
        )
        seen, rim = {(x0, y0)}, [(int(x0), int(y0))]
        while rim:
            x, y = rim.pop()
            new = {(x + 1, y), (x - 1, y), (x, y + 1), (x, y - 1)} - seen
            rim += [(a, b) for a, b in new if 0 <= a < spec.size and 0 <= b < spec.size and g[b, a] != WALL]
            seen |= set(rim)
        assert len(seen) == (g != WALL).sum()
        rooms = ((dim + 1) // 2) ** 2
        if spec.dead_ends:
            assert (g != WALL).sum() == 2 * rooms - 1  # a tree
        if spec.region:
            for y, x in np.argwhere(g == OBJ1):
                assert min(x, y) >= x0 + dim - spec.region


@some
@given(specs(25), seeds, st.integers(0, 8))
def test_text_and_back(spec, seed, background):
    levels = generate(spec, [seed])
    assume((levels.grid == OBJ1).any())
    again = parse_level(draw_level(levels), background)
    same(again, Levels(levels.grid, np.full(1, background, np.uint8), levels.start, np.full(1, -1)))
    assert draw_level(again) == draw_level(levels)


@some
@given(specs(9), seeds)
def test_distances(spec, seed):
    "As many steps as the state table needs, by the plainest search"
    levels = generate(replace(spec, region=None), [seed])
    table = StateTable(levels, (10.0,))
    reached, steps = {int(table.start[0])}, 0
    while not (table.outcome[list(reached)] == 1).any():
        reached, steps = reached | set(table.next[list(reached)].flatten().tolist()), steps + 1
    assert distances(levels)[0] == steps + 1


@pytest.mark.parametrize(
    'spec', [TRAIN, DUEL, MazeSpec(3), MazeSpec(5, dead_ends=True), MazeSpec(3, (1.0, 0.0))]
)
def test_census(spec):
    "It holds every level of 20,000 seeds, and no level of note that they do not meet"
    c, levels = census(spec), generate(spec, range(20_000))
    found = find_levels(levels, c.levels)
    assert (found >= 0).all() and abs(c.prob.sum() - 1) < 1e-12
    counts = np.bincount(found, minlength=len(c))
    sigma = np.sqrt(20_000 * c.prob * (1 - c.prob)) + 1e-9
    assert (abs(counts - 20_000 * c.prob) < 6 * sigma + 3).all()


# Steps


class SlowMaze:
    "One environment, in as few thoughts as possible"

    def __init__(self, spec, seed, num_levels, start_level):
        self.spec, self.order, self.range = (
            spec,
            np.random.RandomState(seed),
            (num_levels or 2**31 - 1, start_level),
        )
        self.reset()

    def reset(self):
        n, first = self.range
        self.seed = int(self.order.randint(0, 2**32, dtype=np.uint32)) % n + first
        self.level = generate(self.spec, [self.seed])
        self.grid, (self.x, self.y), self.facing, self.time = (
            self.level.grid[0],
            self.level.start[0].tolist(),
            0,
            0,
        )

    def step(self, action):
        dx, dy = (action // 3 - 1, action % 3 - 1) if 0 <= action < 9 else (0, 0)
        if dx:
            self.facing, dy = int(dx > 0), 0
        x, y = self.x + dx, self.y + dy
        if 0 <= x < self.spec.size and 0 <= y < self.spec.size and self.grid[y, x] != WALL:
            self.x, self.y = x, y
        self.time += 1
        reward = {OBJ1 + k: r for k, r in enumerate(self.spec.rewards)}.get(self.grid[self.y, self.x], 0)
        done = reward != 0 or self.time >= 500 or action == -1
        if done:
            self.reset()
        return reward, done


def assert_same_game(spec, seed, num_levels, start_level, steps, biased):
    """Three environments of `MazeEnv` and three slow ones play the same game. Returns the number of episodes
    that end"""
    env = MazeEnv(3, spec, 'textured', num_levels=num_levels, start_level=start_level, seed=seed)
    slow = [
        SlowMaze(spec, s, num_levels, start_level if num_levels else 0)
        for s in level_orders(seed, 3).tolist()
    ]
    renderer, rng, ends = (
        Renderer(spec.size, env.renderer.objects, 'textured'),
        np.random.default_rng(seed),
        0,
    )
    for t in range(steps):
        state = [env.table.cell[env.state], env.table.facing[env.state], env.time, env.level_seed]
        assert torch.stack(state, 1).tolist() == [
            [s.x + spec.size * s.y, s.facing, s.time, s.seed] for s in slow
        ], f'step {t}'
        if t % 20 == 0:
            scenes = torch.cat([renderer.scenes(s.level) for s in slow])
            assert torch.equal(env.frames(), renderer.frames(scenes, torch.arange(3), *state[:2])), (
                f'frame {t}'
            )
        actions = rng.choice([-1, *range(15)], 3, p=[biased, *[(1 - biased) / 15] * 15])
        reward, done = env.step(actions)
        theirs = [s.step(a) for s, a in zip(slow, actions)]
        assert [*zip(reward.tolist(), done.tolist())] == theirs, f'step {t}'
        ends += done.sum().item()
    return ends


@pytest.mark.slow
@few
@given(specs(), seeds, st.sampled_from([(0, 0), (1, 7), (40, 100), (3000, 5)]))
def test_the_plainest_environment(spec, seed, which):
    assert assert_same_game(spec, seed, *which, 200, 0.03) > 5


@pytest.mark.slow
def test_a_long_game():
    "Timeouts, and more episodes than are drawn ahead"
    assert assert_same_game(TRAIN, 1, 100, 0, 1600, 0) > 10
    assert assert_same_game(DUEL, 2, 0, 0, 300, 0.5) > 400


@few
@given(specs(7), seeds, st.sampled_from(['black', 'textured']))
def test_table_and_queue(spec, seed, background):
    "A world held in one table, and one made as it goes: the same states, rewards and frames"

    def play(limit):
        old, maze.SMALL_WORLD = maze.SMALL_WORLD, limit
        try:
            env = MazeEnv(4, spec, background, num_levels=30, start_level=seed % 1000, seed=seed)
        finally:
            maze.SMALL_WORLD = old
        rng, log = np.random.default_rng(seed), []
        for t in range(120):
            reward, done = env.step(rng.integers(-1, 15, 4))
            log += [reward, done, env.table.cell[env.state], env.table.facing[env.state]]
            log += [env.time, env.level_seed, env.prev_level_seed, env.prev_level_complete]
            if t % 10 == 0:
                log.append(env.frames().clone())
        return env, log

    (small, a), (large, b) = play(2**40), play(0)
    assert type(small.source) is maze.FixedLevels and type(large.source) is maze.StreamedLevels
    for x, y in zip(a, b):
        assert torch.equal(x, y)


@few
@given(specs(9), seeds)
def test_state_table(spec, seed):
    """Every move leads within its level, ends exactly where an object with a reward is, and turns the mouse
    as it should"""
    levels = generate(spec, range(seed, seed + 10))
    table = StateTable(levels, spec.rewards)
    grid, n = levels.grid.reshape(10, -1), spec.size
    level, cell, facing = (np.asarray(a) for a in (table.level, table.cell, table.facing))
    place = {
        (c, f): k for k, (c, f) in enumerate((c, f) for c in range(table.num_places // 2) for f in (0, 1))
    }
    assert len(place) == 2 * table.size * table.size and table.place.tolist() == [
        place[k] for k in zip(cell.tolist(), facing.tolist())
    ]
    for m, (dx, dy) in enumerate(MOVE_STEPS):
        to, outcome = table.next[:, m].numpy(), table.outcome[:, m].numpy()
        assert (level[to] == level).all()
        x, y = cell % n + dx, cell // n + dy
        inside = (0 <= x) & (x < n) & (0 <= y) & (y < n)
        target = np.where(inside, x + n * y, cell)
        target = np.where(grid[level, target] == WALL, cell, target)
        code = grid[level, target]
        ends = np.array([0, 0, *(k + 1 if r else 0 for k, r in enumerate(spec.rewards)), 0])[code]
        np.testing.assert_array_equal(outcome, ends)
        on = outcome == 0
        np.testing.assert_array_equal(cell[to][on], target[on])
        np.testing.assert_array_equal(facing[to][on], (np.full_like(facing, dx > 0) if dx else facing)[on])
        np.testing.assert_array_equal(to[~on], table.start.numpy()[level[~on]])


@few
@given(specs(9), seeds, st.sampled_from(['black', 'grey', 'textured']))
def test_observations(spec, seed, background):
    "The rows of distinct frames give every state its own frame"
    levels = generate(spec, range(seed, seed + 6))
    levels = replace(levels, background=np.full(6, seed % 9, np.uint8))
    renderer = Renderer(spec.size, ('black gem', 'red line')[: len(spec.rewards)], background)
    rendered = RenderedLevels(levels, renderer, spec.rewards)
    table, (frames, row) = rendered.table, rendered.distinct_frames()
    assert torch.equal(
        frames[row], renderer.frames(renderer.scenes(levels), table.level, table.cell, table.facing)
    )
    assert torch.equal(frames[row], rendered.all_frames(chunk=7))
    assert len(frames) == row.max() + 1 == len({f.tobytes() for f in frames.numpy()})


# What is refused

LEVEL = generate(DUEL, [0])
BAD = [
    (lambda: check_seeds([-1]), 'seed: got -1'),
    (lambda: check_seeds([2**32]), 'seed: got 4294967296'),
    (lambda: check_seeds([0.5]), 'seeds'),
    (lambda: check_seeds([[1]]), 'seeds'),
    (lambda: MazeSpec(4), 'size: got 4'),
    (lambda: MazeSpec(27), 'size'),
    (lambda: MazeSpec('5'), 'size'),
    (lambda: MazeSpec(rewards=()), 'rewards'),
    (lambda: MazeSpec(rewards=(0.0, 1.0)), 'rewards'),
    (lambda: MazeSpec(rewards=(1.0, 1.0, 1.0)), 'rewards'),
    (lambda: MazeSpec(region=-1), 'region'),
    (lambda: MazeSpec(rewards=(1.0, 1.0), region=3), 'region'),
    (lambda: census(MazeSpec(7)), 'spec'),
    (lambda: make_levels(np.zeros((1, 4, 4))), 'shape of grid'),
    (lambda: make_levels(np.full((1, 5, 5), 4)), 'cell code'),
    (lambda: make_levels(np.zeros((1, 5, 5)), background=9), 'background'),
    (lambda: make_levels(np.zeros((1, 5, 5)), start=(5, 0)), 'start'),
    (lambda: make_levels(np.ones((1, 5, 5), int)), 'cell under the mouse'),
    (lambda: parse_level('M1?\n...\n...'), 'characters'),
    (lambda: parse_level('M1.\n..\n...'), 'row lengths'),
    (lambda: parse_level('M..\n...\n...'), 'number of 1'),
    (lambda: parse_level('1..\n...\n...'), 'number of M'),
    (lambda: parse_level('M#1\n.#.\n.#.'), 'object 1'),
    (lambda: Renderer(6), 'size'),
    (lambda: Renderer(5, background='blue'), 'background'),
    (lambda: Renderer(5, ()), 'objects'),
    (lambda: Renderer(5, 'red star'), 'shape'),
    (lambda: Renderer(7).scenes(LEVEL), 'level size'),
    (lambda: human_view(LEVEL, background='blue'), 'background'),
    (lambda: MazeEnv(0), 'num_envs'),
    (lambda: MazeEnv(2, seed=-1), 'seed'),
    (lambda: MazeEnv(2, num_levels=2**31), 'num_levels'),
    (lambda: MazeEnv(2, DUEL, objects=('red gem',)), 'objects'),
    (lambda: MazeEnv(2).step([0]), 'shape of actions'),
    (lambda: MazeEnv(2).step([0, 15]), 'action: got 15'),
    (lambda: MazeEnv(2).step([0, -2]), 'action: got -2'),
]


@pytest.mark.parametrize('call, message', BAD)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize('size', [3, 5, 9, 15])
def test_grey_is_a_grey_fill(size):
    """The published change of one line: where nothing is drawn there is 127, and what is opaque does not
    change"""
    levels = generate(MazeSpec(size, (10.0, -10.0)), range(20))
    black, grey, textured = (
        Renderer(size, ('red line', 'yellow gem'), b).first_frames(levels).numpy()
        for b in ('black', 'grey', 'textured')
    )
    bare = Renderer(size, ('red line', 'yellow gem'), 'textured').scenes(levels).numpy()
    walls = Renderer(size, ('red line', 'yellow gem'), 'black').scenes(levels).numpy()
    opaque = (black == textured).all(-1)
    empty = (walls == 0).all(-1) & (bare == textured).all(-1) & (black == 0).all(-1) & ~opaque
    assert (
        opaque.any() and empty.any() and (grey[opaque] == black[opaque]).all() and (grey[empty] == 127).all()
    )
    soft = ~opaque & ~empty  # edges of the mouse: between the two
    assert (
        soft.mean() < 0.02
        and (grey[soft] >= black[soft]).all()
        and (grey[soft] <= black[soft].astype(int) + 127).all()
    )
