"The network in C: precisions, processors, orders of asking, memory, and machines that cannot compile"

import os
import subprocess
import sys
from contextlib import nullcontext
from functools import partial

import pytest
import torch
from networks import lively, some_loss

from goalmisgen.agents.exact_ppo import ExactPPO, ExactPPOConfig
from goalmisgen.agents.forward import PlainForward, answer_all, forward_for
from goalmisgen.agents.impala import Policy
from goalmisgen.agents.native_frames import NativeForward, bits_for, why_not
from goalmisgen.agents.shared_frames import SharedForward
from goalmisgen.agents.training import Seeds, train_agent
from goalmisgen.core import read_json
from goalmisgen.env.levels import TRAIN, generate
from goalmisgen.env.rendered import render_levels
from goalmisgen.native import compiler
from goalmisgen.native.compiler import FLAGS, NoCompiler, compile_c, load_c

HALF = partial(torch.autocast, 'cpu', torch.bfloat16)


def native(policy, rendered, autocast=None, flags=FLAGS):
    "A forward in C; the test is skipped where there can be none"
    missing = why_not(policy, autocast or nullcontext, flags)
    if missing:
        pytest.skip(f'no native code of this kind here: {missing}')
    return NativeForward(policy, rendered, autocast, flags)


@pytest.fixture(scope='module')
def rendered():
    return render_levels(generate(TRAIN, range(30)), 'yellow line')


@pytest.fixture(scope='module')
def states(rendered):
    return torch.randperm(len(rendered.table), generator=torch.Generator().manual_seed(4))[:150]


def gradient(forward, ids, weigh, chunk=64):
    "Gradient of a loss over states, in chunks: one vector in float64"
    policy = forward.policy
    policy.zero_grad()
    order = forward.prepare(ids)
    for i in order.split(chunk):
        some_loss(*forward(ids[i]), weigh[i]).backward()
    forward.flush()
    return torch.cat([p.grad.double().flatten() for p in policy.parameters()])


@pytest.fixture(scope='module')
def weigh(states):
    return torch.randn((len(states), 15), generator=torch.Generator().manual_seed(2))


@pytest.fixture(scope='module')
def want(rendered, states, weigh):
    "What float64 says: answers and gradient"
    plain = PlainForward(lively().double(), rendered.frames)
    return answer_all(plain, states), gradient(plain, states, weigh.double())


def far(a, b):
    return float((a.double() - b).norm() / b.norm())


PROCESSORS = {'this one': '-march=native', 'with AVX2': '-march=x86-64-v3', 'any': '-march=x86-64'}


@pytest.mark.parametrize('march', PROCESSORS.values(), ids=PROCESSORS)
@pytest.mark.parametrize('bits', [32, 64])
def test_the_same_on_any_processor(rendered, states, weigh, want, bits, march):
    "Vectors of 64, 32 and 16 bytes, tiles for 32 registers and for 16"
    policy = lively() if bits == 32 else lively().double()
    forward = native(policy, rendered, flags=('-O1', march, '-fPIC', '-shared'))
    limit = 1e-12 if bits == 64 else 1e-3
    assert all(far(a, b) < limit for a, b in zip(answer_all(forward, states), want[0]))
    assert far(gradient(forward, states, weigh.to(policy.fc_value.weight.dtype)), want[1]) < limit
    assert set(forward.networks) == {bits}


def test_bfloat16_is_as_good_as_pytorchs(rendered, states, weigh, want):
    found = {}
    for name, forward in (
        ('native', native(lively(), rendered, HALF)),
        ('PyTorch', PlainForward(lively(), rendered.frames, HALF)),
    ):
        logits, _ = answer_all(forward, states)
        found[name] = far(logits, want[0][0]), far(gradient(forward, states, weigh), want[1])
    for ours, theirs in zip(*found.values()):
        assert 1e-4 < ours < 1.5 * theirs, found


def test_the_order_of_asking_does_not_matter(rendered, states, weigh, want):
    "Levels may come again, chunks may end within one, a state may be asked twice, a chunk may be empty"
    policy = lively().double()
    forward = native(policy, rendered)
    forward.prepare(states[:0])
    policy.zero_grad()
    for i in torch.arange(len(states)).split(7):
        some_loss(*forward(states[i]), weigh[i].double()).backward()
    forward.flush()
    got = torch.cat([p.grad.flatten() for p in policy.parameters()])
    assert far(got, want[1]) < 1e-12
    twice = forward(states[[5, 9, 5]])[0]
    assert torch.equal(twice[0], twice[2])
    assert torch.allclose(twice[1:2], forward(states[9:10])[0], rtol=0, atol=1e-12)
    assert forward(states[:0])[0].shape == (0, 15)


def test_gradients_are_added_and_only_where_they_are_wanted(rendered, states, weigh):
    policy = lively().double()
    frozen = policy.embedder.block1.requires_grad_(False)
    forward, plain = native(policy, rendered), PlainForward(policy, rendered.frames)

    def grads(forward, times):
        policy.zero_grad()
        for _ in range(times):
            order = forward.prepare(states)
            some_loss(*forward(states[order]), weigh[order].double()).backward()
            forward.flush()
            forward.flush()  # has nothing to pass on
        assert all(p.grad is None for p in frozen.parameters())
        return torch.cat([p.grad.flatten() for p in policy.parameters() if p.requires_grad])

    assert far(grads(forward, 2), grads(plain, 2)) < 1e-12
    policy.requires_grad_(False)
    assert not forward(states)[0].requires_grad


