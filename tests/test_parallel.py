"""Many agents on one device: the same agents as the plain loops make, whoever is beside them, and whatever
interrupts them"""

import importlib.util
import math
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from goalmisgen.agents.exact_ppo import ExactPPOConfig
from goalmisgen.agents.impala import Policy, load_policy
from goalmisgen.agents.parallel import PARALLEL_CLASSES, train_parallel
from goalmisgen.agents.parallel_exact import ParallelExactPPO
from goalmisgen.agents.parallel_ppo import ParallelPPO
from goalmisgen.agents.ppo import PPO, PPOConfig
from goalmisgen.agents.training import Seeds, train_agent
from goalmisgen.agents.workspace import distinct_ids, sum_by_row
from goalmisgen.core import read_json

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def plain_forward(monkeypatch):
    "The plain loop looks at frames in full here, as the loops on a device do"
    monkeypatch.setenv('GOALMISGEN_FORWARD', 'plain')


PAPER = PPOConfig(
    size=3, num_levels=1000, num_envs=8, rollout=16, minibatches=2, env_steps=8 * 16 * 3, precision='float32'
)
EXACT = ExactPPOConfig(
    size=3, updates=8, updates_per_solve=4, levels_per_solve=3, batch_size=16, precision='float32'
)
BOTH = pytest.mark.parametrize('config', (PAPER, EXACT), ids=('paper', 'exact'))


def weights(folder):
    return (folder / 'model.safetensors').read_bytes()


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    "Agents 0 to 2 of each config, two at a time"
    home = tmp_path_factory.mktemp('parallel')
    for c in (PAPER, EXACT):
        report = train_parallel(c, range(3), home / type(c).__name__, 'cpu', slots=2, progress=False)
        assert report.finished == (0, 1, 2) and not report.failed
    return home


@BOTH
def test_no_neighbour_matters(config, trained, tmp_path):
    train_parallel(config, [2], tmp_path, 'cpu', slots=2, progress=False)
    assert weights(tmp_path / 'agent-2') == weights(trained / type(config).__name__ / 'agent-2')


@BOTH
def test_the_plain_loop_makes_the_same_agent_but_for_rounding(config, trained, tmp_path):
    train_agent(config, Seeds(2), tmp_path / 'agent-2')
    ours, theirs = (
        read_json(p / 'agent-2/manifest.json') for p in (trained / type(config).__name__, tmp_path)
    )
    for k in ('algorithm', 'config', 'digest', 'format', 'precision', 'seeds', 'updates'):
        assert ours[k] == theirs[k]
    assert ours['versions'].items() > theirs['versions'].items() and ours['versions']['network'] == 'plain'
    assert ours['training_levels']['episode_length'] == pytest.approx(
        theirs['training_levels']['episode_length'], rel=0.01
    )
    untrained = dict(Policy(2).named_parameters())
    here, there = (
        dict(load_policy(p / 'agent-2').named_parameters())
        for p in (trained / type(config).__name__, tmp_path)
    )
    for k, p in there.items():  # what training did, and how far the two differ in it
        moved = float((p - untrained[k]).detach().norm())
        assert float((p - here[k]).detach().norm()) <= 0.05 * moved + 1e-9, k


def test_one_gradient_is_the_plain_loops(monkeypatch):
    "In float64 the sums of the two loops agree to the last digits"
    c = replace(PAPER, num_envs=16, minibatches=1, epochs=1)
    plain, parallel = PPO(c, Seeds(4)), ParallelPPO(c, 'cpu', slots=2)
    parallel.enter(1, PPO(c, Seeds(4)))
    bench, taken = parallel.workspaces[0], []
    backward = bench.network.backward
    monkeypatch.setattr(
        bench.network, 'backward', lambda slope, grad: (backward(slope, grad), taken.append(grad.clone()))
    )
    parallel.learn()
    r = plain.play(plain.env)
    batch = plain.batch(r)
    assert torch.equal(parallel.batch.ids[1], batch.ids) and torch.equal(
        parallel.batch.actions[1], batch.actions
    )
    torch.testing.assert_close(parallel.batch.advantages[1], batch.advantages, rtol=1e-4, atol=1e-5)
    for p in plain.policy.parameters():
        p.grad = None
    plain.gradient(batch)
    theirs = torch.cat([p.grad.reshape(-1) for p in plain.policy.parameters()])
    assert float((taken[0] - theirs).norm() / theirs.norm()) < 1e-4


