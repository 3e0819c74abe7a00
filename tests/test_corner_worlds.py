"""Worlds other than the paper's: training on any distribution of levels; goal and proxy, exactly"""

from dataclasses import replace

import numpy as np
import pytest
import torch

from goalmisgen.agents import training_levels
from goalmisgen.agents.exact_ppo import ExactPPO, ExactPPOConfig
from goalmisgen.agents.population import train_population
from goalmisgen.agents.ppo import PPO, PPOConfig
from goalmisgen.agents.training import Seeds, config_from, names_of_run, train_agent
from goalmisgen.agents.training_levels import FIRST_UNSEEN, examine, training_distribution
from goalmisgen.core import read_json, to_dict
from goalmisgen.env.chain import Solver, absorption, move_probs
from goalmisgen.env.distributions import corner_cells, family_of, sample_levels
from goalmisgen.env.levels import MazeSpec, distances, generate
from goalmisgen.env.maze import MazeEnv
from goalmisgen.env.render import Renderer
from goalmisgen.env.table import ACTION_MOVES, MOVE_STEPS, StateTable
from goalmisgen.evaluation.agents import AgentFile
from goalmisgen.evaluation.exact import evaluate_exact
from goalmisgen.evaluation.goals import evaluate_goals, regret_of_moves
from goalmisgen.evaluation.population import evaluate_population
from goalmisgen.evaluation.questions import Setting
from goalmisgen.evaluation.results import read_results
from goalmisgen.evaluation.sampled import evaluate_sampled
from goalmisgen.evaluation.settings import settings_for
from goalmisgen.films.watch import WatchOptions, watch

CORNER = '7x7, dead ends, random size, region 3'
SMALL = dict(goal='cheese', levels_per_solve=6, updates=6, updates_per_solve=2, batch_size=32, gamma=0.99)
FRESH = ExactPPOConfig(levels=CORNER, uniform=0.3, **SMALL)
MIXED = f'0.9 ({CORNER}) + 0.1 (7x7, dead ends, random size)'
PLACE = 'top right corner'


def files(folder):
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}


@pytest.fixture(autouse=True)
def small_examination(monkeypatch):
    monkeypatch.setattr(training_levels, 'EXAM_SIZE', 12)


def north_east(frames):
    "Up or right, whatever is seen"
    probs = torch.full((len(frames), 15), 0.02)
    probs[:, [5, 7]] = 0.37
    return probs


@pytest.mark.parametrize(
    'config',
    [
        FRESH,
        replace(FRESH, replay=0.5, replay_size=20),
        replace(FRESH, num_levels=20),
        replace(FRESH, levels=MIXED),
    ],
    ids=['fresh', 'replayed', 'listed', 'mixed'],
)
def test_a_run_on_any_levels_is_the_same_in_one_go_in_pieces_and_beside_others(config, tmp_path):
    train_agent(config, Seeds(1), tmp_path / 'once')
    while not train_agent(config, Seeds(1), tmp_path / 'often', stop=lambda: True):
        pass
    assert files(tmp_path / 'once') == files(tmp_path / 'often')
    train_population(config, [0, 1], tmp_path / 'two', workers=1, progress=False)
    assert files(tmp_path / 'two' / 'agent-1') == files(tmp_path / 'once')
    manifest = read_json(tmp_path / 'once' / 'manifest.json')
    assert config_from(manifest) == config and manifest['config']['size'] == 7
    assert ('unseen_levels' in manifest['training_levels']) == (not config.num_levels)


@pytest.mark.parametrize('config', [FRESH, replace(FRESH, num_levels=20)], ids=['fresh', 'listed'])
def test_a_run_killed_after_its_last_checkpoint_ends_as_it_would_have(config, tmp_path):
    train_agent(config, Seeds(1), tmp_path / 'once')
    learner = ExactPPO(config, Seeds(1))
    while not learner.done:
        learner.learn()
    learner.save(tmp_path / 'killed' / 'trainer.pt')
    train_agent(config, Seeds(1), tmp_path / 'killed')
    assert files(tmp_path / 'killed') == files(tmp_path / 'once')


