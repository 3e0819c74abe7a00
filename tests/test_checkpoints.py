"Weights and checkpoints from everywhere: what loads is what was saved, and what is refused says what it is"

import argparse
import io
import os
import struct
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch

from goalmisgen.agents.exact_ppo import ExactPPO, ExactPPOConfig
from goalmisgen.agents.impala import Policy, action_probs, load_policy, save_policy, save_weights
from goalmisgen.agents.population import train_population
from goalmisgen.agents.ppo import PPO, PPOConfig
from goalmisgen.agents.training import Seeds, train_agent
from goalmisgen.core import read_json
from goalmisgen.evaluation.exact import evaluate_exact
from goalmisgen.evaluation.questions import Setting

SMALL_PPO = PPOConfig(
    size=3, num_envs=8, rollout=8, minibatches=2, epochs=1, env_steps=192, checkpoints=0, precision='float32'
)
SMALL = ExactPPOConfig(
    size=3,
    updates=6,
    updates_per_solve=2,
    levels_per_solve=8,
    batch_size=64,
    checkpoint_every=1,
    precision='float32',
)


@pytest.fixture(scope='module')
def policy():
    return Policy(3)


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values()))


def renamed(weights, f):
    return {f(k): v for k, v in weights.items()}


WRAPPINGS = {
    'plain.pt': lambda w: w,
    'published.pth': lambda w: dict(model_state_dict=w, optimizer_state_dict=dict(state={}, param_groups=[])),
    'nested.ckpt': lambda w: dict(epoch=3, state_dict=renamed(w, 'policy.'.__add__)),
    'parallel.bin': lambda w: renamed(w, 'module.'.__add__),
    'compiled.pth.tar': lambda w: dict(model=renamed(w, 'module._orig_mod.'.__add__)),
    'inside.pt': lambda w: dict(
        agent=dict(policy=renamed(w, lambda k: k.replace('embedder.', 'embedder._orig_mod.')))
    ),
    'half.pt': lambda w: {k: v.half().float() for k, v in w.items()},
}


@pytest.mark.parametrize('name', WRAPPINGS)
def test_known_wrappings_load(tmp_path, policy, name):
    torch.save(WRAPPINGS[name](policy.state_dict()), tmp_path / name)
    found = load_policy(tmp_path / name)
    assert same(found, policy) if name != 'half.pt' else not same(found, policy)
    torch.save(
        WRAPPINGS[name](policy.state_dict()), tmp_path / f'old-{name}', _use_new_zipfile_serialization=False
    )
    assert same(load_policy(tmp_path / f'old-{name}'), found)


def one(weights, name, value):
    return dict(weights, **{name: value})


WRONG = {
    'int8': (lambda w: {k: (v * 100).to(torch.int8) for k, v in w.items()}, 'is int8, not floating point'),
    'one tensor of integers': (
        lambda w: one(w, 'fc_value.bias', torch.ones(1, dtype=torch.int64)),
        'fc_value.bias is int64',
    ),
    'float8': (lambda w: {k: v.to(torch.float8_e4m3fn) for k, v in w.items()}, 'is float8_e4m3fn'),
    'complex': (lambda w: one(w, 'fc_value.bias', torch.ones(1, dtype=torch.complex64)), 'is complex64'),
    'too large': (
        lambda w: one(w, 'fc_value.bias', torch.full((1,), 1e300, dtype=torch.float64)),
        'too large for float32',
    ),
    'infinite': (lambda w: one(w, 'fc_value.bias', torch.full((1,), torch.inf)), 'fc_value.bias not finite'),
    'two networks': (
        lambda w: dict(policy=w, model=dict(w, **{'fc_value.bias': torch.ones(1)})),
        'policy, model',
    ),
    'another network': (lambda w: torch.nn.Linear(2, 3).state_dict(), '2 tensors, such as weight, bias'),
    'no network': (lambda w: dict(epoch=3, log=[1.0]), 'a dictionary of epoch, log'),
    'no dictionary': (lambda w: [1], 'a list'),
    'a global': (
        lambda w: dict(model=w, args=argparse.Namespace(lr=1), mean=np.float64(3)),
        'argparse.Namespace',
    ),
    'a long name': (lambda w: np.float64(3), 'numpy'),
    'one too many': (lambda w: one(w, 'loss.weight', torch.ones(1)), 'loss.weight not in this network'),
    'expanded': (lambda w: one(w, 'fc_value.bias', torch.zeros(1).expand(2**40)), 'fc_value.bias'),
}


@pytest.mark.parametrize('name', WRONG)
def test_what_is_not_this_network_is_refused_in_one_line(tmp_path, policy, name):
    make, message = WRONG[name]
    torch.save(make(policy.state_dict()), tmp_path / 'wrong.pth')
    with pytest.raises(ValueError) as e:
        load_policy(tmp_path / 'wrong.pth')
    assert message in str(e.value) and '\n' not in str(e.value) and 'wrong.pth' in str(e.value)
    if 'global' in name:
        assert 'multiarray.scalar' in str(e.value), 'all that was refused is named, and whole'


