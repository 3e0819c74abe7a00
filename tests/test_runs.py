"Runs that are killed, interrupted, resumed and shared: the same files at the end, and nothing left behind"

import hashlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from goalmisgen.agents.exact_ppo import ExactPPOConfig
from goalmisgen.agents.population import train_population
from goalmisgen.agents.ppo import PPOConfig

pytestmark = pytest.mark.slow

SMALL = [
    '--config.size',
    '3',
    '--config.updates',
    '30',
    '--config.updates-per-solve',
    '1',
    '--config.levels-per-solve',
    '8',
    '--config.batch-size',
    '64',
    '--config.checkpoint-every',
    '2',
]
CLI = [sys.executable, '-m', 'goalmisgen.cli']


SMALL_PPO = [
    '--config.size',
    '3',
    '--config.num-envs',
    '8',
    '--config.rollout',
    '16',
    '--config.minibatches',
    '2',
    '--config.epochs',
    '1',
    '--config.env-steps',
    '2560',
    '--config.checkpoints',
    '2',
    '--config.checkpoint-every',
    '3',
]


# the same, as configs
EXACT = ExactPPOConfig(
    size=3, updates=30, updates_per_solve=1, levels_per_solve=8, batch_size=64, checkpoint_every=2
)
PPO = PPOConfig(
    size=3, num_envs=8, rollout=16, minibatches=2, epochs=1, env_steps=2560, checkpoints=2, checkpoint_every=3
)


def train(folder, *extra, ppo=False, **kwargs):
    listen = lambda: signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # a shell's background jobs ignore Ctrl-C, these tests too if they are one
    return subprocess.Popen(
        [
            *CLI,
            'train-ppo' if ppo else 'train',
            str(folder),
            '--agents',
            '2',
            '--workers',
            '2',
            *(SMALL_PPO if ppo else SMALL),
            *extra,
        ],
        start_new_session=True,
        preexec_fn=listen,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **kwargs,
    )


def digests(folder):
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(Path(folder).rglob('*'))
        if p.is_file()
    }


def wait_for(condition, seconds=120):
    for _ in range(seconds * 20):
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError('waited in vain')


def alive(session):
    "Live processes of a session"
    found = []
    for stat in Path('/proc').glob('[0-9]*/stat'):
        try:
            fields = stat.read_text().rsplit(')', 1)[1].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] != 'Z':
            found.append(stat.parent.name)
    return found


@pytest.fixture(scope='module')
def undisturbed(tmp_path_factory):
    "The files of a run that nobody interrupted, in this process"
    folder = tmp_path_factory.mktemp('undisturbed') / 'pop'
    assert train_population(EXACT, range(2), folder, workers=1, progress=False).finished == (0, 1)
    return digests(folder)


def test_files_of_a_population(undisturbed):
    assert set(undisturbed) == {
        'population.json',
        *(f'agent-{n}/{f}' for n in (0, 1) for f in ('manifest.json', 'metrics.csv', 'model.safetensors')),
    }
    assert undisturbed['agent-0/model.safetensors'] != undisturbed['agent-1/model.safetensors']


@pytest.mark.parametrize('victim', ['everything', 'parent'])
def test_killed_and_resumed(undisturbed, tmp_path, victim):
    folder = tmp_path / 'pop'
    p = train(folder)
    wait_for(lambda: (folder / 'agent-0' / 'trainer.pt').exists())
    if victim == 'everything':
        os.killpg(p.pid, signal.SIGKILL)
    else:
        p.kill()
    p.wait(30)
    wait_for(lambda: not alive(p.pid))  # workers whose parent is gone leave by themselves
    assert not (folder / 'agent-0' / 'manifest.json').exists(), (
        'the run was over before it was killed: the test shows nothing'
    )
    p = train(folder)
    out, _ = p.communicate(timeout=300)
    assert p.returncode == 0, out
    for litter in folder.rglob('.*'):
        litter.unlink()  # a kill in the middle of a write leaves a temporary file, and nothing worse
    assert digests(folder) == undisturbed


def test_the_papers_ppo_killed_and_resumed(tmp_path):
    "Policies kept along the way and the place of every environment are part of what comes back"
    assert train_population(PPO, range(2), tmp_path / 'whole', workers=1, progress=False).finished == (0, 1)
    p = train(tmp_path / 'killed', ppo=True)
    wait_for(lambda: (tmp_path / 'killed' / 'agent-0' / 'trainer.pt').exists())
    os.killpg(p.pid, signal.SIGKILL)
    p.wait(30)
    wait_for(lambda: not alive(p.pid))
    assert not (tmp_path / 'killed' / 'agent-0' / 'manifest.json').exists(), (
        'the run was over before it was killed: the test shows nothing'
    )
    p = train(tmp_path / 'killed', ppo=True)
    out, _ = p.communicate(timeout=300)
    assert p.returncode == 0, out
    for litter in (tmp_path / 'killed').rglob('.*'):
        litter.unlink()
    assert digests(tmp_path / 'whole') == digests(tmp_path / 'killed')
    found = {p.name for p in (tmp_path / 'whole' / 'agent-1').iterdir()}
    assert found == {
        'manifest.json',
        'metrics.csv',
        'model.safetensors',
        'step-0.safetensors',
        'step-1280.safetensors',
    }


def test_ctrl_c_saves_and_says_so(undisturbed, tmp_path):
    folder = tmp_path / 'pop'
    p = train(folder)
    wait_for(lambda: (folder / 'agent-0' / 'trainer.pt').exists())
    os.killpg(p.pid, signal.SIGINT)  # what a terminal sends: parent and workers alike
    out, _ = p.communicate(timeout=120)
    assert p.returncode == 130 and 'goes on from here' in out and 'Traceback' not in out, out
    wait_for(
        lambda: not alive(p.pid), 30
    )  # the resource tracker of multiprocessing leaves a moment after its parent
    assert not (folder / 'agent-0' / 'manifest.json').exists() and not list(folder.rglob('.*'))
    out, _ = train(folder).communicate(timeout=300)
    assert digests(folder) == undisturbed, out


def test_another_config_is_refused(undisturbed, tmp_path):
    folder = tmp_path / 'pop'
    train_population(replace(EXACT, updates=1), range(2), folder, workers=1, progress=False)
    before = digests(folder)
    assert len(before) == len(undisturbed)
    p = train(folder)
    out, _ = p.communicate(timeout=60)
    assert p.returncode == 2 and 'another folder' in out and 'Traceback' not in out, out
    assert digests(folder) == before