def test_every_round_has_levels_of_its_own_and_none_of_the_examination():
    learner, seen = ExactPPO(FRESH, Seeds(0)), []
    while not learner.done:
        learner.learn()
        seen += learner.world.table.levels.seeds.tolist()
    assert len(set(seen)) == len(seen) == 18 and max(seen) < FIRST_UNSEEN
    again = sample_levels(training_distribution(FRESH), seen[-6:])
    assert (again.grid == learner.world.table.levels.grid).all()


def test_replay_brings_back_the_levels_of_most_regret():
    config = replace(FRESH, updates=20, replay=0.5, replay_size=4, replay_temperature=0.2)
    learner, rounds = ExactPPO(config, Seeds(0)), []
    while not learner.done:
        before = set(learner.replay.seeds.tolist())
        learner.learn()
        now = learner.world.table.levels
        rounds.append((before, now.seeds.tolist()))
    assert all(set(seeds[:3]) <= before for before, seeds in rounds if len(before) >= 3)
    # what is remembered is what a solver of the same policy says
    probe = ExactPPO(config, Seeds(0))
    probe.learn()
    moves = move_probs(ExactPPO(config, Seeds(0)).policy(probe.world.rendered.all_frames())[0].softmax(1))
    regret = regret_of_moves(probe.world.table, moves.detach(), config.gamma)
    order = np.argsort(-regret)[:4]
    assert probe.replay.seeds.tolist() == probe.world.table.levels.seeds[order].tolist()
    # the learner runs in training precision
    np.testing.assert_allclose(probe.replay.regret, regret[order], atol=0.05)


def test_what_runs_were_called_before_there_were_worlds():
    plain = to_dict(ExactPPOConfig())
    old = {k: v for k, v in plain.items() if k not in ExactPPOConfig.added_fields}
    from goalmisgen.core import digest

    assert digest([old, to_dict(Seeds(3))]) in names_of_run(ExactPPOConfig(), Seeds(3), 'float32')
    assert ExactPPOConfig(levels='7x7', num_levels=9) == ExactPPOConfig(size=7, num_levels=9)
    assert names_of_run(FRESH, Seeds(3), 'float32') != names_of_run(
        replace(FRESH, levels='7x7'), Seeds(3), 'float32'
    )


def test_the_papers_ppo_plays_in_any_world():
    config = PPOConfig(
        goal='cheese', levels=MIXED, num_levels=0, num_envs=8, rollout=8, minibatches=2, env_steps=128
    )
    learner = PPO(config, Seeds(0))
    while not learner.done:
        learner.learn()
    assert learner.env.spec == training_distribution(config)
    levels = learner.env.table.levels
    assert (levels.grid == sample_levels(learner.env.spec, levels.seeds).grid).all()
    assert 0 < family_of(learner.env.spec, levels.seeds).mean() < 0.3


def test_systems_of_large_levels_against_walking():
    "Values and visits of the rows that a level has, against the discounted sum over the steps of its chain"
    table = StateTable(generate(MazeSpec(15, dead_ends=True, random_size=True), range(6)))
    g = torch.Generator().manual_seed(0)
    moves = move_probs(torch.randn((len(table), 15), generator=g).softmax(1))
    solver, every = Solver(table), torch.arange(6)
    states = solver.states(every)
    assert sorted(states.tolist()) == list(range(len(table)))
    advantages, values, visits = solver.solve(every, moves[states], 0.97)
    reward, now, gone = torch.zeros(6).double(), torch.zeros(len(table)).double(), torch.zeros(len(table))
    now[table.start], walked = 1, torch.zeros(len(table)).double()
    for t in range(1500):
        walked += 0.97**t * now
        arrived = now[:, None] * moves * (table.outcome == 1)
        reward.index_add_(0, table.level, 10 * 0.97**t * arrived.sum(1))
        going = now[:, None] * moves * (table.outcome == 0)
        now = torch.zeros_like(now).index_add_(0, table.next.flatten().long(), going.flatten())
    np.testing.assert_allclose(visits, walked[states], atol=1e-9)
    np.testing.assert_allclose(values[torch.isin(states, table.start)], reward, atol=1e-9)
    np.testing.assert_allclose((advantages * moves[states]).sum(1), gone, atol=1e-9)