@BOTH
def test_a_stopped_run_goes_on_to_the_same_bytes(config, trained, tmp_path):
    rounds = iter((False, False, True, True))
    stopped = train_parallel(config, [2], tmp_path, 'cpu', slots=2, progress=False, stop=lambda: next(rounds))
    if config is PAPER:
        assert stopped.finished == () and (tmp_path / 'agent-2' / 'trainer.pt').exists()
    assert train_parallel(config, [2], tmp_path, 'cpu', slots=2, progress=False).finished == (2,)
    assert weights(tmp_path / 'agent-2') == weights(trained / type(config).__name__ / 'agent-2')
    assert not (tmp_path / 'agent-2' / 'trainer.pt').exists()


def test_ctrl_c_waits_for_the_round_saves_and_leaves(trained, tmp_path):
    before = signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # a background job of a shell is born without it
    rounds = iter((False, True))

    def press():
        if next(rounds):
            os.kill(os.getpid(), signal.SIGINT)

    try:
        with pytest.raises(KeyboardInterrupt):
            train_parallel(PAPER, [2], tmp_path, 'cpu', slots=2, progress=False, stop=press)
    finally:
        signal.signal(signal.SIGINT, before)
    assert (tmp_path / 'agent-2' / 'trainer.pt').exists() and not (
        tmp_path / 'agent-2' / 'manifest.json'
    ).exists()
    train_parallel(PAPER, [2], tmp_path, 'cpu', slots=2, progress=False)
    assert weights(tmp_path / 'agent-2') == weights(trained / 'PPOConfig' / 'agent-2')


def test_the_two_loops_take_over_from_each_other(tmp_path):
    once = iter((False, True, True))
    train_parallel(PAPER, [1], tmp_path / 'a', 'cpu', slots=1, progress=False, stop=lambda: next(once))
    assert train_agent(PAPER, Seeds(1), tmp_path / 'a' / 'agent-1')
    calls = []
    train_agent(PAPER, Seeds(1), tmp_path / 'b' / 'agent-1', stop=lambda: calls.append(0) or True)
    assert calls and (tmp_path / 'b' / 'agent-1' / 'trainer.pt').exists()
    assert train_parallel(PAPER, [1], tmp_path / 'b', 'cpu', slots=1, progress=False).finished == (1,)
    envs = [read_json(tmp_path / f / 'agent-1' / 'manifest.json')['env_steps'] for f in 'ab']
    assert envs == [PAPER.env_steps] * 2


def test_a_checkpoint_has_what_the_plain_loops_has():
    plain, ours = PPO(PAPER, Seeds(3)), PPO(PAPER, Seeds(3))
    parallel = ParallelPPO(PAPER, 'cpu', slots=2)
    parallel.enter(1, ours)
    for _ in range(2):
        plain.learn()
        parallel.learn()
    parallel.write_back(1)
    assert torch.equal(plain.rng.get_state(), ours.rng.get_state())
    for k, v in plain.env.state_dict().items():
        assert torch.equal(v, ours.env.state_dict()[k]), k
    moments = [
        [getattr(learner.reward_scale, k) for k in ('mean', 'var', 'count')] for learner in (plain, ours)
    ]
    assert moments[0] == pytest.approx(moments[1], rel=1e-12)
    a, b = plain.optimiser.state_dict()['state'], ours.optimiser.state_dict()['state']
    assert a.keys() == b.keys() and all(a[i]['step'] == b[i]['step'] for i in a)
    assert plain.metrics[-1].keys() == ours.metrics[-1].keys()


def test_an_agent_whose_numbers_are_none_is_reported_and_leaves_the_others_alone(trained, tmp_path):
    from goalmisgen.agents.workspace import PlainNetwork

    class Broken(PlainNetwork):
        "Agent 0's second gradient is no number"

        calls = 0

        def backward(self, slope, grad):
            super().backward(slope, grad)
            Broken.calls += 1
            if Broken.calls == 2:
                grad.fill_(math.nan)

    report = train_parallel(PAPER, [0, 2], tmp_path, 'cpu', slots=2, progress=False, network=Broken)
    assert report.finished == (2,) and set(report.failed) == {0} and 'not finite' in report.failed[0]
    assert weights(tmp_path / 'agent-2') == weights(trained / 'PPOConfig' / 'agent-2')


def test_sums_and_places_against_plain_ones():
    rng = torch.Generator().manual_seed(0)
    for n in (1, 7, 300):
        ids = torch.randint(50, (n,), generator=rng)
        padded, place = distinct_ids(ids, 50, 60)
        want, row = ids.unique(return_inverse=True)
        assert (
            torch.equal(padded[: len(want)], want)
            and torch.equal(place, row)
            and not padded[len(want) :].any()
        )
        values = torch.randn((n, 16), generator=rng)
        want = torch.zeros((60, 16), dtype=torch.float64).index_add_(0, place, values.double())
        torch.testing.assert_close(sum_by_row(values, place, 60).double(), want, rtol=1e-5, atol=1e-6)


