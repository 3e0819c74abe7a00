"""Maze states, their way into the engine's bytes and back, paths, seeds and vector fields, each held against
something that knows better: the engine, a plain search, episodes that are played
"""

import json
import os
import subprocess
import sys
from collections import Counter
from functools import cache
from importlib.util import find_spec

import networkx as nx
import numpy as np
import pytest
import torch

from goalmisgen.agents.impala import Policy, load_policy, save_weights
from goalmisgen.env.levels import OBJ1, OBJ2, SPACE, WALL, MazeSpec, draw_level, generate
from goalmisgen.env.procgen import EngineMaze
from goalmisgen.env.render import Renderer
from goalmisgen.env.states import DIALECTS, dialect_of, empty_state, read_state, write_state
from goalmisgen.env.table import ACTION_MOVES
from goalmisgen.env.worlds import get_world
from goalmisgen.interp.engine_states import engine_state, maze_state_of
from goalmisgen.interp.field_outcomes import (
    decision_probs,
    field_endings,
    occupancy,
    path_probability,
    reach_probs,
    stuck_mass,
)
from goalmisgen.interp.layers import entries_over
from goalmisgen.interp.maze_states import MazeState, as_levels, as_states
from goalmisgen.interp.paths import Square, parting_squares
from goalmisgen.interp.seed_search import describe_levels, find_seeds, sample_states
from goalmisgen.interp.vector_fields import compare_fields, compute_field, compute_fields, world_renderer

MUTATIONS = int(os.environ.get('GOALMISGEN_MUTATIONS', 300))
PAIR = ('yellow line', 'red gem')
HARD = MazeSpec(25, dead_ends=True, random_size=True)
needs_engine = pytest.mark.skipif(find_spec('procgen') is None, reason='no procgen package is installed')


@cache
def engine():
    "One for all tests: it takes seconds to start"
    return EngineMaze(PAIR, 64)


@cache
def some_states(n=40, seed=0):
    "States of hard mazes and of the paper's, with the mouse anywhere, facing either way"
    duel = MazeSpec(5, (10.0, -10.0))
    return sample_states(HARD, n, seed, mouse='anywhere') + sample_states(duel, n, seed, mouse='anywhere')


# The engine's bytes

STOCK = """
import sys
from procgen import ProcgenGym3Env
for mode in ('easy', 'hard', 'memory'):
    env = ProcgenGym3Env(num=40, env_name='maze', distribution_mode=mode, rand_seed=5, num_threads=0)
    print('\\n'.join(state.hex() for state in env.get_state()))
"""


@needs_engine
def test_bytes_of_forty_mazes_in_each_mode_come_back():
    "Read and written again, and written from the maze that was read in them"
    run = subprocess.run([sys.executable, '-c', STOCK], capture_output=True, text=True, check=True)
    states = [bytes.fromhex(line) for line in run.stdout.split()[-120:]]
    sizes = Counter()
    for data in states:
        fields = read_state(data)
        assert write_state(fields) == data and dialect_of(fields) == 'stock'
        sizes[fields['world_dim']] += 1
        if fields['world_dim'] > 25:
            with pytest.raises(ValueError, match='size odd from 3 to 25'):
                maze_state_of(data)
            continue
        state = maze_state_of(data)
        spec = MazeSpec(fields['world_dim'], dead_ends=True, random_size=True)
        assert [state] == as_states(generate(spec, [fields['level_seed']]))
        again = read_state(write_state(engine_state(state, data)))
        kept = {'reward', 'done', 'level_complete'}
        assert all(np.array_equal(again[name], value) for name, value in fields.items() if name not in kept)
    assert sizes == {15: 40, 25: 40, 31: 40}


@needs_engine
@pytest.mark.parametrize('background', ['black', 'textured'])
def test_stock_procgen_draws_states_that_no_engine_wrote(background):
    states = some_states()[:16] + [s.with_corridor_to_corner() for s in some_states()[16:32]]
    states = states * 2
    renderer = Renderer(25, PAIR, background)
    levels = as_levels(states)
    x, y = levels.start.astype(int).T
    facing = torch.tensor([state.facing for state in states])
    ours = renderer.frames(
        renderer.scenes(levels), torch.arange(64), torch.as_tensor(x + 25 * y), facing
    ).numpy()
    engine().load([write_state(engine_state(state, background=background)) for state in states])
    np.testing.assert_array_equal(engine().frames(), ours)