@pytest.mark.parametrize('corner', ['top right corner', 'top left corner', 'bottom right corner'])
@pytest.mark.parametrize('background', ['black', 'textured'])
def test_who_is_asked_about_a_corner_sees_nothing_of_it(corner, background):
    world = '9x9, dead ends, random size'
    setting = Setting('cheese', corner, background, world)
    levels = setting.levels_of(range(60))
    plain = generate(MazeSpec(9, dead_ends=True, random_size=True), levels.seeds)
    shown = setting.renderer().first_frames(levels)
    assert (shown == Renderer(9, 'cheese', background).first_frames(plain)).all() and len(levels) < 60
    x, y = corner_cells(plain, corner).T
    assert (levels.grid[np.arange(len(x)), y, x] == 3).all()
    alone = Setting('nothing', corner, background, world).levels_of(levels.seeds)
    assert (alone.grid == np.where(levels.grid == 2, 0, levels.grid)).all()


def test_goal_and_proxy_against_the_chain_of_the_marked_levels():
    seeds = range(3000, 3080)
    found = evaluate_goals(north_east, 'cheese', world='7x7, dead ends', levels=seeds)
    plain = generate(MazeSpec(7, dead_ends=True), seeds)
    x, y = corner_cells(plain, PLACE).T
    there = plain.grid[np.arange(80), y, x] == 2
    marked = replace(plain, grid=plain.grid.copy())
    marked.grid[np.arange(80)[~there], y[~there], x[~there]] = 3
    moves = move_probs(north_east(torch.zeros(1)))

    def endings(levels, rewards):
        table = StateTable(levels, rewards)
        return absorption(table, moves.expand(len(table), 5))

    both, alone = endings(marked[~there], (10.0, -10.0)), endings(plain, (10.0,))
    assert found.coincide == pytest.approx(there.mean())
    assert found.goal_first == pytest.approx(both.p1.mean(), abs=1e-5)
    assert found.proxy_first == pytest.approx(both.p2.mean(), abs=1e-5)
    assert found.p_goal == pytest.approx(alone.p1.mean(), abs=1e-5)
    assert found.goal_steps == pytest.approx(alone.steps.mean(), abs=1e-2)
    table = found.table().sort_values('seed')
    np.testing.assert_allclose(table.proxy_first, both.p2, atol=1e-5)
    assert (table.goal_distance == distances(plain[~there])).all() and (table.regret > 0).all()


def test_exact_and_played_answers_agree_in_large_worlds():
    setting = Setting('cheese', PLACE, 'black', '15x15, dead ends, random size')
    exact = evaluate_exact(north_east, setting, range(500, 540))
    played = evaluate_sampled(north_east, setting, range(500, 540), episodes=50)
    n = played.outcome.size
    assert n == 50 * len(exact.level_set.index) < 2000
    for e, p in ((exact.p1, played.p1), (exact.p2, played.p2)):
        assert 0.02 < e < 0.98 and abs(e - p) < 4 * (e * (1 - e) / n) ** 0.5
    assert exact.unexplored_mass.max() == 0


def walk(env, steps, rng):
    "Random steps, and where a slow mouse says that the corner was entered"
    corners = corner_cells(env.table.levels, PLACE)
    told, seen = [], []
    for _ in range(steps):
        table, state = env.table, env.state.clone()
        levels = table.level[state].numpy()
        actions = rng.integers(0, 15, env.num_envs)
        env.step(actions)
        told.append(env.proxy_rewards.numpy().copy())
        for e in range(env.num_envs):
            grid = table.levels.grid[levels[e]]
            y, x = divmod(int(table.cell[state[e]]), env.spec.size)
            dx, dy = MOVE_STEPS[ACTION_MOVES[actions[e]]]
            a, b = x + dx, y + dy
            free = 0 <= a < env.spec.size and 0 <= b < env.spec.size and grid[b, a] != 1
            to = (a, b) if free else (x, y)
            seen.append(10.0 * (to == tuple(corners[levels[e]]) and to != (x, y)))
    return np.concatenate(told), np.array(seen)


