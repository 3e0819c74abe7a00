"`procgen_like` where a script for Procgen stood, and numpy integers wherever a number is taken"

import json
from dataclasses import asdict, replace
from importlib.util import find_spec

import numpy as np
import pytest

from goalmisgen.core import to_dict
from goalmisgen.env.gym3 import procgen_like
from goalmisgen.env.levels import DUEL, MazeSpec, generate, make_levels
from goalmisgen.env.maze import MazeEnv
from goalmisgen.env.random import level_seeds
from goalmisgen.env.objects import GoalObject
from goalmisgen.env.render import Renderer, human_view
from goalmisgen.env.worlds import ALIASES, WORLDS, get_world, make_env
from goalmisgen.play import Player
from goalmisgen.style import enlarge

with_gym3 = pytest.mark.skipif(find_spec('gym3') is None, reason='gym3 is not installed')
NOTHING = dict(
    random_percent=0,
    step_penalty=0,
    key_penalty=0.0,
    rand_region=0,
    world_dim=0,
    obj1='',
    obj2=None,
    use_sequential_levels=False,
    use_monochrome_assets=0,
    use_generated_assets=None,
    render_mode=None,
    continue_after_coin=False,
    num_threads=8,
    debug=False,
    center_agent=True,
    restrict_themes=False,
    paint_vel_info=False,
    debug_mode=0,
    resource_root=None,
)
INTS = [np.int64, np.int32, np.uint16, np.array]


# In place of Procgen


@with_gym3
@pytest.mark.parametrize('name', [*WORLDS, *ALIASES])
def test_options_that_ask_for_nothing(name):
    "Given one by one and all together they change nothing, in any world"
    options = dict(distribution_mode='easy', num_levels=3, rand_seed=1)
    plain = procgen_like(2, name, **options).observe()[1]['rgb']
    np.testing.assert_array_equal(plain, procgen_like(2, name, **options, **NOTHING).observe()[1]['rgb'])


@with_gym3
@pytest.mark.parametrize(
    'option',
    [
        dict(random_percent=5),
        dict(step_penalty=0.1),
        dict(key_penalty=1),
        dict(rand_region=3),
        dict(world_dim=7),
        dict(obj1='red gem'),
        dict(use_sequential_levels=True),
        dict(render_mode='rgb_array'),
        dict(continue_after_coin=True),
        dict(no_such_option=0),
    ],
)
def test_what_cannot_be_is_refused_by_name(option):
    name = dict(rand_region='region', world_dim='size', obj1='objects').get(*option, *option)
    with pytest.raises(ValueError, match=name):
        procgen_like(1, 'maze', 'easy', num_levels=3, **option)


@with_gym3
def test_the_papers_names_of_pictures():
    for name in (
        'kenney/Items/pure_blue_line_diag.png',
        'pure_blue_line_diag',
        'blue_line_diag',
        'blue line',
    ):
        env = procgen_like(
            1,
            'maze_colorsobjects_duel',
            'easy',
            obj1=name,
            obj2='kenney/Items/pure_invisible_gem.png',
            num_levels=3,
        )
        assert env.maze.renderer.objects == (GoalObject('blue', 'line'), GoalObject('invisible', 'gem'))
    for wrong in ('pure_blue_line_diag.jpg', 'pure_pink_gem.png', 'kenney/Items/gemBlue.png'):
        with pytest.raises(ValueError):
            procgen_like(1, 'maze_duel', 'easy', obj1=wrong, obj2='red gem', num_levels=3)


@with_gym3
@pytest.mark.parametrize('name, levels', [('maze_duel', 500), ('maze_duel', 0), ('maze_aisc', 0)])
def test_states_go_in_and_out(name, levels):
    "From here on both play the same game, though states change places and go to a batch with another seed"
    rng = np.random.default_rng(0)
    make = lambda seed: procgen_like(4, name, 'easy', num_levels=levels, rand_seed=seed)
    env, other = make(3), make(8)
    for _ in range(50):
        env.act(rng.integers(-1, 15, 4))
    states, order = env.callmethod('get_state'), [2, 0, 0, 3]
    other.callmethod('set_state', [states[i] for i in order])
    assert other.get_state() == [states[i] for i in order]
    for _ in range(150):
        for a, b in zip(env.observe(), other.observe()):
            a, b = (o['rgb'] if isinstance(o, dict) else o for o in (a, b))
            np.testing.assert_array_equal(a[order], b)
        assert [env.get_info()[i] for i in order] == other.get_info()
        actions = rng.integers(0, 9, 4)
        env.act(actions)
        other.act(actions[order])
    env.set_state(states)
    assert env.get_state() == states