@pytest.mark.parametrize('dialect', DIALECTS)
def test_states_go_through_each_dialect(dialect):
    for state in some_states():
        data = write_state(engine_state(state, dialect))
        fields = read_state(data)
        assert (
            dialect_of(fields) == dialect and maze_state_of(fields) == state and write_state(fields) == data
        )


@pytest.mark.parametrize('dialect', DIALECTS)
def test_bytes_of_no_state_are_refused(dialect):
    "Or they are another state, which comes back byte by byte"
    rng = np.random.default_rng(0)
    whole = [write_state(engine_state(state, dialect)) for state in some_states()[::8]]
    fate = Counter()
    for _ in range(MUTATIONS):
        data = bytearray(whole[rng.integers(len(whole))])
        head = rng.random() < 0.5  # most bytes are digits of random numbers
        at = rng.integers(200) if head else rng.integers(len(data))
        if rng.random() < 0.2:
            data = data[:at]
        else:
            data[at] = rng.integers(256)
        try:
            fields = read_state(bytes(data))
        except ValueError:
            fate['no state'] += 1
            continue
        assert write_state(fields) == bytes(data)
        try:
            state = maze_state_of(fields)
        except ValueError:
            fate['refused'] += 1
            continue
        fate['taken'] += 1
        assert state == MazeState.from_dict(json.loads(json.dumps(state.to_dict())))
    assert min(fate.values()) > MUTATIONS / 100 and fate['taken'] + fate['no state'] < MUTATIONS


# Values

ODD = [None, 'x', -1, 0, 1, 2, 3, 99, 1.5, True, [], [0], [0, 0, 0], [9, 9], [-1, 2], '.', '#.', ['..', '..']]


def damaged(values, rng):
    "A state's dict with something changed"
    values = json.loads(json.dumps(values))
    name = rng.choice(list(values))
    kind = rng.integers(6)
    if kind == 0:
        del values[name]
    elif kind == 1:
        values['extra'] = 1
    elif kind == 2:
        values[name] = ODD[rng.integers(len(ODD))]
    else:
        row = rng.integers(len(values['rows']))
        text = values['rows'][row]
        at = rng.integers(len(text))
        values['rows'][row] = (
            text[:at] + rng.choice(list('.#12.#12M?')) + text[at + rng.integers(kind > 3, 2) :]
        )
    return values


@needs_engine
def test_damaged_dicts_are_refused_or_are_states_that_the_engine_plays():
    rng = np.random.default_rng(1)
    fate, taken = Counter(), []
    for _ in range(MUTATIONS):
        try:
            state = MazeState.from_dict(damaged(some_states()[rng.integers(80)].to_dict(), rng))
        except ValueError:
            fate['refused'] += 1
            continue
        assert MazeState.from_dict(state.to_dict()) == state
        for sentence in state.problems():
            assert sentence.startswith(('The mouse', 'There are')) and sentence.endswith('.')
        if state.grid[state.mouse]:
            with pytest.raises(ValueError, match='cell under the mouse'):
                engine_state(state)
        else:
            taken.append(state)
    fate['taken'] = len(taken)
    assert min(fate['taken'], fate['refused']) > MUTATIONS / 5
    for first in range(0, len(taken), 64):
        batch = (taken[first : first + 64] * 64)[:64]
        engine().load([write_state(engine_state(state, background='black')) for state in batch])
        for state, frame in zip(batch, engine().frames()):
            renderer, level = renderer_of(state.size), as_levels([state])
            cell = torch.tensor([state.mouse.col + state.size * state.mouse.row])
            facing = torch.tensor([state.facing])
            ours = renderer.frames(renderer.scenes(level), 0 * cell, cell, facing)
            np.testing.assert_array_equal(frame, ours[0])


@cache
def renderer_of(size):
    return Renderer(size, PAIR, 'black')


def test_states_are_values():
    state = some_states()[0]
    assert (
        state
        == MazeState(state.grid.copy(), tuple(state.mouse), state.facing, state.background, seed=state.seed)
        and len({state, state.with_mouse(state.mouse)}) == 1
    )
    with pytest.raises(ValueError, match='read-only'):
        state.grid[0, 0] = 0
    with pytest.raises(AttributeError):
        state.mouse = (0, 0)
    before = state.to_dict()
    corner = state.with_corridor_to_corner()
    assert corner.is_open[24, 24] and corner.maze_size == state.maze_size and corner.corner == state.corner
    assert np.isfinite(corner.distances_from(state.mouse)[24, 24]) or not state.is_open[state.corner]
    assert state.with_cheese(None).cheese is None and state.with_cheese(None) != state
    assert state.with_cheese(None).with_cheese(state.cheese) == state
    assert state.with_mouse(state.mouse, 1 - state.facing) != state and state.to_dict() == before


