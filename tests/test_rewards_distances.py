"""Reward distances against their definitions spelled out in loops, regret against all policies of a tiny
maze, returns against play"""

import itertools
import random

import numpy as np
import pandas as pd
import pytest
import torch
from goalmisgen.rewards.agents import (
    LearnedReward,
    MazeAgentConfig,
    evaluate_true,
    exact_return,
    policy_probs,
    train_maze_agent,
)
from goalmisgen.rewards.distances import (
    CANONICAL_FORMS,
    FORETELLERS,
    GAMMA,
    dard_form,
    epic_form,
    moves_reward,
    rank_correlations,
    regret,
    reward_distances,
    shipped_distances,
    starc_form,
    state_values,
    true_reward,
)
from goalmisgen.rewards.grids import GridEnv, GridSpec, list_states
from goalmisgen.rewards.nets import load_rewards
from goalmisgen.rewards.transitions import noisy_expert, reward_data
from scipy.stats import spearmanr

CORNER = '####\n#..#\n##.#\n####'
LANE = '#####\n#...#\n#.#.#\n#####\n#####'


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def maze():
    return list_states(GridSpec('coin flip', CORNER, terminate=False))


def test_forms_are_the_definitions(maze, rng):
    states, gamma = range(len(maze)), 0.8
    R = rng.normal(size=(len(maze), len(maze)))
    after = lambda s: [maze.next[s, a] for a in range(4)]
    mean = lambda values: sum(values) / len(values)
    V = np.zeros(len(maze))
    for _ in range(400):
        V = np.array([mean([R[s, t] + gamma * V[t] for t in after(s)]) for s in states])
    for s, a in itertools.product(states, range(4)):
        t = maze.next[s, a]
        epic = R[s, t] + mean([gamma * R[t, y] - R[s, y] - gamma * R[x, y] for x in states for y in states])
        dard = R[s, t] + mean(
            [gamma * R[t, z] - R[s, y] - gamma * R[y, z] for y in after(s) for z in after(t)]
        )
        starc = R[s, t] - V[s] + gamma * V[t]
        for form, want in ((epic_form, epic), (dard_form, dard), (starc_form, starc)):
            assert np.isclose(form(R[None], maze, gamma)[0, s, a], want, atol=1e-9), form


def test_scale_and_shaping_do_not_count(rng):
    maze = list_states(GridSpec('two', terminate=False))
    R = rng.normal(size=(2, len(maze), len(maze)))
    potential = rng.normal(size=len(maze))
    same = 2.5 * R + GAMMA * potential - potential[:, None]
    a, b = reward_distances(R, maze), reward_distances(same, maze)
    assert np.allclose(a[['EPIC', 'DARD', 'STARC']], b[['EPIC', 'DARD', 'STARC']], atol=1e-9)
    assert not np.allclose(a.Pearson, b.Pearson, atol=1e-3) and np.allclose(
        regret(moves_reward(R, maze), maze), regret(moves_reward(same, maze), maze)
    )


def test_distances_name_what_they_need(maze):
    with pytest.raises(ValueError, match='terminate=False'):
        reward_distances(true_reward(maze)[None], list_states(GridSpec('coin flip', CORNER)))
    with pytest.raises(ValueError, match='shape of reward'):
        reward_distances(np.zeros((1, 2, 2)), maze)
    with pytest.raises(ValueError, match='gamma'):
        reward_distances(true_reward(maze)[None], maze, 1.0)


@pytest.mark.parametrize('terminate', [True, False])
def test_regret_among_all_policies(rng, terminate):
    """Every deterministic policy of a maze of three cells: the best for a reward has the true return that
    regret says"""
    maze = list_states(GridSpec('fixed', CORNER, terminate=terminate))
    policies = np.eye(4)[np.array(list(itertools.product(range(4), repeat=len(maze))))]
    true = state_values(policies, maze.reward[None], maze) @ maze.start
    for reward in rng.normal(size=(4, len(maze), 4)):
        learned = state_values(policies, reward[None], maze)
        best = np.flatnonzero((learned >= learned.max(0) - 1e-9).all(1))
        want = (true.max() - true[best]) / (true.max() - true.min())
        assert want.min() - 1e-9 <= regret(reward[None], maze)[0] <= want.max() + 1e-9