def test_bad_input_is_refused_before_anything_is_made(tmp_path):
    for wrong, named in ((dict(slots=0), 'slots'), (dict(streams='2'), 'streams')):
        with pytest.raises(ValueError, match=named):
            ParallelPPO(PAPER, 'cpu', **wrong)
        with pytest.raises(ValueError, match=named):
            train_parallel(PAPER, [0], tmp_path / 'x', 'cpu', progress=False, **wrong)
    for wrong, named in (
        (replace(PAPER, validation=True), 'validation'),
        (replace(PAPER, num_levels=0), 'levels'),
    ):
        with pytest.raises(ValueError, match=named):
            train_parallel(wrong, [0], tmp_path / 'x', 'cpu', progress=False)
    with pytest.raises(ValueError, match='config'):
        train_parallel(Policy, [0], tmp_path / 'x', 'cpu', progress=False)
    with pytest.raises(ValueError, match='seeds'):
        train_parallel(PAPER, [0, 0], tmp_path / 'x', 'cpu', progress=False)
    with pytest.raises(ValueError, match='device'):
        train_parallel(PAPER, [0], tmp_path / 'x', 'nonsense', progress=False)
    assert not (tmp_path / 'x').exists()
    assert PARALLEL_CLASSES == {PPOConfig: ParallelPPO, ExactPPOConfig: ParallelExactPPO}


def test_finished_agents_are_left_alone(trained):
    before = {p: p.stat().st_mtime_ns for p in (trained / 'PPOConfig').rglob('*') if p.is_file()}
    assert train_parallel(
        PAPER, range(3), trained / 'PPOConfig', 'cpu', slots=2, progress=False
    ).finished == (0, 1, 2)
    assert before == {p: p.stat().st_mtime_ns for p in (trained / 'PPOConfig').rglob('*') if p.is_file()}
    with pytest.raises(ValueError, match='population'):
        train_parallel(replace(PAPER, lr=1e-4), range(3), trained / 'PPOConfig', 'cpu', progress=False)


def test_the_gpu_benchmark_runs_on_a_cpu(tmp_path):
    spec = importlib.util.spec_from_file_location('bench_gpu', Path(__file__).parents[1] / 'bench' / 'gpu.py')
    bench = importlib.util.module_from_spec(spec)
    sys.modules['bench_gpu'] = bench
    spec.loader.exec_module(bench)
    bench.main(
        [
            '--device',
            'cpu',
            '--tiny',
            '--shapes',
            '1x1',
            '--rounds',
            '1',
            '--networks',
            'plain',
            '--population-shape',
            '2x1',
            '--exact-shape',
            '2x1',
            '--exact-seconds',
            '1',
            '--agents',
            '2',
            '--questions',
            'red line vs yellow gem',
            '--out',
            str(tmp_path),
            '--packs',
            str(tmp_path / 'packs'),
        ]
    )
    table = (tmp_path / 'gpu.csv').read_text()
    assert all(part in table for part in ('check', 'speed', 'exact', 'population'))
    assert len((tmp_path / 'table.csv').read_text().splitlines()) >= 3 and list(
        (tmp_path / 'packs').glob('*.zip')
    )


def test_the_command_line_trains_in_one_program_on_a_gpu(monkeypatch, tmp_path, capsys):
    import goalmisgen.agents.parallel as parallel
    from goalmisgen.agents.population import PopulationReport
    from goalmisgen.cli import main

    called = []

    def instead(config, seeds, folder, device, slots, network):
        called.append((type(config), [s.agent for s in seeds], device, slots, network))
        return PopulationReport(folder, (0, 1), {})

    monkeypatch.setattr(parallel, 'train_parallel', instead)
    main(['train-ppo', str(tmp_path / 'a'), '--agents', '2', '--device', 'cuda'])
    main(
        [
            'train',
            str(tmp_path / 'a'),
            '--agents',
            '2',
            '--device',
            'cuda:0',
            '--slots',
            '5',
            '--network',
            'plain',
        ]
    )
    assert called == [(PPOConfig, [0, 1], 'cuda', 8, 'auto'), (ExactPPOConfig, [0, 1], 'cuda:0', 5, 'plain')]
    with pytest.raises(SystemExit):
        main(['train', str(tmp_path / 'a'), '--slots', '5'])
    assert 'slots' in capsys.readouterr().err and not (tmp_path / 'a').exists()
