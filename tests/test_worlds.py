"Every named world keeps the promises of the package, and its adapters those of gym3 and Gymnasium"

import pickle
from dataclasses import replace
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from answers import same
from goalmisgen.env import maze
from goalmisgen.env.adapters import GymnasiumMaze, GymnasiumMazes, register_worlds, single_env, vector_env
from goalmisgen.env.gym3 import Gym3Maze, procgen_like
from goalmisgen.env.levels import OBJ1, OBJ2, MazeSpec, distances, generate
from goalmisgen.env.random import level_seeds
from goalmisgen.env.table import ACTION_MOVES, MOVE_STEPS, StateTable
from goalmisgen.env.procgen import Engine, EngineMaze
from goalmisgen.env.render import Renderer
from goalmisgen.env.pictures import PICTURES, SUBSTITUTES, find_object, picture
from goalmisgen.env.worlds import ALIASES, WORLDS, World, get_world, make_env

REFERENCE = Path(__file__).parents[2] / 'shared/reference'
ALL = [(name, mode) for name in WORLDS for mode in ('easy', 'hard')]
each_world = pytest.mark.parametrize('name, mode', ALL)
with_gym3 = pytest.mark.skipif(find_spec('gym3') is None, reason='gym3 is not installed')
with_procgen = pytest.mark.skipif(find_spec('procgen') is None, reason='no procgen package is installed')
ACTIONS = np.random.default_rng(0).integers(0, 15, (600, 8))


def play(env, steps=60, action=None):
    """What an environment says in `steps` steps: rewards, dones, level seeds, times; and frames of every
    tenth step"""
    log, frames = [], []
    for t in range(steps):
        reward, done = env.step(ACTIONS[t, : env.num_envs] if action is None else [action] * env.num_envs)
        log.append(torch.stack([reward, done.float(), env.level_seed.float(), env.time.float()]))
        if t % 10 == 0:
            frames.append(env.frames())
    return torch.stack(log).numpy(), torch.stack(frames).numpy()


def assert_same_play(a, b, **options):
    for one, two in zip(play(a, **options), play(b, **options)):
        np.testing.assert_array_equal(one, two)


@pytest.fixture
def queue(monkeypatch):
    "Make every world too large for one table, so that levels are made as they come"
    monkeypatch.setattr(maze, 'SMALL_WORLD', 0)


# The registry


@each_world
def test_world(name, mode):
    w = get_world(name, mode)
    assert (w.name, w.mode) == (name, mode) and w.description.endswith('.') and w.source
    assert w.spec == replace(WORLDS[name].spec, size=w.spec.size) and (w.spec.size == 25) == (mode == 'hard')
    assert pickle.loads(pickle.dumps(w)) == w and hash(w) == hash(get_world(name, mode))


def test_games_of_the_earlier_experiments():
    "What each name stands for, in full"
    wide, decoy = MazeSpec(15, dead_ends=True, random_size=True), (10.0, 0.0)
    assert {n: w.spec for n, w in WORLDS.items()} == dict(
        maze_pure_line=MazeSpec(5),
        maze_duel=MazeSpec(5, (10.0, -10.0)),
        maze=wide,
        maze_aisc=replace(wide, region=0),
        maze_yellowline=wide,
        maze_redline_yellowgem=replace(wide, rewards=decoy),
        maze_yellowstar_redgem=replace(wide, rewards=decoy),
        maze_yellowline_test=MazeSpec(5),
        maze_redline_yellowgem_test=MazeSpec(5, decoy),
    )
    assert {n for n, w in WORLDS.items() if w.background == 'black'} == {'maze_pure_line', 'maze_duel'}
    assert all(get_world(a) == WORLDS[n] for a, n in ALIASES.items())


