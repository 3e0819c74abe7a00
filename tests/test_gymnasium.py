"Gymnasium by name: in worker processes, as JSON, with fresh levels, and in every mode of autoreset"

import os
import subprocess
import sys
import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec, registry
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from answers import same
from goalmisgen.env.adapters import register_worlds, single_env, vector_env
from goalmisgen.env.worlds import WORLDS

pytestmark = pytest.mark.slow

register_worlds()
ID = 'goalmisgen/maze_duel-v0'
ACTIONS = np.random.default_rng(0).integers(0, 15, (900, 4))


def run(code, folder, *lines):
    "Run a script with several threads at hand; what it prints. A script that hangs fails"
    path = folder / 'script.py'
    path.write_text('\n'.join(lines) + code)
    env = {k: v for k, v in os.environ.items() if 'NUM_THREADS' not in k} | dict(OMP_NUM_THREADS='4')
    done = subprocess.run(
        [sys.executable, path], cwd=folder, capture_output=True, encoding='utf-8', env=env, timeout=150
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


THREADS = '''
import multiprocessing
import numpy as np, torch
import gymnasium as gym
from goalmisgen.env.adapters import single_env, register_worlds
from goalmisgen.env.levels import DUEL, generate
from goalmisgen.env.render import Renderer
from goalmisgen.env.worlds import make_env

made_before = single_env('maze_duel', num_levels=100)

def draw(_):
    made_before.reset(seed=1)
    return int(made_before.step(7)[0].sum()) + int(Renderer(5, ('red line', 'yellow gem')).first_frames(generate(DUEL, range(1000))).sum(dtype=torch.int64))

def play(env, seed=0):
    obs, info = env.reset(seed=seed)
    for _ in range(5): obs = env.step(np.array([7, 4]))[0]
    env.close()
    return int(obs.sum())

if __name__ == '__main__':
    torch.set_num_threads(4)
    first = draw(0)  # with all threads
    register_worlds()
    by_id = [lambda: gym.make('goalmisgen/maze_duel-v0', num_levels=1000)]*2
    options = dict(num_envs=2, num_levels=1000)
    batches = [gym.make_vec('goalmisgen/maze_duel-v0', vectorization_mode=mode, **options) for mode in ('sync', 'async')]
    batches.append(gym.vector.AsyncVectorEnv(by_id, context='fork'))
    assert len(set(map(play, batches))) == 1
    with multiprocessing.get_context('fork').Pool(2) as pool: assert pool.map(draw, range(2)) == [first]*2
    assert torch.get_num_threads() == 4  # this process keeps its threads
    print('done')
'''  # noqa: E501


@pytest.mark.skipif(not hasattr(os, 'fork'), reason='no process is made by fork here')
def test_forked_workers_do_not_hang(tmp_path):
    "By id, by function, with environments made before the fork; and drawing frames in a pool"
    assert run(THREADS, tmp_path) == ['done']


SPAWN = '''
if __name__ == '__main__':
    import numpy as np
    name = 'goalmisgen/maze_duel-v0'
    makers = [lambda: gym.make(name, num_levels=9), lambda: gym.make('goalmisgen.env.adapters:' + name, num_levels=9)]
    env = gym.vector.AsyncVectorEnv(makers, context='spawn')
    made = gym.make_vec(name, num_envs=1, vectorization_mode='async', vector_kwargs=dict(context='spawn'), num_levels=9)
    for e in (env, made):
        print(e.reset(seed=3)[0].shape[0])
        e.close()
'''  # noqa: E501


@pytest.mark.parametrize('order', [1, -1])
def test_ids_are_known_in_spawned_workers(tmp_path, order):
    "Whichever is imported first, with nothing registered by hand"
    assert run(SPAWN, tmp_path, *['import goalmisgen.env.adapters', 'import gymnasium as gym'][::order]) == [
        '2',
        '1',
    ]


@pytest.mark.parametrize(
    'code',
    [
        "import importlib.util, goalmisgen.env.adapters; importlib.util.find_spec('gymnasium'); import "
        "gymnasium.vector",
        "import gymnasium; gymnasium.make('goalmisgen.env.adapters:" + ID + "', num_levels=1)",
    ],
)
def test_importing_registers(tmp_path, code):
    "Once, and nothing is left behind that waits for an import"
    assert run(
        f'''
{code}
import sys
print(sum(o.startswith('goalmisgen/') for o in gymnasium.registry), sum(type(o).__name__ == '_AwaitGymnasium' for o in sys.meta_path))
''',  # noqa: E501
        tmp_path,
    ) == [str(len(WORLDS)), '0']


def test_importing_goes_without_gymnasium(tmp_path):
    assert run(
        '''
import sys
class Without:
    def __init__(self, finder): self.finder = finder
    def __getattr__(self, name): return getattr(self.finder, name)
    def find_spec(self, name, *args): return None if name.split('.')[0] == 'gymnasium' else self.finder.find_spec(name, *args)
sys.meta_path[:] = map(Without, sys.meta_path)
import goalmisgen.env.adapters
print('gymnasium' in sys.modules)
try: import gymnasium
except ModuleNotFoundError: print('absent')
''',  # noqa: E501
        tmp_path,
    ) == ['False', 'absent']


@pytest.mark.parametrize('name', WORLDS)
def test_specs_are_text(name):
    """An entry of the registry goes through JSON, and what comes out makes the same environment; also after
    choices"""
    spec = gymnasium.spec(f'goalmisgen/{name}-v0')
    assert EnvSpec.from_json(spec.to_json()) == spec
    env = gymnasium.make(spec.id, num_levels=5, seed=1)
    again = gymnasium.make(EnvSpec.from_json(env.spec.to_json()))
    np.testing.assert_array_equal(env.reset()[0], again.reset()[0])
    batch = gymnasium.make_vec(spec.id, num_envs=2, num_levels=5, seed=1)
    again = gymnasium.make_vec(EnvSpec.from_json(batch.spec.to_json()))
    np.testing.assert_array_equal(batch.reset()[0], again.reset()[0])


def test_specs_with_objects_are_text():
    env = gymnasium.make(ID, objects=('blue gem', 'red line'), num_levels=5, seed=1)
    again = gymnasium.make(EnvSpec.from_json(env.spec.to_json()))  # tuples became lists
    np.testing.assert_array_equal(env.reset()[0], again.reset()[0])


def test_registering_twice_is_silent():
    before = dict(registry)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        register_worlds()
        register_worlds()
    assert registry == before


def first_levels(make, **kwargs):
    return tuple(np.ravel(make().reset(**kwargs)[1]['level_seed']))


@pytest.mark.parametrize(
    'make',
    [
        lambda **k: gymnasium.make(ID, **k),
        lambda **k: gymnasium.make_vec(ID, num_envs=3, **k),
        lambda **k: single_env('maze_duel', **k),
        lambda **k: vector_env('maze_duel', 3, **k),
        lambda **k: gymnasium.make_vec(ID, num_envs=3, vectorization_mode='sync', **k),
    ],
)
def test_who_gives_no_seed_gets_other_levels(make):
    every = dict(num_levels=0)  # of two thousand million levels
    assert len({first_levels(lambda: make(**every)) for _ in range(6)}) == 6
    assert len({first_levels(lambda: make(**every), seed=5) for _ in range(3)}) == 1
    assert len({first_levels(lambda: make(seed=7, **every)) for _ in range(3)}) == 1
    assert (
        len(set(first_levels(lambda: gymnasium.make_vec(ID, num_envs=8, vectorization_mode='sync', **every))))
        == 8
    )


def test_episodes_have_a_length():
    assert gymnasium.spec(ID).max_episode_steps == 500
    for make in (
        lambda **k: gymnasium.make_vec(ID, num_envs=2, **k),
        lambda **k: gymnasium.make_vec(ID, num_envs=2, vectorization_mode='sync', **k),
    ):
        for length, given in ((500, {}), (7, dict(max_episode_steps=7))):
            env = make(num_levels=1, **given)
            env.reset(seed=0)
            ends = [env.step([4, 4])[3] for _ in range(length)]
            assert not np.any(ends[:-1]) and np.all(ends[-1])
    for wrong in (0, -1, 2.5):
        with pytest.raises(ValueError, match='timeout'):
            vector_env('maze_duel', 2, num_levels=1, max_episode_steps=wrong)


@pytest.mark.parametrize('make', [single_env, vector_env])
def test_render_before_reset(make):
    env = make('maze_duel', render_mode='rgb_array', num_levels=1)
    with pytest.raises(RuntimeError, match='call reset'):
        env.render()
    obs, _ = env.reset()
    np.testing.assert_array_equal(
        np.asarray(env.render()).reshape(-1, 512, 512, 3)[0, ::8, ::8], obs.reshape(-1, 64, 64, 3)[0]
    )
    assert make('maze_duel', num_levels=1).render() is None
    env.close()
    with pytest.raises(RuntimeError, match='closed'):
        env.render()


def pair(name, mode, **options):
    "Our batch of four, and what Gymnasium makes of four single mazes"
    options |= dict(num_levels=1, start_level=6)
    singles = [lambda: gymnasium.make(f'goalmisgen/{name}-v0', **options)] * 4
    return vector_env(name, 4, autoreset_mode=mode, **options), SyncVectorEnv(singles, autoreset_mode=mode)


@pytest.mark.parametrize('name', ['maze_duel', 'maze_aisc'])
@pytest.mark.parametrize('mode', list(AutoresetMode))
def test_every_mode_of_autoreset_is_what_gymnasium_makes_of_single_mazes(name, mode):
    ours, theirs = pair(name, mode)
    assert ours.metadata['autoreset_mode'] is theirs.metadata['autoreset_mode'] is mode
    for a, b in zip(ours.reset(), theirs.reset()):
        same(a, b)
    ends = 0
    for t in range(520):
        a, b = ours.step(ACTIONS[t]), theirs.step(ACTIONS[t])
        for x, y in zip(a, b):
            same(x, y)
        over = a[2] | a[3]
        ends += over.sum()
        if mode is AutoresetMode.DISABLED and over.any():
            # some that have ended, and some that are in the middle of an episode
            mask = over | (ACTIONS[t + 1] > 12)
            for x, y in zip(
                ours.reset(options=dict(reset_mask=mask)), theirs.reset(options=dict(reset_mask=mask))
            ):
                same(x, y)
    assert ends > (3 if name == 'maze_duel' else 0)


def test_a_maze_that_waits_stands_still():
    "Next-step and disabled: no time passes, and the level order is that of same-step"
    seeds = {}
    for mode in AutoresetMode:
        env, seen = (
            vector_env('maze_duel', 4, num_levels=1000, seed=2, autoreset_mode=mode, max_episode_steps=20),
            [],
        )
        env.reset()
        order = [[] for _ in range(4)]
        for t in range(300):
            _, _, won, late, info = env.step(ACTIONS[t])
            if mode is AutoresetMode.DISABLED and (won | late).any():
                env.reset(options=dict(reset_mask=won | late))
            for i in range(4):
                if not order[i] or order[i][-1] != info['level_seed'][i]:
                    order[i].append(int(info['level_seed'][i]))
            seen.append(info['steps'].max())
        assert max(seen) <= 20
        seeds[mode] = order
    shortest = [min(len(o[i]) for o in seeds.values()) - 1 for i in range(4)]
    assert min(shortest) > 8
    cut = [[o[i][:n] for i, n in enumerate(shortest)] for o in seeds.values()]
    same_step = [[*o] for o in cut[1]]
    # same-step tells the next level at the end of the one before, so it begins with the first level only
    # where that took a step
    assert all(set(a) <= set(b) for o in (cut[0], cut[2]) for a, b in zip(same_step, o)) and cut[0] == cut[2]


def test_disabled_autoreset_refuses_to_go_on():
    env = vector_env('maze_duel', 3, num_levels=1, autoreset_mode='Disabled', max_episode_steps=4)
    env.reset()
    for _ in range(2):
        env.step([4, 4, 4])
    env.reset(options=dict(reset_mask=np.array([True, False, False])))
    for _ in range(2):
        *_, late, _ = env.step([4, 4, 4])
    assert late.tolist() == [False, True, True]
    with pytest.raises(RuntimeError, match=r'environments \[1, 2\] have ended'):
        env.step([4, 4, 4])
    for mask in ([True, False], np.zeros(3, bool), np.ones(3), 'all'):
        with pytest.raises(ValueError, match='reset_mask'):
            env.reset(options=dict(reset_mask=mask))
    with pytest.raises(ValueError, match='seed'):
        env.reset(seed=3, options=dict(reset_mask=np.ones(3, bool)))
    env.reset(options=dict(reset_mask=np.array([False, True, True])))
    assert env.step([4, 4, 4])[4]['steps'].tolist() == [3, 1, 1]
    with pytest.raises(ValueError, match='autoreset_mode'):
        vector_env('maze_duel', 3, num_levels=1, autoreset_mode='Sometimes')
    for mode in ('SameStep', 'NextStep'):
        env = vector_env('maze_duel', 3, num_levels=1, autoreset_mode=mode)
        with pytest.raises(ValueError, match='options'):
            env.reset(options=dict(reset_mask=np.ones(3, bool)))


@pytest.mark.parametrize('make', [single_env, vector_env])
def test_numpy_seeds(make):
    for seed in (np.int64(5), np.uint32(5), np.array(5)):
        np.testing.assert_array_equal(
            make('maze_duel', num_levels=9, seed=3).reset(seed=seed)[0],
            make('maze_duel', num_levels=9).reset(seed=5)[0],
        )
        np.testing.assert_array_equal(
            make('maze_duel', num_levels=9, seed=seed).reset()[0],
            make('maze_duel', num_levels=9, seed=5).reset()[0],
        )
    for wrong in (2.5, True, -1, 2**32, '5'):
        with pytest.raises(ValueError, match='seed'):
            make('maze_duel', num_levels=9).reset(seed=wrong)
