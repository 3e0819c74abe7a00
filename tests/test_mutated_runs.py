"""Weights, checkpoints and manifests with something changed in them: refused, or what is read is what was
written.

A few hundred of each, always the same; the environment variable GOALMISGEN_MUTATIONS sets another number,
such as 10000."""

import os

import numpy as np
import pytest
import torch

from goalmisgen.agents.exact_ppo import ExactPPO, ExactPPOConfig
from goalmisgen.agents.impala import Policy, load_policy, save_policy
from goalmisgen.agents.population import check_claim, claim_folder
from goalmisgen.agents.training import Seeds, is_finished, train_agent
from goalmisgen.core import read_json

pytestmark = pytest.mark.slow

COUNT = int(os.environ.get('GOALMISGEN_MUTATIONS', 200))
SMALL = ExactPPOConfig(
    size=3, updates=4, updates_per_solve=2, levels_per_solve=8, batch_size=64, precision='float32'
)


def mutate(data, rng):
    """One change: bits, bytes, a piece cut out, doubled, moved or zeroed, an end cut off; half of them where
    headers are"""
    n, out = len(data), bytearray(data)
    edge = min(n, 4096)
    at = int(
        rng.choice([rng.integers(n), rng.integers(edge), n - 1 - rng.integers(edge)], p=[0.5, 0.25, 0.25])
    )
    size = int(rng.integers(1, 40))
    kind = rng.choice(['bit', 'byte', 'digit', 'cut', 'double', 'move', 'zero', 'truncate', 'append'])
    if kind == 'bit':
        out[at] ^= 1 << int(rng.integers(8))
    elif kind == 'byte':
        out[at] = int(rng.integers(256))
    elif kind == 'digit':
        digits = [i for i in range(max(0, at - 300), min(n, at + 300)) if 48 <= out[i] <= 57]
        if digits:
            out[int(rng.choice(digits))] = int(rng.integers(48, 58))
    elif kind == 'cut':
        del out[at : at + size]
    elif kind == 'double':
        out[at:at] = out[at : at + size]
    elif kind == 'move':
        piece = out[at : at + size]
        del out[at : at + size]
        to = int(rng.integers(len(out) + 1))
        out[to:to] = piece
    elif kind == 'zero':
        out[at : at + size] = bytes(len(out[at : at + size]))
    elif kind == 'truncate':
        del out[at:]
    else:
        out += bytes(rng.integers(256, size=size, dtype=np.uint8))
    return bytes(out)


def survivors(path, read, equal, seed):
    """Mutations of a file that `read` takes although it is no longer `equal` to what was written; and how
    many were refused"""
    whole, rng, wrong, refused = path.read_bytes(), np.random.default_rng(seed), [], 0
    for k in range(COUNT):
        path.write_bytes(mutate(whole, rng))
        try:
            if not equal(read(path)):
                wrong.append(k)
        except ValueError as e:
            assert path.name in str(e) and len(str(e)) < 2000
            refused += 1
    path.write_bytes(whole)
    return wrong, refused


def same(weights):
    return lambda policy: all(torch.equal(v, weights[k]) for k, v in policy.state_dict().items())


@pytest.mark.parametrize('kind', ['ours', 'published', 'old'])
def test_weights(tmp_path, kind):
    weights = Policy(5).state_dict()
    path = tmp_path / ('step-5.safetensors' if kind == 'ours' else 'model_5.pth')
    if kind == 'ours':
        (save_policy(Policy(5), tmp_path, {}) / 'model.safetensors').rename(path)
    else:
        torch.save(dict(model_state_dict=weights, optimizer_state_dict={}), path)
    if (
        kind == 'old'
    ):  # read as a checkpoint of before there were fingerprints: its checksums are all there is
        from goalmisgen.agents.weights import load_sealed

        as_saved = lambda d: isinstance(d, dict) and same(d.get('model_state_dict', {}))(Policy(5))
        wrong, refused = survivors(path, load_sealed, as_saved, 2)
    else:
        wrong, refused = survivors(path, load_policy, same(weights), {'ours': 0, 'published': 1}[kind])
    assert wrong == [] and refused > 0.8 * COUNT


def test_checkpoints(tmp_path):
    "What is read is the very file, or nothing"
    learner, fresh = (ExactPPO(SMALL, Seeds(1)) for _ in range(2))
    learner.learn()
    learner.save(tmp_path / 'trainer.pt')
    whole = (tmp_path / 'trainer.pt').read_bytes()

    def read(path):
        fresh.load(path)
        return path.read_bytes()

    wrong, refused = survivors(tmp_path / 'trainer.pt', read, whole.__eq__, 3)
    assert wrong == [] and refused > 0.8 * COUNT
    assert read(tmp_path / 'trainer.pt') == whole and fresh.updates == 2


@pytest.fixture(scope='module')
def population(tmp_path_factory):
    home = tmp_path_factory.mktemp('population')
    claim_folder(home, SMALL)
    assert train_agent(SMALL, Seeds(1), home / 'agent-1')
    return home


def test_manifests(population):
    path = population / 'agent-1' / 'manifest.json'
    manifest = read_json(path)
    assert survivors(path, read_json, manifest.__eq__, 4)[0] == []

    def finished(path):
        return is_finished(SMALL, Seeds(1), path.parent)

    assert survivors(path, finished, True.__eq__, 5)[0] == []
    assert load_policy(population / 'agent-1')


def test_the_claim_of_a_population(population):
    def ours(path):
        return check_claim(path.parent, SMALL) is None and read_json(path)

    wrong, refused = survivors(
        population / 'population.json', ours, read_json(population / 'population.json').__eq__, 6
    )
    assert wrong == [] and refused > 0.5 * COUNT