@pytest.mark.parametrize('size', range(3, 26, 2))
def test_any_objects_in_any_size(size):
    "Pictures of 27 and of 128 pixels side by side, drawn at every size"
    for objects in (('cheese', 'white line'), ('blue gem', 'cheese'), ('star', 'shaded red gem')):
        w = get_world('maze_duel', size=size, objects=objects)
        env = make_env(w, 2, num_levels=3)
        assert w.spec.size == size and w.objects == objects and env.frames().shape == (2, 64, 64, 3)
        assert get_world('maze_pure_line', objects=objects[0]).objects == objects[:1]


def test_pictures():
    for name in (*PICTURES, *SUBSTITUTES):
        p = picture(name)
        assert (
            p.dtype == np.uint8
            and p.shape == (len(p), len(p), 4)
            and not p.flags.writeable
            and 0 < (p[..., 3] > 0).mean() < 1
        )
    assert set(map(tuple, picture('drawn yellow line').reshape(-1, 4))) == {(0, 0, 0, 0), (255, 216, 0, 255)}


WRONG = [
    (lambda: get_world('coinrun'), 'world: got .coinrun.'),
    (lambda: get_world('maze', 'memory'), 'easy, hard'),
    (lambda: get_world('maze', size=9), 'offers no choice'),
    (lambda: get_world('maze_duel', region=3), 'offers no choice'),
    (lambda: get_world('maze_aisc', objects='star'), 'offers no choice'),
    (lambda: get_world('maze_aisc', region=-1), 'region'),
    (lambda: get_world('maze_duel', size=4), 'odd'),
    (lambda: get_world('maze_duel', size=27), 'odd'),
    (lambda: get_world('maze_duel', 'hard', size=5), 'size of a hard'),
    (lambda: get_world('maze_duel', objects=('red line',)), 'objects of maze_duel'),
    (lambda: get_world('maze_pure_line', objects='pink line'), 'pink'),
    (lambda: find_object('cheddar'), 'one of the pictures'),
    (lambda: picture('wall'), 'picture'),
    (lambda: World('a', 'b.', 'c', MazeSpec(), ()), 'objects of a'),
    (lambda: make_env('maze', colour='red'), 'colour'),
    (lambda: make_env(WORLDS['maze'], region=3), 'get_world'),
    (lambda: make_env('maze', background='blue'), 'background'),
    (lambda: make_env('maze', 0), 'num_envs'),
    (lambda: make_env('maze', seed=-1), 'seed'),
    (lambda: Renderer(5, (np.zeros((9, 9, 3), np.uint8),)), 'picture'),
    (lambda: Renderer(5, (np.zeros((9, 9, 4)),)), 'picture'),
]


@pytest.mark.parametrize('call, message', WRONG)
def test_bad_input(call, message):
    with pytest.raises((ValueError, TypeError), match=message):
        call()


# Levels


@each_world
def test_objects_can_be_reached(name, mode):
    "Each object is there once, and the mouse can walk to it"
    w = get_world(name, mode)
    levels = generate(w.spec, range(150))
    for code in (OBJ1, OBJ2)[: len(w.spec.rewards)]:
        assert ((levels.grid == code).sum((1, 2)) == 1).all() and np.isfinite(distances(levels, code)).all()
    assert (levels.grid <= OBJ1 + len(w.spec.rewards) - 1).all()


@pytest.mark.parametrize('mode', ['easy', 'hard'])
@pytest.mark.parametrize('region', [0, 1, 3, 5, 10, 25])
def test_region(region, mode):
    w = get_world('maze_aisc', mode, region=region)
    levels = generate(w.spec, range(400))
    dim = w.spec.size - 2 * levels.start[:, 0].astype(int)
    level, y, x = np.nonzero(levels.grid == OBJ1)
    assert (level == np.arange(400)).all()  # one in each
    inner = np.stack([x, y]) - levels.start[:, 0]
    assert (inner >= dim - max(region, 1)).all() and (inner < dim).all()
    if region > 1:
        assert (inner.min(0) < dim - 1).any()  # and not always in the corner
    if region == 25:
        assert (inner.min(0) < dim / 2).any()