def test_drawings():
    for state in some_states():
        rest = dict(facing=state.facing, background=state.background, seed=state.seed)
        assert MazeState.from_ascii(state.to_ascii(), **rest) == state
        assert state.to_ascii() == draw_level(as_levels([state]))


BAD = [
    (lambda s: MazeState(s.grid[:-1], s.mouse), 'grid'),
    (lambda s: MazeState(s.grid + 9, s.mouse), 'cell code'),
    (lambda s: MazeState(s.grid * 1.0, s.mouse), 'grid'),
    (lambda s: MazeState(np.zeros((4, 4), int), (0, 0)), 'size: got 4'),
    (lambda s: MazeState(s.grid, (0, 25)), 'square'),
    (lambda s: MazeState(s.grid, s.mouse, 2), 'facing'),
    (lambda s: MazeState(s.grid, s.mouse, 0, 9), 'background'),
    (lambda s: MazeState(s.grid, s.mouse, 0, 0, 4), 'maze_size'),
    (lambda s: s.with_mouse((99, 0)), 'square'),
    (lambda s: s.with_object(WALL, (0, 0)), 'code: got 1'),
    (lambda s: s.with_cheese(s.mouse), 'open floor'),
    (lambda s: s.with_walls({s.mouse: True}), 'square of a wall'),
    (lambda s: s.with_walls({s.cheese: True}), 'square of a wall'),
    (lambda s: as_levels([s, some_states()[-1]]), 'sizes of the states'),
    (lambda s: as_levels([s.with_mouse(s.cheese)]), 'cell under the mouse'),
    (lambda s: MazeState.from_ascii('M.\n..\n..'), 'row lengths'),
    (lambda s: MazeState.from_ascii('...\n...\n...'), 'number of M'),
    (lambda s: MazeState.from_ascii(''), 'row lengths'),
    (lambda s: MazeState.from_dict([]), 'maze state'),
    (lambda s: empty_state('french'), 'dialect'),
    (lambda s: engine_state(s, 'stock', 'grey'), 'background'),
    (lambda s: engine_state(s.with_mouse(s.cheese)), 'cell under the mouse'),
    (lambda s: decision_probs(field_of(5, 1, dead_ends=False)), 'decision square'),
    (lambda s: reach_probs(field_of(5, 0), [(1, 1)]), 'target'),
    (lambda s: path_probability(field_of(5, 0), (1, 1)), 'target'),
    (lambda s: path_probability(field_of(5, 0), facing='up'), 'facing'),
    (lambda s: compute_field(s, dice, Renderer(5)), 'level size'),
    (lambda s: sample_states(HARD, 1, mouse='cheese'), 'mouse'),
]


@pytest.mark.parametrize('call, message', BAD, ids=[f'{m}-{i}' for i, (_, m) in enumerate(BAD)])
def test_bad_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call(some_states()[0])


def test_problems():
    state = as_states(generate(HARD, [0]))[0]
    assert state.problems(HARD) == []
    closed = dict.fromkeys([(10, 6), (12, 6), (11, 7)], True)
    for other, sentence in [
        (state.with_mouse((0, 0)), 'The mouse stands in a wall.'),
        (state.with_mouse(state.cheese), 'The mouse stands on object 1.'),
        (state.with_walls(closed), 'The mouse cannot walk to object 1.'),
    ]:
        assert sentence in other.problems()
    for other, sentence in [
        (state.with_walls({(6, 8): True}), 'There are walls where all rooms are open.'),
        (state.with_walls({(7, 7): False}), 'There is no wall where all have one.'),
        (state.with_walls({(6, 10): True}), 'There is not exactly one way between squares.'),
        (state.with_corridor_to_corner(), 'There are open squares outside the maze.'),
        (state.with_cheese(None), 'Object 1 is missing.'),
        (some_states()[-1], 'The world has 5 cells on a side, not 25.'),
    ]:
        assert sentence in other.problems(HARD)
    for spec in (HARD, MazeSpec(), MazeSpec(9, (10.0, -10.0)), MazeSpec(15, random_size=True)):
        assert not [s.problems(spec) for s in as_states(generate(spec, range(60))) if s.problems(spec)]


