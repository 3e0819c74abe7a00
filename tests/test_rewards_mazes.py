"""Reward mazes against a plain simulation, the population fit against a plain PyTorch loop, and files that
are not what they should be"""

import ast
import sys

import h5py
import numpy as np
import pytest
import torch
from goalmisgen.rewards import agents, atari, transitions
from goalmisgen.rewards.grids import GOAL_KINDS, GridEnv, GridSpec, free_cells, layout_walls, list_states
from goalmisgen.rewards.nets import (
    RewardConfig,
    as_pairs,
    fit_rewards,
    gradient_saliency,
    load_rewards,
    occlusion_saliency,
    reward_mlp,
    save_rewards,
)
from goalmisgen.rewards.scenes import counterfactual_scenes, reaching_preference
from goalmisgen.rewards.transitions import (
    Transitions,
    collect,
    load_hdf5,
    load_transitions,
    noisy_expert,
    reward_data,
    save_transitions,
    walk,
)
from scipy.sparse.csgraph import shortest_path
from scipy.stats import chisquare

SMALL = '#####\n#..##\n#...#\n#.#.#\n#####'
SPECS = [
    GridSpec(goal, layout, 7, terminate=end)
    for goal in GOAL_KINDS
    for layout in ('empty', 'walled')
    for end in (True, False)
]


class PlainMaze:
    "The maze by its rules, cell by cell, in no way like the tables"

    def __init__(self, walls, agent, goals, terminate):
        self.walls, self.agent, self.goals, self.terminate, self.steps = walls, agent, goals, terminate, 0

    def seen(self):
        scene = self.walls.astype(np.uint8)
        for goal in self.goals:
            scene[goal] = 3
        scene[self.agent] = 2
        return scene

    def step(self, action):
        row, column = self.agent
        there = [(row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)][action]
        if not self.walls[there]:
            self.agent = there
        self.steps += 1
        reached = self.agent in self.goals
        return (
            self.seen(),
            float(reached),
            reached and self.terminate,
            self.steps == (200 if self.terminate else 50),
        )


@pytest.mark.parametrize('spec', SPECS, ids=str)
def test_maze_follows_its_rules(spec):
    env, rng = GridEnv(spec), np.random.default_rng(0)
    last = tuple(env.table.cells[-1])
    possible = dict(fixed=[{last}], two=[{(1, 1), last}], random=[{tuple(c)} for c in env.table.cells])
    possible['coin flip'] = [{(1, 1)}, {last}]
    for episode in range(6):
        seen, _ = env.reset(seed=episode)
        agent, goals = (
            tuple(map(int, np.argwhere(seen == 2)[0])),
            {tuple(map(int, g)) for g in np.argwhere(seen == 3)},
        )
        hidden = [g for g in possible[spec.goal] if goals == g - {agent}]
        assert hidden, 'goals that there cannot be'
        plain = PlainMaze(env.table.walls, agent, hidden[0], spec.terminate)
        over = False
        while not over:
            action = int(rng.integers(4))
            seen, reward, done, cut, _ = env.step(action)
            want = plain.step(action)
            assert np.array_equal(seen, want[0]) and (reward, done, cut) == want[1:]
            over = done or cut


def test_walled_maze_is_a_tree():
    for seed in range(3):
        walls = layout_walls(GridSpec(layout='walled', layout_seed=seed))
        free = ~walls
        assert (free[1:] & free[:-1]).sum() + (free[:, 1:] & free[:, :-1]).sum() == len(free_cells(walls)) - 1
    assert not np.array_equal(
        layout_walls(GridSpec(layout='walled')), layout_walls(GridSpec(layout='walled', layout_seed=1))
    )