@pytest.mark.parametrize('mode', ['easy', 'hard'])
@pytest.mark.parametrize('name', [n for n, w in WORLDS.items() if 0 in w.spec.rewards])
def test_decoy(name, mode):
    "The mouse walks onto the decoy and off again: no reward and no end"
    w = get_world(name, mode)
    levels = generate(w.spec, range(60))
    table = StateTable(levels, w.spec.rewards)
    assert set(table.outcome.unique().tolist()) == {0, 1}  # nothing ends at the second object
    decoy = torch.as_tensor((levels.grid.reshape(60, -1) == OBJ2).argmax(1))
    there = table.cell == decoy[table.level]
    entering = there[table.next.long()] & (table.outcome == 0) & ~there[:, None]
    assert there.sum() == 120  # both facings in each level
    assert (
        len(table.level[entering.any(1)].unique()) > 55
    )  # all but where it lies in a dead end behind the goal
    assert (table.level[table.next[there].long()] == table.level[there][:, None]).all()


def test_decoy_in_an_environment():
    "The same, played: a shortest path over the decoy to the goal ends once, with the reward of the goal"
    spec = WORLDS['maze_redline_yellowgem_test'].spec
    levels = generate(spec, range(400))
    over = np.flatnonzero(distances(levels, OBJ1) < distances(levels, OBJ1, avoid=OBJ2))
    assert len(over) > 5
    for i in over[:5]:
        env = make_env('maze_redline_yellowgem_test', 1, num_levels=1, start_level=int(i))
        before, crossed = env.level_seed.clone(), 0
        for move in path_to(levels[int(i)], OBJ1):
            reward, done = env.step([move])
            crossed += int(levels.grid[i].ravel()[int(env.table.cell[env.state])] == OBJ2)
            if done:
                break
        assert (
            crossed == 1
            and (reward.item(), done.item(), env.prev_level_complete.item()) == (10.0, True, 1)
            and env.level_seed == before
        )


def path_to(levels, code):
    "Actions of a shortest path to the object, by breadth-first search"
    size, grid = levels.size, levels.grid[0]
    start, action = tuple(map(int, levels.start[0])), {m: ACTION_MOVES.index(m) for m in range(4)}
    paths = {start: []}
    for place in (todo := [start]):
        for m in range(4):
            x, y = place[0] + MOVE_STEPS[m][0], place[1] + MOVE_STEPS[m][1]
            if 0 <= x < size and 0 <= y < size and grid[y, x] != 1 and (x, y) not in paths:
                paths[x, y] = paths[place] + [action[m]]
                if grid[y, x] == code:
                    return paths[x, y]
                todo.append((x, y))


# Steps


@pytest.mark.slow
@each_world
def test_same_seed_same_game(name, mode):
    "Two environments of one seed; another seed plays other levels"
    make = lambda seed: make_env(name, 4, mode=mode, num_levels=100, seed=seed)
    a, b, c = make(3), make(3), make(4)
    assert (a.level_seed != c.level_seed).any()
    assert_same_play(a, b)
    c.reset(seed=3)
    assert_same_play(c, make(3))


@each_world
def test_resets_and_timeouts(name, mode):
    """A mouse that stays plays 500 steps in each level, in the order of the level seeds; -1 ends an episode
    at once"""
    env = make_env(name, 2, mode=mode, num_levels=50, start_level=9, seed=1)
    order = level_seeds(1, 2, 5, 50, 9)
    log, _ = play(env, 1001, action=4)
    assert (
        not log[:, 0].any()
        and np.flatnonzero(log[:, 1].any(1)).tolist() == [499, 999]
        and log[:, 1].sum() == 4
    )
    np.testing.assert_array_equal(log[[498, 499, 999], 2], order[:3])
    assert env.time.tolist() == [1, 1]
    reward, done = env.step([-1, 4])
    assert done.tolist() == [True, False] and not reward.any() and env.time.tolist() == [0, 2]
    env.reset()
    assert env.level_seed.tolist() == [order[4][0], order[3][1]] and not env.time.any()
    assert not env.prev_level_complete.any()