def test_values_are_discounted_returns(rng):
    maze = list_states(GridSpec('two', LANE, terminate=False))
    policy, reward = rng.dirichlet(np.ones(4), len(maze)), rng.normal(size=(len(maze), 4))
    total, here = 0, maze.start.copy()
    for t in range(1500):
        total += GAMMA**t * (here[:, None] * policy * reward).sum()
        here = sum(np.bincount(maze.next[:, a], here * policy[:, a], len(maze)) for a in range(4))
    assert np.isclose(state_values(policy[None], reward[None], maze)[0] @ maze.start, total, atol=1e-8)


def test_rank_correlations_are_spearmans():
    table = shipped_distances()
    assert (
        len(table) == 360
        and table.groupby('asked').size().eq(120).all()
        and set(CANONICAL_FORMS) < set(table)
    )
    found = rank_correlations(table, resamples=30)
    part = table[table.asked == 'two']
    for name in ('regret', 'regret_ending'):
        rows = found[(found.asked == 'two') & (found.regret == name)].set_index('measure')
        want = [spearmanr(part[m], part[name]).statistic for m in FORETELLERS]
        assert (
            np.allclose(rows.rho.loc[list(FORETELLERS)], want)
            and (rows.low <= rows.high).all()
            and np.isclose(rows.ranks_first.sum(), 1)
        )


@pytest.fixture(scope='module')
def shipped():
    return load_rewards(reward_data('networks.npz'))


def test_exact_return_is_that_of_play():
    spec = GridSpec('two', terminate=False)
    maze, env, rng = list_states(spec), GridEnv(spec), np.random.default_rng(3)
    policy, returns = noisy_expert(maze, 0.9), []
    for episode in range(150):
        _, info = env.reset(seed=episode)
        total, cut = 0, False
        while not cut:
            _, reward, _, cut, info = env.step(rng.choice(4, p=policy[info['state']]))
            total += reward
        returns.append(total)
    assert abs(np.mean(returns) - exact_return(policy, maze.reward, maze)) < 4 * np.std(returns) / np.sqrt(
        150
    )


def test_learned_reward_never_reaches_the_judge(shipped):
    env = LearnedReward(GridEnv(GridSpec('two')), shipped, 1)
    env.reset(options=dict(state=1))
    before = env.env._scenes[1]
    seen, paid, done, _, info = env.step(2)
    assert (
        done
        and info['true_reward'] == 1
        and np.isclose(paid, shipped.predict(np.stack([before, seen])[None])[1, 0], atol=1e-5)
        and paid < 0.2
    )
    uniform = lambda scenes: np.full((len(scenes), 4), 0.25)
    with pytest.raises(ValueError, match='a GridSpec'):
        evaluate_true(uniform, env)
    with pytest.raises(ValueError, match='for which the rewards were learned'):
        LearnedReward(GridEnv(size=9), shipped)
    with pytest.raises(ValueError, match='member'):
        LearnedReward(GridEnv(), shipped, 5)
    with pytest.raises(ValueError, match='probabilities'):
        policy_probs(lambda scenes: np.ones((len(scenes), 4)), list_states(GridSpec()))


def test_training_with_a_wrong_reward_is_judged_by_the_true_one(shipped):
    """A model that pays the opposite: the agent is told one thing and judged by the other; the global
    generators are left alone"""
    weights = {k: -v if k == '5.weight' else v for k, v in shipped.weights.items()}
    opposite = type(shipped)(shipped.config, shipped.size, shipped.seeds, weights)
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    model, curve = train_maze_agent(
        GridSpec('coin flip'), 0, opposite, 0, MazeAgentConfig(steps=64, rollout=64)
    )
    assert states == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())
    assert (
        (curve.true_return > 0).all() and (curve.learned_return < 0).all() and curve.steps.tolist() == [0, 64]
    )
    assert np.isclose(evaluate_true(model, GridSpec('coin flip')), curve.true_return.iloc[-1])
    assert (
        train_maze_agent(
            GridSpec('coin flip'), 0, config=MazeAgentConfig(steps=64, rollout=64), stop=lambda: True
        )
        is None
    )
    assert isinstance(curve, pd.DataFrame)