def test_distances_are_shortest_paths():
    table = list_states(GridSpec('two', 'walled', 9))
    graph = np.zeros((len(table),) * 2)
    for move in range(4):
        graph[np.arange(len(table)), table.next[:, move]] = 1
    np.fill_diagonal(graph, 0)
    far = shortest_path(graph, directed=False)[:, [0, len(table) - 1]].min(1)
    assert np.array_equal(table.distance, far)
    steps = noisy_expert(table, 0)
    assert all(
        table.distance[table.next[s, a]] == table.distance[s] - 1
        for s, a in np.argwhere(steps)
        if table.distance[s]
    )


def test_walk_plays_the_policy():
    table = list_states(GridSpec('fixed', SMALL))
    policy = np.random.default_rng(1).dirichlet(np.ones(4), len(table))
    states, moves = walk(table, policy, 40_000, np.random.default_rng(2))
    often = np.bincount(states, minlength=len(table)).argmax()
    counts = np.bincount(moves[states == often], minlength=4)
    assert chisquare(counts, counts.sum() * policy[often]).pvalue > 0.001
    goes_on = ~table.done[states, moves][:-1]
    follows = states[1:] == table.next[states, moves][:-1]
    assert follows[goes_on].mean() > 0.99 and not table.reward[states, moves][:-1][goes_on].any()


def test_balanced_and_unbalanced():
    table = list_states(GridSpec())
    even = collect(table, noisy_expert(table), 400, 3, balanced=True)
    assert even.rewarded == 0.5 and len(even) == 400
    pays = (even.pairs[:, 1] == 3).sum((1, 2)) == 0
    assert np.array_equal(pays, even.rewards == 1)
    still = np.tile([1.0, 0, 0, 0], (len(table), 1))
    with pytest.raises(ValueError, match='an even number'):
        collect(table, still, 401, balanced=True)
    blocked = list_states(GridSpec('fixed', SMALL, terminate=False))
    with pytest.raises(RuntimeError, match='too few'):
        collect(blocked, np.tile([1.0, 0, 0, 0], (len(blocked), 1)), 20, balanced=True)


def test_population_is_a_plain_loop():
    "Weights, order and steps as one would write them for a single network"
    table = list_states(GridSpec())
    data = collect(table, noisy_expert(table), 600, 5)
    found = fit_rewards(data, [(3, 8), (4, 9)], RewardConfig(epochs=2, batch=30))
    for m, (weights_seed, order_seed) in enumerate([(3, 8), (4, 9)]):
        torch.manual_seed(weights_seed)
        net, rng = reward_mlp(), np.random.default_rng(order_seed)
        adam = torch.optim.Adam(net.parameters(), lr=1e-3)
        pairs, rewards = torch.as_tensor(data.pairs).float(), torch.as_tensor(data.rewards)
        for _ in range(2):
            for batch in torch.as_tensor(rng.permutation(600)).split(30):
                adam.zero_grad()
                ((net(pairs[batch])[:, 0] - rewards[batch]) ** 2).sum().backward()
                adam.step()
        assert torch.allclose(net(pairs)[:, 0], torch.as_tensor(found.predict(data.pairs)[m]), atol=2e-4)


@pytest.fixture(scope='module')
def shipped():
    return load_rewards(reward_data('networks.npz'))


def test_saliency(shipped):
    table = list_states(GridSpec())
    pairs = counterfactual_scenes(table)['goal reached'][:2]
    shown = as_pairs(pairs, 11).requires_grad_()
    shipped.member(2)(shown).sum().backward()
    assert np.allclose(gradient_saliency(shipped, pairs)[2], shown.grad.abs(), atol=1e-5)
    maps, before = occlusion_saliency(shipped, pairs)[1], shipped.predict(pairs)[1]
    for side, row, column in ((0, 2, 1), (1, 1, 1), (1, 5, 5)):
        wiped = pairs.copy()
        wiped[:, side, row, column] = 0
        assert np.allclose(
            maps[:, side, row, column], (shipped.predict(wiped)[1] - before) ** 2 / 2, atol=1e-5
        )


def test_stopping_leaves_nothing():
    table = list_states(GridSpec())
    assert fit_rewards(collect(table, noisy_expert(table), 300), (0,), stop=lambda: True) is None