@each_world
def test_table_and_queue_draw_the_same(name, mode, monkeypatch):
    "All levels in one table, or made as they come: same game, same frames, also into a buffer"

    def make():
        return make_env(name, 4, mode=mode, num_levels=40, seed=2)

    whole = make()
    monkeypatch.setattr(maze, 'SMALL_WORLD', 0)
    parts, out = make(), torch.empty((4, 64, 64, 3), dtype=torch.uint8)
    assert len(whole.table.levels) <= 40 and type(parts.source) is maze.StreamedLevels
    for t in range(40):
        for env in (whole, parts):
            env.step(ACTIONS[t, :4] if t % 13 else [-1, 4, -1, 4])
        np.testing.assert_array_equal(whole.frames(), parts.frames(out=out))
    assert out.data_ptr() == parts.frames(out=out).data_ptr()


@each_world
def test_pickled_in_mid_game(name, mode, queue):
    env = make_env(name, 3, mode=mode, num_levels=0, seed=5)
    play(env, 15)
    assert_same_play(pickle.loads(pickle.dumps(env)), env)


@pytest.mark.parametrize('name', ['maze_pure_line', 'maze'])
def test_buffers_that_do_not_fit(name):
    env, whole = make_env(name, 3, num_levels=9), torch.zeros((3, 64, 64, 6), dtype=torch.uint8)
    for out in (whole[..., ::2], whole[:2, ..., :3].contiguous(), torch.zeros((3, 64, 64, 3))):
        with pytest.raises(ValueError, match='contiguous uint8'):
            env.frames(out=out)
    assert not whole.any()


# gym3


@with_gym3
@each_world
def test_gym3_contract(name, mode):
    "Observations may be asked for any number of times, are never written over, and come with Procgen's types"
    env, plain = (
        procgen_like(4, name, mode, num_levels=30, rand_seed=6),
        make_env(name, 4, 'textured', mode=mode, num_levels=30, seed=6),
    )
    reward, ob, first = env.observe()
    assert first.all() and not reward.any() and env.num == 4
    assert (reward.dtype, ob['rgb'].dtype, ob['rgb'].shape, first.dtype) == (
        np.float32,
        np.uint8,
        (4, 64, 64, 3),
        bool,
    )
    kept = ob['rgb'].copy()
    for t in range(30):
        ac = ACTIONS[t, :4] if t % 7 else np.array([-1, 4, 4, 4])
        env.act(ac)
        expected = plain.step(ac)
        for _ in range(2):
            got = env.observe()
            np.testing.assert_array_equal(got[0], expected[0])
            np.testing.assert_array_equal(got[2], expected[1])
            np.testing.assert_array_equal(got[1]['rgb'], plain.frames())
    np.testing.assert_array_equal(ob['rgb'], kept)
    info = env.get_info()
    for k, t in dict(prev_level_seed=np.int32, prev_level_complete=np.uint8, level_seed=np.int32).items():
        assert [i[k] for i in info] == getattr(plain, k).tolist() and all(type(i[k]) is t for i in info)
    env.close()
    env.close()
    with pytest.raises(RuntimeError, match='closed'):
        env.observe()


@pytest.mark.slow
@with_procgen
@pytest.mark.parametrize('mode', ['easy', 'hard'])
def test_gym3_beside_procgen(mode):
    """Reward, first, frame and level order of stock `maze`, action by action, with ends by goal, by force and
    by time"""
    options = dict(num_levels=200, start_level=11)
    env = procgen_like(8, 'maze', mode, rand_seed=8, **options)
    with Engine('maze', 8, mode, seed=8, **options) as engine:
        for t in range(600):
            ac = ACTIONS[t].copy()
            if t % 101 == 50:
                ac[t % 8] = -1
            env.act(ac)
            reward, ob, first = env.observe()
            np.testing.assert_array_equal([reward, first], [*engine.step(ac)])
            if first.any() or t % 50 == 0:
                np.testing.assert_array_equal(ob['rgb'], engine.frames(), err_msg=f'step {t}')
            if first.any():
                state, info = engine.states(), env.get_info()
                for k in ('level_seed', 'prev_level_seed'):
                    assert [i[k] for i in info] == [s[k] for s in state]
    assert sum(i['prev_level_complete'] for i in env.get_info()) <= 8