def test_environments_tell_when_the_corner_is_entered():
    for spec in (MazeSpec(3, region=2), MazeSpec(5, dead_ends=True)):
        env = MazeEnv(16, spec, num_levels=50, seed=1, objects=('cheese',), proxy=PLACE)
        told, seen = walk(env, 300, np.random.default_rng(0))
        assert (told == seen).all() and told.sum() > 100
    with pytest.raises(ValueError, match='proxy'):
        MazeEnv(2, proxy='bottom left corner')


def test_adapters_pass_on_what_the_environment_tells():
    from goalmisgen.env.adapters import single_env, vector_env

    many = vector_env('maze_aisc', 8, seed=0, proxy=PLACE, mode='easy')
    many.reset(seed=0)
    one = single_env('maze_aisc', seed=0, proxy=PLACE)
    _, info = one.reset(seed=0)
    assert 'proxy_rewards' not in info
    rng, total = np.random.default_rng(0), 0
    for _ in range(200):
        *_, info = many.step(rng.choice([5, 7], 8))
        assert (
            info['_proxy_rewards'].all() and (info['proxy_rewards'] == many.maze.proxy_rewards.numpy()).all()
        )
        total += info['proxy_rewards'].sum()
    assert total > 0 and one.step(5)[-1]['proxy_rewards'] == 0.0


def test_a_population_of_another_world_is_asked_at_home(tmp_path):
    train_population(FRESH, [0, 1], tmp_path / 'pop', workers=1, progress=False)
    (own,) = settings_for([AgentFile(None, 'a', goal='cheese', background='black', size=7, levels=CORNER)])
    assert str(own) == f'cheese vs {PLACE} on black in 7x7, dead ends, random size'
    out = tmp_path / 'table.csv'
    table = evaluate_population(
        tmp_path / 'pop', ['goals'], out, protocol=range(200, 220), workers=1, progress=False
    ).table
    assert set(table.world) == {own.world} and set(table.trained_levels) == {CORNER}
    assert [r.world for r in read_results(out)] == [own.world] * 6 and own.obj2 in set(table.obj2)
    with pytest.raises(ValueError, match='size of the mazes'):
        evaluate_population(tmp_path / 'pop', ['red line vs yellow gem'], out, progress=False)
    film = watch(
        tmp_path / 'pop' / 'agent-0', tmp_path / 'a.gif', WatchOptions(frames=4, level=300, levels=2)
    )
    assert film.stat().st_size > 1000


def test_what_an_agent_of_a_fresh_world_is_examined_on():
    policy = ExactPPO(FRESH, Seeds(0)).policy
    found = examine(policy, FRESH)
    rendered = evaluate_exact(
        policy, Setting('cheese', 'nothing', 'black', '7x7, dead ends'), range(5)
    )  # another world, another answer
    assert found['unseen_levels'] == 12 and 0 < found['success'] < 1 and rendered.p2 == 0


@pytest.mark.parametrize(
    'make, says',
    [
        (lambda: ExactPPOConfig(levels='7x7, region 3', num_levels=20_000), '1 to 10000'),
        (lambda: ExactPPOConfig(levels='27x27'), 'odd integer'),
        (lambda: ExactPPOConfig(levels='0.9 (7x7) + 0.2 (7x7, region 3)'), 'sum to 1'),
        (lambda: ExactPPOConfig(levels='7x7, rewards 10 -10'), 'one object'),
        (lambda: ExactPPOConfig(goal='chess', levels='7x7'), 'chess'),
        (lambda: ExactPPOConfig(replay=0.5), 'replay'),
        (lambda: PPOConfig(size=9, levels='7x7'), '7, the size'),
        (lambda: Setting('red line', 'yellow gem', 'black', '7x7, region 3'), 'one object'),
        (lambda: Setting('cheese', 'middle'), 'top right corner'),
        (lambda: Setting('cheese', PLACE, 'black', '7x7').level_set('census'), 'spec'),
        (lambda: Setting('cheese', PLACE, 'black', '5x5, region 0').level_set(range(9)), 'differ'),
        (lambda: WatchOptions(size=7, world='9x9'), 'one of the two'),
    ],
)
def test_worlds_that_cannot_be(make, says):
    with pytest.raises(ValueError, match=says):
        make()
