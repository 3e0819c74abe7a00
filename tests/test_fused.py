"""The network in fused kernels, under Triton's interpreter: `python tests/test_fused.py` prints what it finds
as JSON

Triton reads TRITON_INTERPRET when it is imported, so what needs the kernels runs in a process of its own.
"""

import importlib.util
import json
import math
import os
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch

from goalmisgen.agents.fused import LAUNCHES, FusedNetwork, Launch, check_launches, fused_available
from goalmisgen.agents.impala import Policy
from goalmisgen.agents.workspace import PlainNetwork, flatten_parameters
from goalmisgen.kernels.patches import (
    PARAMETER_SHAPES,
    STARTS,
    matrix_tables,
    partial_sums,
    positions_of,
    spread_table,
)

pytestmark = pytest.mark.slow

SMALL = {k: replace(v, programs=2) for k, v in LAUNCHES.items() if v.programs}
SMALL['res3'] = replace(
    SMALL['res3'], rows=32
)  # one frame a tile: NumPy's products depend on the row, the card's do not
OTHER = {
    k: replace(LAUNCHES[k], programs=3, patch_rows=3 - LAUNCHES[k].patch_rows)
    for k in ('res1', 'res3', 'back1')
}


# In a process of its own


def policy():
    "A policy whose biases are not zero and whose logits have some size"
    made, rng = Policy(0), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, p in made.named_parameters():
            if name.endswith('bias') or name.startswith('fc_policy'):
                p.copy_(torch.randn(p.shape, generator=rng) * 0.1)
    return made


def frames(n):
    "Noise, and flat shapes on black as mazes have them, with many ties"
    x = torch.randint(0, 256, (n, 64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    x[1::2] = 0
    x[1::2, 10:40, 20:50] = torch.tensor([200, 40, 90], dtype=torch.uint8)
    return x


def step(network, ids, count, capacity):
    "Answers and gradients for the first `count` ids, in a batch of `capacity`"
    flat, grad = flatten_parameters(network.policy)
    grad.fill_(float('nan'))  # every number is written
    padded = torch.full((capacity,), len(network.frames) - 1)
    padded[: len(ids)] = torch.tensor(ids)
    slope = torch.zeros(capacity, 16)
    slope[:count] = torch.randn(8, 16, generator=torch.Generator().manual_seed(3))[:count]
    out = network(padded, torch.tensor(count))
    network.backward(slope, grad)
    return out, grad.clone()


def apart(ours, theirs):
    "Relative difference in norm"
    return float((ours - theirs).norm() / theirs.norm())


def worst(ours, theirs):
    "Greatest relative difference of a parameter's gradient"
    return max(
        apart(
            ours[at : at + math.prod(PARAMETER_SHAPES[k])], theirs[at : at + math.prod(PARAMETER_SHAPES[k])]
        )
        for k, at in STARTS.items()
    )


def nearest():
    "Have the interpreter round float32 to the nearest bfloat16, as the card does; it would cut digits off"
    import triton.runtime.interpreter as interpreter

    convert = interpreter._convert_float

    def rounding(x, source, target, mode):
        if (str(source), str(target)) != ('fp32', 'bf16'):
            return convert(x, source, target, mode)
        bits = np.frombuffer(x.tobytes(), np.uint32).astype(np.uint64)
        return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16).reshape(x.shape)

    interpreter._convert_float = rounding


def measure():
    "What the tests below assert"
    x, found = frames(4), {}
    plain = PlainNetwork(policy().double(), x, nullcontext)
    theirs, their_grad = step(plain, [2, 0], 2, 2)
    ours, grad = step(FusedNetwork(policy(), x, nullcontext, 3, SMALL), [2, 0], 2, 3)
    found |= dict(
        answers=apart(ours[:2], theirs), gradient=worst(grad, their_grad), beyond=float(ours[2:].abs().max())
    )

    larger = FusedNetwork(policy(), x, nullcontext, 9, SMALL)
    flatten_parameters(larger.policy)
    alone = larger(torch.tensor([0, 0, 0, 0, 0]), torch.tensor(1))
    again = step(larger, [2, 0], 2, 7)
    found |= dict(
        alone=torch.equal(alone[0], ours[1]),
        beyond_larger=float(again[0][2:].abs().max()),
        again=[torch.equal(again[0][:2], ours[:2]), torch.equal(again[1], grad)],
    )

    theirs, their_grad = step(plain, [1], 1, 1)
    other = step(FusedNetwork(policy(), x, nullcontext, 1, SMALL | OTHER), [1], 1, 1)
    found |= dict(other_answers=apart(other[0], theirs), other_gradient=apart(other[1], their_grad))
    nearest()
    theirs, their_grad = step(plain, [0], 1, 1)
    short = step(
        FusedNetwork(policy(), x, lambda: torch.autocast('cpu', torch.bfloat16), 1, SMALL), [0], 1, 1
    )
    found |= dict(short_answers=apart(short[0], theirs), short_gradient=apart(short[1], their_grad))
    print(json.dumps(found))


# What it finds


@pytest.fixture(scope='module')
def found():
    if importlib.util.find_spec('triton') is None:
        pytest.skip('Triton is not installed')
    env = {**os.environ, 'TRITON_INTERPRET': '1', 'OMP_NUM_THREADS': '1'}
    run = subprocess.run([sys.executable, __file__], env=env, capture_output=True, encoding='utf-8')
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])