@pytest.mark.slow
@with_procgen
def test_gym3_types_are_those_of_procgen():
    "In a process of its own, for Procgen does not like to be loaded beside other things"
    import subprocess
    import sys

    code = """import numpy as np
from procgen import ProcgenGym3Env
from goalmisgen.env.gym3 import procgen_like
options = dict(num=2, env_name='maze', distribution_mode='easy', rand_seed=3, num_levels=9, num_threads=0, center_agent=True)
a, b = ProcgenGym3Env(**options), procgen_like(**options)
def types(env):
    reward, ob, first = env.observe()
    return [type(v) for v in env.get_info()[0].values()], [v.dtype for v in (reward, ob['rgb'], first)]
assert a.ob_space == b.ob_space and a.ac_space == b.ac_space and a.num == b.num
for _ in range(3):
    assert types(a) == types(b) and a.get_info() == b.get_info(), (a.get_info(), b.get_info())
    for env in (a, b): env.act(np.array([-1, 7]))
print('same')"""  # noqa: E501
    run = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert run.stdout.strip() == 'same', run.stderr


@with_gym3
def test_gym3_bad_input():
    env = procgen_like(2, 'maze_pure_yellowline', 'easy', num_levels=5)
    import gym3

    assert isinstance(env, gym3.Env) and isinstance(env, Gym3Maze)
    for actions in ([0], [0, 15], [-2, 0], [0.0, 1.0], [[0, 1]], None):
        with pytest.raises(ValueError, match='actions'):
            env.act(actions)
    for option in (
        dict(use_sequential_levels=True),
        dict(render_mode='rgb_array'),
        dict(colour='red'),
        dict(distribution_mode='memory'),
    ):
        with pytest.raises(ValueError, match=list(option)[0].split('_')[-1]):
            procgen_like(1, 'maze', **option)
    fork = procgen_like(
        1, 'maze_colorsobjects_duel', 'easy', obj1='blue_line_diag', obj2='white_gem', world_dim=7
    ).maze
    assert fork.spec.size == 7 and [*map(str, fork.renderer.objects)] == ['blue line', 'white gem']
    assert procgen_like(1, 'maze_aisc', 'easy', rand_region=4).maze.spec.region == 4


# Gymnasium


@each_world
def test_gymnasium_batch(name, mode):
    """Same-step autoreset: the observation after an end is the next level's first, and the last one is in the
    infos"""
    from gymnasium.vector import AutoresetMode, VectorEnv

    env, plain = (
        vector_env(name, 4, mode=mode, num_levels=30, seed=6),
        make_env(name, 4, mode=mode, num_levels=30, seed=6),
    )
    assert isinstance(env, VectorEnv) and env.metadata['autoreset_mode'] is AutoresetMode.SAME_STEP
    obs, info = env.reset()
    np.testing.assert_array_equal(obs, plain.frames())
    plain.time += 470
    env.maze.time += 470  # so that time is up soon
    ends = 0
    for t in range(60):
        actions = ACTIONS[t, :4]
        (reward, done), (obs, rewards, terminated, truncated, info) = plain.step(actions), env.step(actions)
        assert obs in env.observation_space and rewards.dtype == np.float32
        np.testing.assert_array_equal(obs, plain.frames())
        np.testing.assert_array_equal(rewards, reward)
        np.testing.assert_array_equal(terminated | truncated, done)
        np.testing.assert_array_equal(terminated, plain.prev_level_complete)
        assert (
            info['level_seed'].tolist() == plain.level_seed.tolist()
            and info['steps'].tolist() == plain.time.tolist()
        )
        assert ('final_obs' in info) == done.any()
        if done.any():
            np.testing.assert_array_equal(info['_final_obs'], done)
            assert [o is not None for o in info['final_obs']] == done.tolist()
            assert info['final_info']['level_seed'].tolist() == (plain.prev_level_seed * done).tolist()
        ends += done.sum()
    assert ends >= 4