# Paths


def graph(state):
    "The maze as another library sees it"
    found = nx.grid_2d_graph(state.size, state.size)
    found.remove_nodes_from([tuple(square) for square in np.argwhere(state.grid == WALL).tolist()])
    return found


def test_walks_are_shortest():
    rng = np.random.default_rng(2)
    for state in some_states()[::2]:
        maze = graph(state)
        squares = state.open_squares()
        assert set(squares) == set(maze) and state.is_tree() == nx.is_tree(maze)
        a, b = (squares[i] for i in rng.integers(len(squares), size=2))
        path = state.path(a, b)
        assert (path[0], path[-1]) == (a, b) and len(path) - 1 == nx.shortest_path_length(maze, a, b)
        assert all(there in state.neighbours_of(here) for here, there in zip(path, path[1:]))
        lengths = nx.single_source_shortest_path_length(maze, a)
        assert {s: state.distances_from(a)[s] for s in squares} == lengths


def last_in_common(state, start):
    "The definition, word by word"
    ways = [state.path(start, goal) for goal in (state.cheese, state.corner)]
    if not all(ways):
        return None
    both = [a for a, b in zip(*ways) if a == b]
    return None if len(both) in map(len, ways) else both[-1]


def test_decision_squares():
    "From any start, in trees and in mazes with loops, one at a time and many at once"
    found = Counter()
    for state in [
        *some_states(),
        *(s.with_walls({s.neighbours_of(s.mouse)[0]: False}) for s in some_states()),
    ]:
        starts = state.open_squares()[::37]
        squares = [state.decision_square(start) for start in starts]
        assert squares == [last_in_common(state, start) for start in starts]
        n = len(starts)
        many = parting_squares(
            np.repeat(state.is_open[None], n, 0),
            np.array(starts),
            *(np.array([goal] * n) for goal in (state.cheese, state.corner)),
        )
        assert [Square(*pair) if pair[0] >= 0 else None for pair in many.tolist()] == squares
        found.update(square is None for square in squares)
    assert min(found.values()) > 30
    cut = MazeState.from_ascii('..1\n###\nM..')
    assert cut.path((0, 0), (2, 0)) == [] and cut.decision_square() is None


def test_seed_zero():
    "The numbers that everybody who works on Procgen's mazes can check"
    state = as_states(generate(HARD, [0]))[0]
    inner = {
        name: (square.row - 6, square.col - 6)
        for name, square in dict(
            cheese=state.cheese, decision=state.decision_square(), mouse=state.mouse
        ).items()
    }
    assert inner == dict(cheese=(5, 0), decision=(6, 4), mouse=(0, 0))
    assert state.maze_size == 13 and (state.grid == SPACE).sum() == 96 and len(state.table()) == 192
    assert [ACTION_MOVES.index(move) for move in range(4)] == [0, 3, 5, 6]


def test_the_map_of_actions():
    names = 'left left left down stay up right right right stay stay stay stay stay stay'.split()
    order = 'left', 'down', 'up', 'right', 'stay'
    assert tuple(order.index(name) for name in names) == ACTION_MOVES


# Seeds


def test_found_seeds_are_all_there_are():
    def wanted(t):
        return (t.maze_size == 9) & t.has_decision & (t.cheese_region <= 3)

    found = list(find_seeds(HARD, wanted, range(1500), chunk=400))
    states = as_states(generate(HARD, range(1500)))
    slowly = [
        s.seed
        for s in states
        if s.maze_size == 9 and s.decision_square() and min(s.cheese) > s.corner.row - 3
    ]
    assert found == slowly and len(found) > 3


def test_the_table_of_levels():
    states = some_states()[:40]
    table = describe_levels(as_levels(states))
    for state, row in zip(states, table.itertuples()):
        decision = state.decision_square()
        assert (row.cheese_row, row.cheese_col) == state.cheese and row.maze_size == state.maze_size
        assert row.has_decision == (decision is not None)
        assert not row.has_decision or (row.decision_row, row.decision_col) == decision
        assert row.steps_to_cheese == state.distances_from(state.mouse)[state.cheese]
    empty = describe_levels(as_levels([state.with_cheese(None) for state in states]))
    assert not empty.has_decision.any() and (empty.cheese_row == -1).all()