@with_gym3
def test_states_of_others_are_refused():
    env = procgen_like(2, 'maze_duel', 'easy', num_levels=50, rand_seed=3)
    for _ in range(20):
        env.act(np.array([7, 4]))
    states, before = env.get_state(), env.observe()[1]['rgb']
    others = [
        procgen_like(2, 'maze_duel', 'easy', rand_seed=3, **o)
        for o in (
            dict(num_levels=51),
            dict(num_levels=50, start_level=1),
            dict(num_levels=50, use_backgrounds=False),
            dict(num_levels=50, obj1='green gem', obj2='red gem'),
            dict(num_levels=50, world_dim=7),
        )
    ]
    wrong = [o.get_state() for o in others] + [
        states[:1],
        states * 2,
        b'state',
        [b'', b''],
        [states[0], b'{}'],
        [states[0], states[1][:-1]],
        [3, 4],
    ]
    for name, value in dict(
        cell=99, time=500, order=-1, facing=2, reward=7.0, used=2**40, format=2, prev_level_seed=77
    ).items():
        wrong.append([states[0], json.dumps(json.loads(states[1]) | {name: value}).encode()])
    for states_ in wrong:
        with pytest.raises(ValueError):
            env.set_state(states_)
        assert env.get_state() == states
        np.testing.assert_array_equal(env.observe()[1]['rgb'], before)


@with_gym3
@pytest.mark.skipif(find_spec('procgen') is None, reason='no procgen package is installed')
def test_combos_are_those_of_procgen():
    import subprocess
    import sys

    code = 'from procgen import ProcgenGym3Env; print(ProcgenGym3Env(1, "maze").get_combos())'
    theirs = (
        subprocess.run([sys.executable, '-c', code], capture_output=True, encoding='utf-8')
        .stdout.strip()
        .splitlines()[-1]
    )
    assert str(procgen_like(1, 'maze', num_levels=1).get_combos()) == theirs


# Numpy integers


@pytest.mark.parametrize('i', INTS)
def test_numpy_integers_are_integers(i):
    spec = MazeSpec(i(7), (10.0,), region=i(3))
    assert spec == MazeSpec(7, (10.0,), region=3) and hash(spec) == hash(MazeSpec(7, (10.0,), region=3))
    assert json.loads(json.dumps(asdict(spec)))['size'] == 7 and type(spec.size) is int
    same = lambda a, b: np.testing.assert_array_equal(np.asarray(a), np.asarray(b))
    env = MazeEnv(i(2), DUEL, num_levels=i(9), start_level=i(4), seed=i(5))
    same(env.frames(), MazeEnv(2, DUEL, num_levels=9, start_level=4, seed=5).frames())
    env.reset(i(6))
    same(env.level_seed, MazeEnv(2, DUEL, num_levels=9, start_level=4, seed=6).level_seed)
    assert all(type(v) is int for v in (env.num_envs, env.num_levels, env.start_level, env.seed))
    levels = generate(DUEL, [i(3), 4], chunk=i(1))
    same(
        Renderer(i(5), ('red line', 'red gem')).scenes(levels),
        Renderer(5, ('red line', 'red gem')).scenes(generate(DUEL, [3, 4])),
    )
    same(
        human_view(levels, i(1), cell=i(12), facing=i(1), pixels=i(64)),
        human_view(levels, 1, cell=12, facing=1, pixels=64),
    )
    same(level_seeds(i(3), i(2), 5, i(10), i(7)), level_seeds(3, 2, 5, 10, 7))
    same(enlarge(np.zeros((1, 1, 3)), i(2)), np.zeros((2, 2, 3)))
    assert get_world('maze_aisc', region=i(5)) == get_world('maze_aisc', region=5) and get_world(
        'maze_duel', size=i(9)
    ) == get_world('maze_duel', size=9)
    same(make_env('maze', i(1), num_levels=i(1)).frames(), make_env('maze', 1, num_levels=1).frames())
    player = Player('maze_duel', i(100))
    assert type(player.level_seed) is int and player.status.startswith('maze_duel 100:')


def test_numpy_rewards_and_switches_travel():
    spec = MazeSpec(5, (np.float64(10), np.float32(-10)), np.bool_(True), np.bool_(False))
    assert spec == MazeSpec(5, (10.0, -10.0), True) and to_dict(spec) == to_dict(
        MazeSpec(5, (10.0, -10.0), True)
    )
    assert replace(spec, size=np.int64(7)) == MazeSpec(7, (10.0, -10.0), True)


@pytest.mark.parametrize(
    'seeds',
    [[3, 4], (3, 4), range(3, 5), np.array([3, 4]), np.array([3, 4], np.uint32), [np.int64(3), np.uint8(4)]],
    ids=repr,
)
def test_level_seeds_in_any_form(seeds):
    np.testing.assert_array_equal(generate(DUEL, seeds).grid, generate(DUEL, [3, 4]).grid)


@pytest.mark.parametrize(
    'wrong',
    [True, np.bool_(True), 7.0, np.float64(7), '7', None, [7], np.array([7, 9]), -1, 10**12],
    ids=repr,
)
def test_what_is_no_integer(wrong):
    for call in (
        lambda: MazeSpec(wrong),
        lambda: MazeEnv(0 if type(wrong) is int else wrong, num_levels=1),
        lambda: MazeEnv(1, num_levels=wrong),
        lambda: MazeEnv(1, num_levels=1, seed=wrong),
        lambda: Renderer(wrong),
        lambda: Player('maze_duel', wrong),
        lambda: make_env('maze_duel', 1, num_levels=1, start_level=wrong),
        lambda: human_view(generate(DUEL, [1]), facing=wrong),
    ):
        with pytest.raises(ValueError):
            call()
    for part in ('background', 'start', 'seeds'):
        if type(wrong) in (int, list, np.ndarray):
            continue
        with pytest.raises(ValueError, match=part):
            make_levels(generate(DUEL, [1]).grid, **{part: wrong})