def test_what_is_written_can_be_read(tmp_path, policy):
    "Compiled and wrapped policies, under their plain names; and nothing that the reader refuses is written"
    for n, wrapped in enumerate((torch.compile(policy), torch.nn.DataParallel(policy))):
        save_policy(wrapped, tmp_path / f'agent-{n}', dict(updates=3))
        assert same(load_policy(tmp_path / f'agent-{n}'), policy)
    bad = Policy(1)
    bad.fc_value.bias.data += torch.nan
    for wrong in (bad, torch.nn.Linear(2, 2)):
        with pytest.raises(ValueError, match='weights to save'):
            save_weights(wrong, tmp_path / 'bad.safetensors')
    assert not (tmp_path / 'bad.safetensors').exists()


def test_four_times_the_channels(tmp_path):
    "The published network is supported: files, exact evaluation, the shared looks at a level, hooks"
    from goalmisgen.agents.shared_frames import is_unmodified

    wide = Policy(2, scale=4)
    assert sum(p.numel() for p in wide.parameters()) == 3_653_136 and is_unmodified(wide)
    with torch.no_grad():
        wide.fc_policy.weight *= 100
    torch.save(dict(model_state_dict=wide.state_dict(), optimizer_state_dict={}), tmp_path / 'model_1.pth')
    found = load_policy(tmp_path / 'model_1.pth')
    assert same(found, wide) and same(load_policy(save_policy(found, tmp_path / 'agent-0', {})), wide)
    setting = Setting('red line', 'yellow gem')
    plain = lambda frames: action_probs(wide, frames)
    a, b = (evaluate_exact(p, setting, range(100000, 100002)) for p in (found, plain))
    np.testing.assert_allclose([a.p1, a.p2, a.capability], [b.p1, b.p2, b.capability], rtol=1e-4)
    with pytest.raises(ValueError, match='scale'):
        Policy(0, scale=9)
    assert same(Policy(np.int64(7), scale=np.int8(1)), Policy(7))


def flips(data, count, seed):
    rng = np.random.default_rng(seed)
    for bit in rng.choice(8 * len(data), count, replace=False):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << int(bit % 8)
        yield bytes(changed)


def test_single_bits(tmp_path, policy):
    """Of a policy's file and a checkpoint, old and new: each flip is refused, or changed nothing that is
    loaded"""
    save_policy(policy, tmp_path / 'agent-0', {})
    file = tmp_path / 'agent-0' / 'model.safetensors'
    for data in flips(file.read_bytes(), 40, 0):
        file.write_bytes(data)
        with pytest.raises(ValueError):
            load_policy(tmp_path / 'agent-0')
    torch.save(policy.state_dict(), tmp_path / 'published.pth')
    for data in flips((tmp_path / 'published.pth').read_bytes(), 40, 1):
        (tmp_path / 'published.pth').write_bytes(data)
        try:
            assert same(load_policy(tmp_path / 'published.pth'), policy)
        except ValueError:
            pass
    learner = ExactPPO(SMALL, Seeds(1))
    learner.learn()
    learner.save(tmp_path / 'trainer.pt')
    whole = (tmp_path / 'trainer.pt').read_bytes()
    other = ExactPPO(SMALL, Seeds(1))
    for data in flips(whole, 40, 2):
        (tmp_path / 'trainer.pt').write_bytes(data)
        with pytest.raises(ValueError, match='not a readable checkpoint'):
            other.load(tmp_path / 'trainer.pt')
    assert other.updates == 0 and same(other.policy, Policy(1))


@pytest.mark.slow
@pytest.mark.parametrize('kind,config', [(PPO, SMALL_PPO), (ExactPPO, SMALL)])
def test_checkpoints_that_our_writer_did_not_write(tmp_path, kind, config):
    "Each part is looked at before the first is used"
    learner = kind(config, Seeds(1))
    for _ in range(2):
        learner.learn()
    learner.save(tmp_path / 'trainer.pt')
    state = lambda: torch.load(tmp_path / 'trainer.pt', weights_only=True)
    other, last = {PPO: 'loss', ExactPPO: 'policy_loss'}[kind], state()['metrics'][-1]
    bad = state()['policy']
    bad['fc_value.bias'][:] = torch.nan
    broken = state()['optimiser']
    broken['state'][0]['exp_avg'][0] = torch.inf
    short = state()['optimiser']
    del short['state'][3]
    wrong = [
        dict(optimiser=dict(state()['optimiser'], state={})),
        dict(optimiser=broken),
        dict(optimiser=short),
        dict(policy=bad),
        dict(own={}),
        dict(own=dict(state()['own'], extra=1)),
        dict(own={k: None for k in learner.checkpoint_attrs}),
        dict(updates=5),
        dict(metrics=[]),
        dict(metrics=[dict(updates=learner.updates, **{other: 1.0})]),
        dict(metrics=[last, last]),
        dict(metrics=[dict(last, updates=learner.updates + 1)]),
        dict(updates='4'),
        dict(precision='float64'),
        dict(policy={}),
    ]
    for change in wrong:
        torch.save(dict(state(), **change), tmp_path / 'changed.pt')
        fresh = kind(config, Seeds(1))
        with pytest.raises(ValueError, match='changed.pt'):
            fresh.load(tmp_path / 'changed.pt')
        assert fresh.updates == 0 and same(fresh.policy, Policy(1))
    less = state()
    del less['optimiser']
    torch.save(less, tmp_path / 'less.pt')
    with pytest.raises(ValueError, match='parts of'):
        kind(config, Seeds(1)).load(tmp_path / 'less.pt')
    torch.save(state(), tmp_path / 'old.pt')  # as it was written before there were fingerprints
    again = kind(config, Seeds(1))
    again.load(tmp_path / 'old.pt')
    assert again.learn() == learner.learn() and same(again.policy, learner.policy)