# Fields


def dice(frames):
    return torch.eye(15)[[1, 3, 5, 7, 4]].mean(0).expand(len(frames), -1)


@cache
def field_of(size, seed, dead_ends=True, policy_seed=1):
    "An untrained network, made less undecided, in a maze with two objects"
    policy = Policy(policy_seed).eval()
    with torch.no_grad():
        policy.fc_policy.weight *= 300
    state = as_states(generate(MazeSpec(size, (10.0, -10.0), dead_ends), [seed]))[0]
    return compute_field(state, policy, Renderer(size, ('red line', 'yellow gem')))


@pytest.mark.parametrize('scale, parameters', [(1, 626256), (4, 3653136)])
def test_agents_of_both_sizes_also_from_published_files(scale, parameters, tmp_path):
    policy = Policy(3, scale).eval()
    assert sum(p.numel() for p in policy.parameters()) == parameters
    optimiser = torch.optim.Adam(policy.parameters())
    torch.save(
        dict(model_state_dict=policy.state_dict(), optimizer_state_dict=optimiser.state_dict()),
        tmp_path / 'model.pth',
    )
    save_weights(policy, tmp_path / 'model.safetensors')
    state = as_states(generate(HARD, [3]))[0]
    world = get_world('maze', 'hard')
    renderer = world_renderer(world)
    asked = [policy, load_policy(tmp_path / 'model.pth'), tmp_path / 'model.safetensors']
    first, *others = (compute_field(state, agent, renderer).action_probs for agent in asked)
    for other in others:
        torch.testing.assert_close(first, other, rtol=0, atol=0)
    scenes = renderer.scenes(as_levels([state]))
    table = state.table()
    everywhere = torch.arange(len(table))
    frames = renderer.frames(scenes, 0 * everywhere, table.cell, table.facing)
    with torch.no_grad():
        plain = policy(frames)[0].softmax(1)
    torch.testing.assert_close(first, plain, rtol=0, atol=1e-5)


def test_many_fields_are_those_of_each_alone():
    states = [state.with_cheese(None) for state in some_states()[:2]] + some_states()[:3]
    renderer = world_renderer(get_world('maze', 'hard'), 'black')
    policy = Policy(0).eval()
    for field, state in zip(compute_fields(states, policy, renderer), states):
        alone = compute_field(state, policy, renderer)
        torch.testing.assert_close(field.action_probs, alone.action_probs, rtol=0, atol=1e-6)
        assert field.state == state and len(field) == (state.grid == SPACE).sum()
        assert set(map(tuple, field.squares.tolist())) == {
            square for square in state.open_squares() if state.grid[square] == SPACE
        }


def play(field, episodes, horizon, seed=0):
    "Episodes one after the other: squares that were visited, the ends, and where it was too late"
    rng = np.random.default_rng(seed)
    state, table = field.state, field.table
    outcome, following = table.outcome.numpy(), table.next.numpy()
    cumulated = field.moves.reshape(-1, 5).cumsum(1)
    seen, ends, late = np.zeros(state.grid.shape), Counter(), np.zeros(state.grid.shape)
    for _ in range(episodes):
        at, visited = int(table.start[0]), set()
        for _ in range(horizon):
            visited.add(int(table.cell[at]))
            move = int(np.searchsorted(cumulated[at], rng.random() * cumulated[at, -1]))
            if outcome[at, move]:
                ends[int(outcome[at, move])] += 1
                break
            at = following[at, move]
        else:
            visited.add(int(table.cell[at]))
            late.ravel()[int(table.cell[at])] += 1
        seen.ravel()[list(visited)] += 1
    return seen / episodes, ends, late / episodes