def test_preference_counts_only_what_is_paid():
    import pandas as pd

    asked = pd.DataFrame({'one of two': [0.5, -0.2, 1, -1], 'no goal': [0.5, 0.9, -3, -1]})
    assert np.allclose(reaching_preference(asked), [0.5, 0, 1, np.nan], equal_nan=True)


def test_published_files_are_read(tmp_path):
    table = list_states(GridSpec())
    data = collect(table, noisy_expert(table), 50)
    with h5py.File(tmp_path / 'old.hdf5', 'w') as file:
        for part in ('train', 'test'):
            file[f'{part}/inputs'], file[f'{part}/outputs'] = (
                data.pairs.astype(np.float32),
                data.rewards[:, None],
            )
    assert np.array_equal(load_transitions(tmp_path / 'old.hdf5').pairs, data.pairs)
    assert np.array_equal(load_hdf5(tmp_path / 'old.hdf5', 'test').rewards, data.rewards)
    with h5py.File(tmp_path / 'other.hdf5', 'w') as file:
        file['train/inputs'] = data.pairs
    with pytest.raises(ValueError, match='no data set of the published code'):
        load_transitions(tmp_path / 'other.hdf5')
    (tmp_path / 'text.hdf5').write_text('no')
    with pytest.raises(ValueError, match='no data set'):
        load_transitions(tmp_path / 'text.hdf5')
    with pytest.raises(FileNotFoundError):
        load_transitions(tmp_path / 'none.hdf5')


def test_bad_files_are_refused(tmp_path, shipped):
    table = list_states(GridSpec())
    data = collect(table, noisy_expert(table), 50)
    path = tmp_path / 'walk.npz'
    save_transitions(data, path)
    whole = path.read_bytes()
    for cut in (0, 10, len(whole) // 2, len(whole) - 4):
        path.write_bytes(whole[:cut])
        with pytest.raises(ValueError, match='walk.npz'):
            load_transitions(path)
    np.savez(path, pairs=data.pairs, rewards=np.array([{}, 'x'], object))
    with pytest.raises(ValueError, match='cannot be|not an .npz'):
        load_transitions(path)
    np.savez(path, pairs=data.pairs, rewards=data.rewards, more=1)
    with pytest.raises(ValueError, match='arrays in'):
        load_transitions(path)
    np.savez(path, pairs=data.pairs.astype(float), rewards=data.rewards)
    with pytest.raises(ValueError, match='pairs in'):
        load_transitions(path)
    np.savez(path, pairs=data.pairs, rewards=np.full(50, np.nan, np.float32))
    with pytest.raises(ValueError, match='finite'):
        load_transitions(path)
    with pytest.raises(ValueError, match=r'\(N, 2, n, n\)'):
        Transitions(data.pairs[:, :1], data.rewards)
    save_rewards(shipped, tmp_path / 'nets.npz')
    arrays = dict(np.load(tmp_path / 'nets.npz'))
    np.savez(tmp_path / 'nets.npz', **dict(arrays, **{'1.weight': arrays['1.weight'][:, :5]}))
    with pytest.raises(ValueError, match='weights in'):
        load_rewards(tmp_path / 'nets.npz')


@pytest.mark.parametrize(
    'module, name, call, extra',
    [
        (agents, 'stable_baselines3', agents.import_sb3, 'sb3'),
        (atari, 'ale_py', lambda: atari.make_raw_game('pong'), 'atari'),
        (transitions, 'h5py', lambda: transitions.load_hdf5('x.hdf5'), 'demos'),
    ],
)
def test_extras_are_asked_for_by_name(monkeypatch, module, name, call, extra):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=rf'goalmisgen\[{extra}\]'):
        call()
    top = [
        node
        for node in ast.parse(open(module.__file__, encoding='utf-8').read()).body
        if isinstance(node, (ast.Import, ast.ImportFrom))
    ]
    assert name not in {alias.name for node in top for alias in node.names} | {
        getattr(node, 'module', None) for node in top
    }
