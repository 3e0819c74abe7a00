"""Training, environments, frames and exact evaluation need six libraries and no more; what else is installed
is hidden here"""

import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution, packages_distributions
from pathlib import Path

import numpy as np
import pytest
import torch
from goalmisgen.env.assets import PICTURE_FILES, asset_dir
from goalmisgen.env.chain import absorption, move_probs
from goalmisgen.env.levels import DUEL, generate
from goalmisgen.env.table import StateTable

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent
SIX = ('torch', 'numpy', 'fastcore', 'safetensors', 'pandas', 'pillow')


def plain(name):
    return re.sub(r'[-_.]+', '-', name).lower()


def closure(names):
    "These distributions and all that they require, extras left out"
    found, todo = set(), list(map(plain, names))
    while todo:
        name = todo.pop()
        if name in found:
            continue
        try:
            needs = distribution(name).requires or []
        except PackageNotFoundError:
            continue  # for another system
        found.add(name)
        todo += [plain(re.match(r'[\w.-]+', o)[0]) for o in needs if 'extra ==' not in o]
    return found


@pytest.fixture(scope='module')
def script():
    "The start of a program from which every other installed library is hidden"
    keep = closure(SIX) | {'goalmisgen'}
    hidden = {top for top, dists in packages_distributions().items() if not keep & set(map(plain, dists))}
    return f'''
import sys
HIDDEN = {sorted(hidden)!r}
class Without:
    def __init__(self, finder): self.finder = finder
    def __getattr__(self, name): return getattr(self.finder, name)
    def find_spec(self, name, *args): return None if name.split('.')[0] in HIDDEN else self.finder.find_spec(name, *args)
sys.meta_path[:] = map(Without, sys.meta_path)
'''  # noqa: E501


WORK = '''
from goalmisgen.agents.examples import load_example
from goalmisgen.agents.exact_ppo import ExactPPOConfig
from goalmisgen.agents.impala import load_policy
from goalmisgen.agents.ppo import PPOConfig
from goalmisgen.agents.training import Seeds, train_agent
from goalmisgen.env.levels import DUEL, generate
from goalmisgen.env.render import Renderer, human_view
from goalmisgen.env.worlds import WORLDS, make_env
from goalmisgen.evaluation.exact import evaluate_exact
from goalmisgen.evaluation.questions import Setting
from goalmisgen.evaluation.results import to_row, to_table
from goalmisgen.evaluation.sampled import evaluate_sampled

assert len(Renderer(5, ('red line', 'yellow gem'), 'textured').first_frames(generate(DUEL, range(3)))) == 3
human_view(generate(DUEL, [0]))
for name in WORLDS: make_env(name, 2, num_levels=1).step([0, 7])
for name, config in dict(exact=ExactPPOConfig(num_levels=3, updates=1), ppo=PPOConfig(num_levels=3, num_envs=2, rollout=8,
        minibatches=2, env_steps=16)).items():
    train_agent(config, Seeds(0), f'{name}/agent-0')
    policy, setting = load_policy(f'{name}/agent-0'), Setting('red line', 'yellow gem')
    evaluate_sampled(policy, setting, range(100_000, 100_002), episodes=1)
    exact = evaluate_exact(policy, setting, range(100_000, 100_002))
    assert len(to_table([to_row(exact, name, 0, 1)])) == 1
load_example('exact-3')
unwanted = {o.split('.')[0] for o in sys.modules} & {'scipy', 'matplotlib', 'tqdm', 'gymnasium', 'gym3', 'gym', 'procgen', 'tyro', 'sklearn'}
print('worked', *unwanted)
'''  # noqa: E501


def run(code, folder, **names):
    env = {k: v for k, v in os.environ.items() if k not in ('PYTHONPATH', 'GOALMISGEN_ASSETS')} | dict(
        OMP_NUM_THREADS='1', **names
    )
    done = subprocess.run(
        [sys.executable, '-c', code], cwd=folder, capture_output=True, encoding='utf-8', env=env
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_six_libraries_are_enough(script, tmp_path):
    """From training to exact numbers, without scipy, matplotlib, tqdm, gymnasium, gym3, procgen or tyro;
    pictures from a named folder"""
    for path in PICTURE_FILES.values():
        (tmp_path / 'pictures' / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(asset_dir() / path, tmp_path / 'pictures' / path)
    assert run(script + WORK, tmp_path, GOALMISGEN_ASSETS=str(tmp_path / 'pictures')) == ['worked']


@pytest.mark.parametrize(
    'name',
    [
        'scipy',
        'matplotlib',
        'tqdm',
        'gymnasium',
        'gym3',
        'procgen',
        'tyro',
        'sklearn',
        'statsmodels',
        'ipywidgets',
    ],
)
def test_the_others_are_hidden(script, name, tmp_path):
    "The test above can fail"
    assert run(
        script
        + f'''
try: import {name}
except ModuleNotFoundError: print('hidden')''',
        tmp_path,
    ) == ['hidden']


def test_the_chain_needs_no_sparse_matrices():
    "The same numbers as with scipy's, to the last bit"
    sparse = pytest.importorskip('scipy.sparse')
    table = StateTable(generate(DUEL, range(20)), (10.0, -10.0))
    moves = move_probs(
        torch.softmax(3 * torch.randn(len(table), 15, generator=torch.Generator().manual_seed(0)), -1)
    )
    state, move = np.nonzero(table.outcome.numpy() == 0)
    flow = sparse.csr_matrix(
        (moves.numpy()[state, move], (table.next.numpy()[state, move], state)), shape=2 * (len(table),)
    )
    now, visits = np.zeros(len(table)), np.zeros(len(table))
    now[table.start.numpy()] = 1
    for _ in range(40):
        visits, now = visits + now, flow @ now
    assert np.array_equal(absorption(table, moves, horizon=40).visits, visits)