def test_two_chunks_may_wait_and_none_goes_twice(rendered, states, weigh, want):
    policy = lively().double()
    forward = native(policy, rendered)
    forward.prepare(states)
    parts = [(some_loss(*forward(states[i]), weigh[i].double())) for i in torch.arange(len(states)).split(50)]
    for part in parts[::-1]:
        part.backward(retain_graph=True)
    forward.flush()
    assert far(torch.cat([p.grad.flatten() for p in policy.parameters()]), want[1]) < 1e-12
    with pytest.raises(RuntimeError, match='gone already'):
        parts[0].backward()


def test_the_way_back_is_lost_with_the_weights(rendered, states):
    policy = lively()
    forward = native(policy, rendered)
    forward.prepare(states)
    logits, _ = forward(states[:9])
    forward.prepare(states)
    with pytest.raises(RuntimeError, match='prepare'):
        logits.sum().backward()


def test_hooks_on_gradients_count(rendered, states, weigh, want):
    "Of one parameter, before its gradient is added up and after"
    for hook in ('register_hook', 'register_post_accumulate_grad_hook'):
        policy, seen = lively().double(), []
        forward = native(policy, rendered)
        getattr(policy.embedder.block1.conv.weight, hook)(seen.append)
        assert far(gradient(forward, states, weigh.double()), want[1]) < 1e-12 and seen
        assert type(forward_for(policy, rendered)) is SharedForward


def test_levels_are_forgotten_when_there_are_too_many(rendered, states, weigh, want):
    policy = lively().double()
    forward = native(policy, rendered)
    forward.prepare(states)
    forward.seen.most = 12
    policy.zero_grad()
    for i in forward.prepare(states).split(9):
        some_loss(*forward(states[i]), weigh[i].double()).backward()
        assert forward.seen.count <= 12 < len(rendered.table.level[states].unique())
    forward.flush()
    assert far(torch.cat([p.grad.flatten() for p in policy.parameters()]), want[1]) < 1e-12
    assert all(far(a, b) < 1e-12 for a, b in zip(answer_all(forward, states), want[0]))
    forward.seen.most = 3  # fewer than one call needs
    assert all(far(a, b) < 1e-12 for a, b in zip(answer_all(forward, states), want[0]))


def test_four_times_the_channels(rendered, states):
    policy = lively(scale=4).double()
    some = states[:12]
    weigh = torch.ones((len(some), 15), dtype=torch.float64)
    forward, plain = native(policy, rendered), PlainForward(policy, rendered.frames)
    assert far(gradient(forward, some, weigh), gradient(plain, some, weigh)) < 1e-12


def test_a_number_that_is_none_stays_visible(rendered, states):
    policy = lively()
    forward = native(policy, rendered)
    for layer in ('embedder.block1.res1.conv1', 'embedder.block3.conv'):
        broken = lively()
        broken.get_submodule(layer).weight.data[0, 0, 1, 1] = torch.nan
        policy.load_state_dict(broken.state_dict())
        with torch.no_grad():
            assert broken(rendered.frames(states[:4]))[0].isnan().all()
        assert answer_all(forward, states[:4])[0].isnan().all()


def test_other_numbers_go_another_way(rendered, states):
    "Half-precision weights, and those of a network that changed its precision since"
    policy = lively()
    forward = native(policy, rendered)
    before = answer_all(forward, states)[0]
    policy.double()
    assert answer_all(forward, states)[0].dtype == torch.float64 and set(forward.networks) == {32, 64}
    policy.to(torch.bfloat16)
    assert bits_for(policy, forward.autocast) is None
    assert far(answer_all(forward, states)[0], before.double()) < 0.1
    assert forward.network is None