@pytest.mark.parametrize('name', ['maze_duel', 'maze_aisc'])
def test_gymnasium_batch_is_what_gymnasium_makes_of_single_mazes(name):
    from gymnasium.vector import AutoresetMode, SyncVectorEnv

    options = dict(num_levels=1, start_level=6)
    ours, theirs = (
        vector_env(name, 3, **options),
        SyncVectorEnv([lambda: single_env(name, **options)] * 3, autoreset_mode=AutoresetMode.SAME_STEP),
    )
    assert ours.observation_space == theirs.observation_space and ours.action_space == theirs.action_space
    for a, b in zip(ours.reset(), theirs.reset()):
        same(a, b)
    for t in range(600):
        for a, b in zip(ours.step(ACTIONS[t, :3]), theirs.step(ACTIONS[t, :3])):
            same(a, b)


@pytest.mark.slow
@with_procgen
@pytest.mark.parametrize('background', ['black', 'textured'])
def test_final_obs(background):
    "The mouse on its object, as the engine draws it when it is put there, with the facing that it came with"
    objects = ('red line', 'yellow gem')
    env = vector_env('maze_duel', 16, background=background, num_levels=1000, seed=2)
    env.reset()
    levels, facing, cells, frames = [], np.zeros(16, int), [], []
    for t in range(200):
        actions = np.random.default_rng(t).integers(0, 9, 16)
        table, state = env.maze.table, env.maze.state
        facing = table.facing[state].numpy()
        *_, info = env.step(actions)
        for i in np.flatnonzero(info.get('_final_obs', np.zeros(16))):
            dx, dy = MOVE_STEPS[ACTION_MOVES[actions[i]]]
            cells.append((int(table.cell[state[i]]) + dx + 5 * dy, int(dx > 0) if dx else facing[i]))
            levels.append(info['final_info']['level_seed'][i])
            frames.append(info['final_obs'][i])
    assert len(frames) > 20 and len(set(cells)) > 10
    cell, faces = np.transpose(cells)
    with EngineMaze(objects, 8) as engine:
        theirs = engine.look(
            generate(WORLDS['maze_duel'].spec, levels), np.arange(len(levels)), cell, faces, background
        )
    np.testing.assert_array_equal(frames, theirs)


@each_world
def test_gymnasium_single(name, mode):
    from gymnasium.utils.env_checker import check_env

    env = single_env(name, render_mode='rgb_array', mode=mode, num_levels=20)
    with pytest.warns(UserWarning, match='render modes'):
        check_env(env)
    env.reset(seed=4)
    plain = make_env(name, 1, mode=mode, num_levels=20, seed=4)
    env.maze.time += 480
    for _ in range(20):
        obs, reward, terminated, truncated, info = env.step(4)
        plain.step([4])
    assert (truncated, terminated, reward, info) == (
        True,
        False,
        0.0,
        dict(level_seed=int(plain.level_seed), steps=500),
    )
    np.testing.assert_array_equal(obs, plain.frames()[0])  # nobody moved
    assert env.render().shape == (512, 512, 3) and (env.render()[::8, ::8] == obs).all()
    with pytest.raises(RuntimeError, match='call reset'):
        env.step(4)
    plain.reset()
    obs, info = env.reset()
    np.testing.assert_array_equal(obs, plain.frames()[0])
    assert info == dict(level_seed=int(plain.level_seed), steps=0)


def test_gymnasium_registry():
    import gymnasium

    register_worlds()
    env = gymnasium.make('goalmisgen/maze_duel-v0', objects=('blue gem', 'red line'), mode='hard')
    assert (
        env.spec.id == 'goalmisgen/maze_duel-v0'
        and env.reset(seed=1)[0].shape == (64, 64, 3)
        and env.unwrapped.maze.spec.size == 25
    )
    batch = gymnasium.make_vec('goalmisgen/maze-v0', num_envs=3)
    assert isinstance(batch, GymnasiumMazes) and batch.reset(seed=1)[0].shape == (3, 64, 64, 3)