@pytest.mark.parametrize('size, seed, facing', [(5, 0, 0), (5, 3, 1), (9, 1, 1)])
def test_exact_numbers_agree_with_episodes(size, seed, facing):
    "Within four standard errors, a thousand episodes of thirty steps"
    field = field_of(size, seed)
    state = field.state.with_mouse(field.state.mouse, facing)
    field = type(field)(state, state.table((10.0, -10.0)), field.action_probs)
    horizon, n = 30, 1000
    seen, ends, late = play(field, n, horizon)
    exact = field_endings(field, horizon)

    def agree(played, expected):
        assert (abs(played - expected) <= 4 * np.sqrt(expected * (1 - expected) / n) + 4 / n).all()

    agree(np.array([ends[1], ends[2]]) / n, np.array([exact.p1[0], exact.p2[0]]))
    agree(seen[tuple(field.squares.T)], reach_probs(field, horizon=horizon).clip(0, 1))
    agree(late[tuple(field.squares.T)], stuck_mass(field, horizon).clip(0, 1))
    objects = [state.find_object(code) for code in (OBJ1, OBJ2)]
    np.testing.assert_allclose(reach_probs(field, objects, horizon), [exact.p1[0], exact.p2[0]], atol=1e-12)
    np.testing.assert_allclose(occupancy(field, horizon).sum(), exact.steps[0])
    np.testing.assert_allclose(stuck_mass(field, horizon).sum(), exact.timeout[0], atol=1e-12)


def test_the_figure_of_a_path():
    "Multiplied out by hand, in both ways of facing"
    field = field_of(9, 1)
    state = field.state
    path = state.path(state.mouse, state.corner)
    rows = {tuple(square): row for row, square in enumerate(field.squares.tolist())}
    steps = {(0, -1): 0, (-1, 0): 1, (1, 0): 2, (0, 1): 3}
    facing, followed, fixed = state.facing, [], []
    for here, there in zip(path, path[1:]):
        move = steps[there[0] - here[0], there[1] - here[1]]
        if here in rows:
            followed.append(field.moves[rows[here], facing, move])
            fixed.append(field.moves[rows[here], 1, move])
        facing = {0: 0, 3: 1}.get(move, facing)
    assert path_probability(field, state.corner) == pytest.approx(np.prod(followed) ** (1 / len(followed)))
    assert path_probability(field, state.corner, 'right') == pytest.approx(np.prod(fixed) ** (1 / len(fixed)))


def test_a_path_walked_for_certain_is_reached_for_certain():
    "A policy that looks the way up: both figures are 1 on its path"
    state = as_states(generate(HARD, [0]))[0]
    field = compute_field(state, dice, world_renderer(get_world('maze', 'hard'), 'black'))
    path = state.path(state.mouse, state.cheese)
    probs = torch.zeros_like(field.action_probs)
    probs[:, 4] = 1
    rows = {tuple(square): row for row, square in enumerate(field.squares.tolist())}
    actions = {(0, -1): 1, (-1, 0): 3, (1, 0): 5, (0, 1): 7}
    for here, there in zip(path, path[1:]):
        for facing in (0, 1):
            probs[2 * rows[here] + facing] = torch.eye(15)[actions[there[0] - here[0], there[1] - here[1]]]
    walker = type(field)(state, field.table, probs)
    assert path_probability(walker) == 1 and reach_probs(walker, [state.cheese]) == 1
    assert decision_probs(walker) == (1, 0, 0) and field_endings(walker).steps[0] == len(path) - 1
    np.testing.assert_allclose(decision_probs(field), (0.2, 0.2, 0.6), atol=1e-6)


def test_differences():
    a, b = field_of(9, 1), field_of(9, 1, policy_seed=2)
    without = compute_field(a.state.with_cheese(None), dice, Renderer(9, ('red line', 'yellow gem')))
    for one, other in ((a, b), (a, without), (without, b)):
        change = compare_fields(one, other)
        rows = [{tuple(s): m for s, m in zip(f.squares.tolist(), f.moves)} for f in (one, other)]
        shared = sorted(rows[0].keys() & rows[1].keys())
        assert [tuple(s) for s in change.squares.tolist()] == shared and len(shared) == len(a)
        deltas = np.array([rows[1][s] - rows[0][s] for s in shared])
        largest = np.maximum(deltas, 0).sum(-1)  # of all events, the one whose probability grows most
        np.testing.assert_allclose(change.total_variation, largest, atol=1e-12)
        assert change.mean_total_variation == pytest.approx(largest.mean())
        legacy = np.sqrt((deltas[:, 0, :4] ** 2).sum()) / len(deltas) / 2
        assert change.legacy_magnitude == pytest.approx(legacy)
    assert compare_fields(a, a).mean_total_variation == 0


def test_a_square_means_the_same_to_edits():
    "Row and column here, x and y there; a pair that is no `Square` is x and y"
    square = Square(row=3, col=1)
    assert entries_over(square, 16) == entries_over((1, 3), 16) != entries_over((3, 1), 16)