def test_networks_of_others_are_looked_at_as_they_are(rendered, states):
    class Other(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(3, 16)

        def forward(self, frames):
            out = self.layer(frames.float().mean((1, 2)))
            return out[:, :15], out[:, 15]

    other = Other()
    forward = forward_for(other, rendered)
    assert torch.allclose(answer_all(forward, states)[0], other(rendered.frames(states))[0])
    with pytest.raises(ValueError, match='not as this package builds it'):
        forward_for(other, rendered, kind='native')


def test_without_a_compiler(rendered, monkeypatch, tmp_path):
    "Shared frames do it; whoever asks for native ones hears why not"
    monkeypatch.setenv('CC', str(tmp_path / 'nothing'))
    load_c.cache_clear()
    try:
        assert type(forward_for(Policy(0), rendered)) is SharedForward
        with pytest.raises(ValueError, match='no C compiler'):
            forward_for(Policy(0), rendered, kind='native')
        monkeypatch.setenv('CC', 'false')
        with pytest.raises(NoCompiler, match='failed'):
            compile_c('int x;', 32)
    finally:
        load_c.cache_clear()


def test_a_library_that_was_damaged_is_made_again(monkeypatch, tmp_path):
    monkeypatch.setattr(compiler, 'cache_dir', lambda name: tmp_path / name)
    source = 'int seven(void) { return 7; }'
    try:
        path = compile_c(source, 32)
    except NoCompiler as e:
        pytest.skip(f'no C compiler: {e}')
    assert compile_c(source, 32) == path
    path.write_bytes(path.read_bytes()[:-9] + b'something')
    made = path.stat().st_mtime_ns
    assert compile_c(source, 32) == path and path.stat().st_mtime_ns != made
    assert load_c(source, 32).seven() == 7
    assert [p.name for p in (tmp_path / 'native').iterdir()] == [path.name]
    (tmp_path / 'file').write_text('')
    monkeypatch.setattr(compiler, 'cache_dir', lambda name: tmp_path / 'file' / name)
    with pytest.raises(NoCompiler, match='file'):
        compile_c(source, 32)


def test_the_manifest_names_the_forward(tmp_path):
    "And asking for another is no other run"
    c = ExactPPOConfig(size=3, updates=4, updates_per_solve=2, levels_per_solve=3, batch_size=16)
    kinds = ['shared', 'plain'] + [None] * (not why_not(Policy(0), ExactPPO(c, Seeds(0)).autocast))
    for kind in kinds:
        train_agent(c, Seeds(0), tmp_path / str(kind), forward=kind)
    said = [read_json(tmp_path / str(kind) / 'manifest.json') for kind in kinds]
    assert [m['versions']['network'] for m in said] == ['shared', 'plain', 'native'][: len(kinds)]
    assert len({m['digest'] for m in said}) == 1


@pytest.mark.slow
def test_the_same_bytes_in_another_process(tmp_path):
    "Memory that is new or used, addresses, the cache of libraries: nothing of it decides which agent it is"
    program = (
        'import torch; torch.set_num_threads(1)\n'
        'from goalmisgen.agents.ppo import PPOConfig\n'
        'from goalmisgen.agents.training import Seeds, train_agent\n'
        'c = PPOConfig(num_envs=16, rollout=32, minibatches=2, epochs=2, env_steps=1024)\n'
        'train_agent(c, Seeds(1), {folder!r})\n'
    )
    for name in ('a', 'b'):
        environment = dict(os.environ, MALLOC_PERTURB_='101' if name == 'b' else '0')
        folder = str(tmp_path / name)
        subprocess.run([sys.executable, '-c', program.format(folder=folder)], check=True, env=environment)
    a, b = ((tmp_path / n / 'model.safetensors').read_bytes() for n in ('a', 'b'))
    assert a == b


SANITISED = """
import sys
import torch
import goalmisgen.agents.native_frames as native_frames
from goalmisgen.agents.impala import Policy
from goalmisgen.env.levels import MazeSpec, generate
from goalmisgen.env.rendered import render_levels

one_block = '#define TAKE(field, count) n->field = (void *)(base + size);'
assert one_block in native_frames.NETWORK_IN_C
apart = '#define TAKE(field, count) if (base) n->field = calloc((count), sizeof(*n->field));'
native_frames.NETWORK_IN_C = native_frames.NETWORK_IN_C.replace(one_block, apart)
guards = ('-fsanitize=address,undefined', '-fno-sanitize=alignment')
flags = ('-O1', '-march=native', '-fPIC', '-shared', *guards)
half = lambda: torch.autocast('cpu', torch.bfloat16)
for size, scale in ((5, 1), (25, 1), (3, 4)):
    rendered = render_levels(generate(MazeSpec(size=size), range(3)), 'yellow line')
    for autocast in (None, half):
        policy = Policy(0, scale)
        if native_frames.why_not(policy, autocast or torch.no_grad, flags):
            continue
        forward = native_frames.NativeForward(policy, rendered, autocast, flags)
        states = torch.arange(len(rendered.table))[:: max(1, len(rendered.table) // 20)]
        logits, values = forward(states[forward.prepare(states)])
        (logits.sum() + values.sum()).backward()
        forward.flush()
print('all of it')
"""


@pytest.mark.slow
def test_nothing_is_read_or_written_beyond_its_room(tmp_path):
    "The network in C under the compiler's own guards, each piece of its memory by itself"
    found = [
        subprocess.run(
            ['cc', f'-print-file-name=lib{name}.so'], capture_output=True, text=True
        ).stdout.strip()
        for name in ('asan', 'ubsan')
    ]
    if not all(os.path.isabs(path) for path in found):
        pytest.skip('the compiler here has no sanitisers')
    environment = dict(
        os.environ,
        LD_PRELOAD=' '.join(found),
        ASAN_OPTIONS='detect_leaks=0',
        UBSAN_OPTIONS='halt_on_error=1',
        XDG_CACHE_HOME=str(tmp_path),
        OMP_NUM_THREADS='1',
    )
    run = subprocess.run([sys.executable, '-c', SANITISED], capture_output=True, text=True, env=environment)
    assert run.returncode == 0 and run.stdout.strip() == 'all of it', run.stderr[-3000:]