def test_gymnasium_bad_input():
    env = vector_env('maze_pure_line', 2, num_levels=5)
    with pytest.raises(RuntimeError, match='call reset'):
        env.step([0, 0])
    env.reset(seed=0)
    for actions in ([0], [0, 15], [-1, 0], [0.0, 1.0]):
        with pytest.raises(ValueError, match='actions'):
            env.step(actions)
    with pytest.raises(ValueError, match='options'):
        env.reset(options=dict(reset_mask=np.ones(2, bool)))
    with pytest.raises(ValueError, match='seed'):
        env.reset(seed=2**32)
    with pytest.raises(ValueError, match='render_mode'):
        vector_env('maze_pure_line', 2, 'human', num_levels=5)
    with pytest.raises(ValueError, match='num_envs'):
        GymnasiumMaze(make_env('maze_pure_line', 2, num_levels=5))
    env.close()
    env.close()
    with pytest.raises(RuntimeError, match='closed'):
        env.step([0, 0])
    single = single_env('maze_pure_line', num_levels=5)
    single.close()
    with pytest.raises(RuntimeError, match='closed'):
        single.reset()


@pytest.mark.parametrize('make', [Gym3Maze, GymnasiumMazes, GymnasiumMaze])
def test_pickled_adapters(make):
    if make is Gym3Maze and find_spec('gym3') is None:
        pytest.skip('gym3 is not installed')
    env = make(make_env('maze_pure_line', 1, num_levels=50, seed=3))
    if make is not Gym3Maze:
        env.reset()
    twin = pickle.loads(pickle.dumps(env))
    assert type(twin) is type(env)
    np.testing.assert_array_equal(env.maze.frames(), twin.maze.frames())
    assert_same_play(env.maze, twin.maze)


# What was recorded from the code of the earlier experiments

recorded_games = [
    (name, {})
    for name in (
        'maze',
        'maze_yellowline',
        'maze_redline_yellowgem',
        'maze_yellowstar_redgem',
        'maze_yellowline_test',
        'maze_redline_yellowgem_test',
    )
] + [('maze_aisc', dict(region=r)) for r in (0, 5, 10)]


@lru_cache
def recorded():
    with np.load(REFERENCE / 'other_games.npz') as z:
        return dict(z)


@pytest.mark.skipif(
    not REFERENCE.is_dir(), reason='the recorded reference data does not lie beside this repository'
)
@pytest.mark.parametrize('mode', ['easy', 'hard'])
@pytest.mark.parametrize('name, choices', recorded_games)
def test_recorded_games(name, choices, mode):
    """Grids are equal. So are frames, but for a line that we do not have: it differs in its own cell, and
    nowhere else"""
    w, key = (
        get_world(name, mode, **choices),
        name + ''.join(f'_rr{r}' for r in choices.values()) + f'_{mode}',
    )
    levels = generate(w.spec, range(5))
    np.testing.assert_array_equal(levels.grid, recorded()[f'{key}_grid'])
    np.testing.assert_array_equal(
        w.spec.size - 2 * levels.start[:, 0].astype(int), recorded()[f'{key}_maze_dim']
    )
    frames = make_env(w, 1, num_levels=5).renderer.first_frames(levels).numpy()
    for i, frame in enumerate(frames):
        y, x = np.nonzero((frame != recorded()[f'{key}_frames'][i]).any(-1))
        if 'line' not in name:
            assert not len(x)
        _, gy, gx = np.argwhere(levels[i].grid == OBJ1)[0]
        unit = 64 / w.spec.size
        near = (abs(x + 0.5 - (gx + 0.5) * unit) <= unit / 2 + 1) & (
            abs(63.5 - y - (gy + 0.5) * unit) <= unit / 2 + 1
        )
        assert near.all() and len(x) <= {5: 13, 15: 1, 25: 2}[w.spec.size]