@pytest.mark.slow
def test_small_files_do_not_fill_the_memory(tmp_path, policy):
    "Compressed archives, sparse files, pipes and devices are refused before they are read"
    out = io.BytesIO()
    torch.save(policy.state_dict(), out)
    with (
        zipfile.ZipFile(out) as z,
        zipfile.ZipFile(tmp_path / 'deflated.pth', 'w', zipfile.ZIP_DEFLATED) as new,
    ):
        for part in z.namelist():
            new.writestr(part, z.read(part))
        new.writestr('archive/data/99', bytes(300_000_000))
    code = f'''
import os, resource
from goalmisgen.agents.impala import load_policy
from goalmisgen.core import read_json
from pathlib import Path
home = Path({str(tmp_path)!r})
os.mkfifo(home/'pipe.pth'); os.mkfifo(home/'pipe.json'); (home/'zero.pth').symlink_to('/dev/zero'); (home/'zero.json').symlink_to('/dev/zero')
for name in ('sparse.pth','sparse.json'): os.truncate(home/name, 2**40) if (home/name).touch() is None else 0
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in sorted(home.iterdir()):
    try: (read_json if path.suffix=='.json' else load_policy)(path)
    except ValueError as e: print(path.name, e)
print('MB', (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss-before)//1024)
'''  # noqa: E501
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, timeout=60)
    lines = done.stdout.splitlines()
    assert len(lines) == 8 and not done.stderr, done.stdout + done.stderr
    assert 'compressed' in lines[0] and int(lines[-1].split()[1]) < 100


def test_a_manifest_speaks_of_its_weights(tmp_path):
    "An agent whose files were mixed with another's, or whose manifest was changed, is refused"
    for n in (0, 1):
        save_policy(Policy(n), tmp_path / f'agent-{n}', dict(format=2, updates=8, seeds=dict(agent=n)))
    manifest = (tmp_path / 'agent-0' / 'manifest.json').read_text()
    (tmp_path / 'agent-0' / 'manifest.json').write_text(manifest.replace('"updates": 8', '"updates": 9'))
    with pytest.raises(ValueError, match='checksum of .*manifest.json'):
        load_policy(tmp_path / 'agent-0')
    (tmp_path / 'agent-0' / 'manifest.json').write_text(manifest)
    (tmp_path / 'agent-1' / 'model.safetensors').replace(tmp_path / 'agent-0' / 'model.safetensors')
    with pytest.raises(ValueError, match='of which its manifest.json speaks'):
        load_policy(tmp_path / 'agent-0' / 'model.safetensors')


def test_a_finished_agent_with_a_damaged_manifest_is_not_taken_for_finished(tmp_path):
    assert train_agent(SMALL, Seeds(1), tmp_path / 'pop' / 'agent-1')
    path = tmp_path / 'pop' / 'agent-1' / 'manifest.json'
    path.write_text(path.read_text().replace('"episode_length": ', '"episode_length": 1'))
    with pytest.raises(ValueError, match='checksum'):
        train_population(SMALL, [1], tmp_path / 'pop', workers=1, progress=False)
    assert not (tmp_path / 'pop' / 'population.json').exists()


def test_the_end_of_an_archive_carries_the_fingerprint(tmp_path):
    "PyTorch's own reader opens a sealed file; one without its end is no checkpoint"
    learner = ExactPPO(SMALL, Seeds(1))
    learner.save(tmp_path / 'trainer.pt')
    data = (tmp_path / 'trainer.pt').read_bytes()
    assert (
        data[-66:-64] == struct.pack('<H', 64)
        and torch.load(tmp_path / 'trainer.pt', weights_only=True)['updates'] == 0
    )
    for cut in (data[:-64], data[:-1], data + b'x', data[:-64] + b'0' * 64):
        (tmp_path / 'trainer.pt').write_bytes(cut)
        with pytest.raises(ValueError, match='not a readable checkpoint'):
            learner.load(tmp_path / 'trainer.pt')


def test_manifests_of_before_are_read(tmp_path):
    from goalmisgen.agents.examples import EXAMPLES, example_dir

    for name in EXAMPLES:
        assert read_json(example_dir(name) / 'manifest.json')['format'] == 1 and 'checksum' not in read_json(
            example_dir(name) / 'manifest.json'
        )
    assert os.path.getsize(example_dir('exact-0') / 'model.safetensors') == 2508400