def test_it_is_the_plain_network(found):
    assert found['answers'] < 1e-5 and found['gradient'] < 1e-5


def test_other_patches_and_programs_change_nothing(found):
    "On a frame of flat shapes, where rounding decides between equal neighbours of a pool"
    assert found['other_answers'] < 1e-5 and found['other_gradient'] < 0.01


def test_bfloat16_is_near(found):
    assert found['short_answers'] < 0.02 and found['short_gradient'] < 0.1


def test_neither_repetition_nor_company_nor_capacity_changes_a_bit(found):
    assert found['again'] == [True, True] and found['alone']


def test_there_are_zeros_beyond_the_last_frame(found):
    assert found['beyond'] == 0 and found['beyond_larger'] == 0


# Without the kernels


def test_a_cpu_is_refused():
    assert fused_available('cpu') is False
    x = frames(1)
    with pytest.raises(ValueError, match='uint8'):
        FusedNetwork(Policy(0), x.float(), nullcontext)
    with pytest.raises(ValueError, match='IMPALA'):
        FusedNetwork(torch.nn.Linear(2, 2), x, nullcontext)
    if importlib.util.find_spec('triton'):
        with pytest.raises(ValueError, match='CUDA'):
            FusedNetwork(Policy(0), x, nullcontext)


@pytest.mark.parametrize(
    'launches, message',
    [
        (dict(first=Launch(528, rows=128)), 'divisor of 320'),
        (dict(first=Launch(0)), 'programs'),
        (dict(res1=Launch(4, rows=48)), 'power of two'),
        (dict(unpool2=Launch(4, patch_rows=2)), 'patch_rows'),
        (dict(nothing=Launch()), 'nothing'),
        (dict(res1=dict(programs=4)), 'res1'),
    ],
)
def test_launches_that_leave_something_out_are_refused(launches, message):
    with pytest.raises(ValueError, match=message):
        check_launches(launches)


def test_without_triton_it_can_be_imported_and_says_what_is_missing():
    code = '''
import sys
sys.modules['triton'] = None
import goalmisgen.agents.fused as fused
assert fused.fused_available() is False and fused.fused_available('cpu') is False
try: fused.FusedImpala(1)
except ImportError as e: print(e)
'''
    run = subprocess.run([sys.executable, '-c', code], capture_output=True, encoding='utf-8')
    assert run.returncode == 0 and 'pip install "triton>=3.6"' in run.stdout, run.stderr


def test_the_tables_name_the_policys_parameters():
    assert {k: tuple(p.shape) for k, p in Policy(0).named_parameters()} == PARAMETER_SHAPES


@pytest.mark.parametrize('launches', (LAUNCHES, {**LAUNCHES, **SMALL, **OTHER}), ids=('default', 'other'))
def test_every_parameter_is_read_and_has_one_gradient(launches):
    read = np.concatenate([t.ravel() for t in matrix_tables(launches).values()])
    everything = np.arange(sum(map(int, map(np.prod, PARAMETER_SHAPES.values()))))
    assert set(read.tolist()) - {-1} == set(everything.tolist())
    where, which = spread_table(partial_sums(launches).values())
    assert np.array_equal(np.sort(np.r_[where, positions_of('embedder.fc.weight').ravel()]), everything)
    used = which[which >= 0]
    assert len(np.unique(used)) == len(used)  # no sum counts twice


if __name__ == '__main__':
    measure()
