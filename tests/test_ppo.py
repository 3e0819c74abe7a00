"The paper's PPO against a plain rewriting of it, and what a run of it leaves behind"

import math
import os
import subprocess
import sys

import pytest
import torch

from goalmisgen.agents.forward import forward_for
from goalmisgen.agents.impala import load_policy
from goalmisgen.agents.ppo import PPO, PPOConfig, RewardScale
from goalmisgen.agents.tracking import tracker
from goalmisgen.agents.training import Seeds, train_agent
from goalmisgen.core import read_json
from goalmisgen.env.levels import MazeSpec
from goalmisgen.env.maze import MazeEnv

pytestmark = pytest.mark.slow

TINY = PPOConfig(num_envs=12, rollout=24, minibatches=3, epochs=2, env_steps=2 * 288, precision='float32')


def test_defaults_are_the_papers():
    c = PPOConfig()
    assert (c.num_envs, c.rollout, c.epochs, c.num_envs * c.rollout // c.minibatches) == (256, 256, 3, 8192)
    assert (c.lr, c.gamma, c.gae_lambda, c.clip, c.value_coef, c.entropy, c.max_grad_norm) == (
        5e-4,
        0.999,
        0.95,
        0.2,
        0.5,
        0.01,
        0.5,
    )
    assert (c.reward_norm_gamma, c.reward_clip, c.num_levels, c.iterations, c.updates) == (
        0.99,
        10,
        100_000,
        77,
        1848,
    )
    assert c.iterations * 65536 == 5_046_272


def plain_iteration(c, policy, optimiser, env, rng, scale, step):
    "One iteration as a textbook has it: every frame kept, every frame looked at each time"
    T, N = c.rollout, c.num_envs
    uniforms = torch.rand((T, N), generator=rng)
    frames, actions, logps, values, rewards, dones = [], [], [], [], [], []
    with torch.no_grad():
        for t in range(T):
            f = env.frames().clone()
            logits, v = policy(f)
            p = logits.softmax(1)
            a = torch.tensor(
                [next((k for k in range(15) if uniforms[t, n] < p[n, : k + 1].sum()), 14) for n in range(N)]
            )
            r, d = env.step(a)
            frames.append(f)
            actions.append(a)
            values.append(v)
            rewards.append(r.double())
            dones.append(d)
            logps.append(torch.log(p[torch.arange(N), a]))
        values.append(policy(env.frames())[1])
    scaled = [torch.zeros(N, dtype=torch.float64) for _ in range(T)]
    for t in range(T):  # all returns so far, kept in a list: variance from scratch
        scale['ret'] = scale['ret'] * c.reward_norm_gamma + rewards[t]
        scale['all'].append(scale['ret'].clone())
        seen = torch.cat(scale['all'])
        n, m = len(seen), seen.mean()
        var = (((seen - m) ** 2).sum() + 1e-4 * 1.0 + m**2 * 1e-4 * n / (n + 1e-4)) / (
            n + 1e-4
        )  # a prior of weight 1e-4: mean 0, variance 1
        scaled[t] = (
            (rewards[t] / torch.sqrt(var + 1e-8)).clamp(-c.reward_clip, c.reward_clip).float().double()
        )  # kept in float32
        scale['ret'][dones[t]] = 0
    adv = torch.zeros(T, N, dtype=torch.float64)
    for n in range(N):
        for t in range(T):  # the definition: a sum of TD errors, cut at the end of the episode
            weight = 1.0
            for k in range(t, T):
                nxt = 0.0 if dones[k][n] else float(values[k + 1][n])
                adv[t, n] += weight * (float(scaled[k][n]) + c.gamma * nxt - float(values[k][n]))
                weight *= c.gamma * c.gae_lambda
                if dones[k][n]:
                    break
    old = torch.stack(values[:-1])
    ret, adv = adv + old, (adv - adv.mean()) / (adv.std() + 1e-8)
    frames, actions, logps, old, ret, adv = (
        torch.cat(list(x)) for x in (frames, actions, logps, old, ret, adv)
    )
    for g in optimiser.param_groups:
        g['lr'] = c.lr * (1 - step / c.env_steps)
    for _ in range(c.epochs):
        order = torch.randperm(T * N, generator=rng)
        for k in range(c.minibatches):
            i = order[k * (T * N // c.minibatches) : (k + 1) * (T * N // c.minibatches)]
            logits, v = policy(frames[i])
            dist = torch.distributions.Categorical(logits=logits)
            ratio = torch.exp(dist.log_prob(actions[i]) - logps[i])
            surrogate = torch.min(ratio * adv[i], torch.clamp(ratio, 1 - c.clip, 1 + c.clip) * adv[i]).mean()
            clipped = old[i] + torch.clamp(v - old[i], -c.clip, c.clip)
            critic = 0.5 * torch.max((v - ret[i]).pow(2), (clipped - ret[i]).pow(2)).mean()
            optimiser.zero_grad()
            (-surrogate + c.value_coef * critic - c.entropy * dist.entropy().mean()).backward()
            torch.nn.utils.clip_grad_norm_(policy.parameters(), c.max_grad_norm)
            optimiser.step()
    return int(torch.stack(dones).sum())


@pytest.mark.parametrize(
    'background,forward',
    [('black', 'shared'), ('textured', 'shared'), ('textured', 'plain'), ('black', None), ('textured', None)],
)
def test_equals_a_plain_loop(background, forward, monkeypatch):
    """Two iterations in float64: distinct frames, what they share, a cache, vectorised estimates and chunks
    change nothing but the order of additions"""
    monkeypatch.setattr('goalmisgen.agents.shared_frames.FRAMES_PER_LEVEL', 0)
    c = PPOConfig(
        num_envs=6,
        rollout=24,
        minibatches=3,
        epochs=2,
        env_steps=2 * 144,
        background=background,
        precision='float32',
        lr=2e-3,
    )
    learner = PPO(c, Seeds(3), forward=forward)
    learner.policy.double()
    with torch.no_grad():
        learner.policy.fc_policy.weight *= 30  # opinions, so that ratios and clipping matter
    plain = PPO(c, Seeds(3)).policy.double()
    plain.load_state_dict(learner.policy.state_dict())
    start = {k: v.clone() for k, v in plain.state_dict().items()}
    env = MazeEnv(6, MazeSpec(), background, 100_000, seed=3, objects=('yellow line',))
    optimiser, rng = (
        torch.optim.Adam(plain.parameters(), lr=c.lr, eps=1e-5),
        torch.Generator().manual_seed(2 * 3 + 1),
    )
    scale = dict(ret=torch.zeros(6, dtype=torch.float64), all=[])
    ends = 0
    for k in range(2):
        got = learner.learn()
        ends += plain_iteration(c, plain, optimiser, env, rng, scale, k * 144)
    assert learner.forward.name == (forward or forward_for(learner.policy, learner.env.rendered).name)
    assert got['distinct'] < 0.9 and learner.done and got['clip_fraction'] > 0 and ends > 0
    for (name, a), b, s in zip(
        learner.policy.state_dict().items(), plain.state_dict().values(), start.values()
    ):
        assert (b - s).norm() > 1e-4 * s.norm() or s.norm() == 0, name
        assert (a - b).norm() < 1e-6 * (b - s).norm() or s.norm() == 0, (
            f'{name}: {(a - b).norm() / (b - s).norm():.1e}'
        )


def test_reward_scale_forgets_at_the_end_of_an_episode():
    scale = RewardScale(2, gamma=0.5, clip=1.5)
    out = scale(torch.tensor([[8.0, 0], [0, 0]]), torch.tensor([[True, False], [False, False]]))
    assert float(scale.ret.sum()) == 0 and out[0, 0] == 1.5 and not out[1].any()


def test_a_gradient_step_goes_the_right_way():
    "What turned out better than expected becomes likelier, and the critic comes nearer to what was earned"
    learner = PPO(TINY, Seeds(0))
    b = learner.batch(learner.play(learner.env))
    b.advantages, b.returns = (b.actions == 3).float() * 2 - 1, b.values + 1
    with torch.no_grad():
        before = learner.policy(learner.env.draw(b.ids))
    for _ in range(3):
        learner.improve(b)
    with torch.no_grad():
        after = learner.policy(learner.env.draw(b.ids))
    assert (after[0].softmax(1)[:, 3] > before[0].softmax(1)[:, 3]).all()
    assert ((after[1] - b.returns) ** 2).mean() < 0.9 * ((before[1] - b.returns) ** 2).mean()


def test_policies_along_the_way_and_a_resumed_run(tmp_path):
    c = PPOConfig(
        num_envs=8,
        rollout=8,
        minibatches=2,
        epochs=1,
        env_steps=320,
        checkpoints=5,
        precision='float32',
        validation=True,
    )
    assert train_agent(c, Seeds(2), tmp_path / 'once')
    n = 0
    while not train_agent(c, Seeds(2), tmp_path / 'often', stop=lambda: True):
        n += 1
    read = lambda f: {p.name: p.read_bytes() for p in f.iterdir()}
    assert n == 4 and read(tmp_path / 'once') == read(tmp_path / 'often')
    assert {p.name for p in (tmp_path / 'once').glob('step-*')} == {
        f'step-{t}.safetensors' for t in (0, 64, 128, 192, 256)
    }
    manifest = read_json(tmp_path / 'once' / 'manifest.json')
    assert (
        manifest['env_steps'] == 320
        and manifest['algorithm'] == 'PPO'
        and manifest['config']['reward_norm_gamma'] == 0.99
    )
    assert not torch.equal(
        load_policy(tmp_path / 'once' / 'step-64.safetensors').fc_value.weight,
        load_policy(tmp_path / 'once').fc_value.weight,
    )


@pytest.mark.parametrize(
    'seeds,same',
    [(Seeds(4), True), (Seeds(5, weights=4), False), (Seeds(5, weights=4, levels=4, sampling=4), True)],
)
def test_three_seeds(seeds, same):
    a, b = (PPO(TINY, s) for s in (Seeds(4), seeds))
    for x in (a, b):
        x.learn()
    assert same == all(
        torch.equal(x, y) for x, y in zip(a.policy.state_dict().values(), b.policy.state_dict().values())
    )


def test_checkpoint_of_another_config_or_damaged(tmp_path):
    learner = PPO(TINY, Seeds(1))
    learner.learn()
    learner.save(tmp_path / 'trainer.pt')
    with pytest.raises(ValueError, match='this config and seeds'):
        PPO(TINY, Seeds(2)).load(tmp_path / 'trainer.pt')
    whole = (tmp_path / 'trainer.pt').read_bytes()
    (tmp_path / 'trainer.pt').write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match='not a readable checkpoint'):
        PPO(TINY, Seeds(1)).load(tmp_path / 'trainer.pt')
    with pytest.raises(ValueError, match='not a readable checkpoint'):
        train_agent(TINY, Seeds(1), tmp_path)
    assert (tmp_path / 'trainer.pt').read_bytes() == whole[: len(whole) // 2], (
        'a damaged file is left as it is'
    )


def test_full_disk_leaves_the_last_checkpoint(tmp_path):
    """Files may not grow beyond a limit, as on a full disk: the run ends with the system's words and the old
    checkpoint stays whole"""
    learner = PPO(TINY, Seeds(1))
    learner.learn()
    learner.save(tmp_path / 'trainer.pt')
    before = (tmp_path / 'trainer.pt').read_bytes()
    code = f'''
import resource, signal
from goalmisgen.agents.ppo import PPOConfig
from goalmisgen.agents.tracking import tracker
from goalmisgen.agents.training import Seeds, train_agent
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
train_agent(PPOConfig(num_envs=12, rollout=24, minibatches=3, epochs=2, env_steps=576, precision='float32'), Seeds(1), {str(tmp_path)!r})'''  # noqa: E501
    run = subprocess.run(
        [sys.executable, '-c', code],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, 'OMP_NUM_THREADS': '1'},
    )
    assert run.returncode and ('File too large' in run.stderr or 'write' in run.stderr), run.stderr[-500:]
    assert (tmp_path / 'trainer.pt').read_bytes() == before and not (tmp_path / 'manifest.json').exists()
    assert train_agent(TINY, Seeds(1), tmp_path), 'and it can go on when there is room again'


def test_metrics_reach_tensorboard(tmp_path):
    accumulator = pytest.importorskip(
        'tensorboard.backend.event_processing.event_accumulator', reason='the track extra is not installed'
    )
    assert train_agent(TINY, Seeds(0), tmp_path, report=tracker('tensorboard', tmp_path))
    events = accumulator.EventAccumulator(str(tmp_path / 'tensorboard')).Reload()
    rows = (tmp_path / 'metrics.csv').read_text().splitlines()
    column = rows[0].split(',').index('value_loss')
    assert [e.step for e in events.Scalars('value_loss')] == [6, 12]
    assert all(
        math.isclose(e.value, float(r.split(',')[column]), rel_tol=1e-5)
        for e, r in zip(events.Scalars('value_loss'), rows[1:])
    )


def test_metrics_reach_wandb(tmp_path, monkeypatch):
    "A stand-in for the wandb module, which needs a network"
    logged = []

    class Run:
        def log(self, metrics, step):
            logged.append((step, metrics['loss']))

    fake = type(sys)('wandb')
    fake.init = lambda **k: (logged.append(k), Run())[1]
    monkeypatch.setitem(sys.modules, 'wandb', fake)
    tracker('wandb', tmp_path, 'agent-3', TINY)(8, dict(loss=0.5))
    assert logged[0]['name'] == 'agent-3' and logged[0]['config']['num_envs'] == 12 and logged[1] == (8, 0.5)
    monkeypatch.setitem(sys.modules, 'wandb', None)
    with pytest.raises(ValueError, match='pip install wandb'):
        tracker('wandb', tmp_path)


def test_a_checkpoint_of_before_goes_on(tmp_path):
    """One with the config's `windows`, and with `moments` and `place` instead of states, as they were written
    once"""
    from goalmisgen.agents.weights import load_sealed, save_sealed
    from goalmisgen.core import digest, to_dict

    c = PPOConfig(
        num_envs=8,
        rollout=8,
        minibatches=2,
        epochs=1,
        env_steps=192,
        checkpoints=0,
        precision='float32',
        validation=True,
    )
    ours, theirs = PPO(c, Seeds(2)), PPO(c, Seeds(2))
    ours.learn()
    ours.save(tmp_path / 'trainer.pt')
    state = load_sealed(tmp_path / 'trainer.pt')
    own = state['own']
    scale = own.pop('reward_scale')
    places = [{k: v for k, v in own.pop(name).items() if k != 'order'} for name in ('env', 'validation_env')]
    state['own'] = dict(own, moments=[scale[k] for k in ('ret', 'mean', 'var', 'count')], place=places)
    then = {name: value for name, value in to_dict(c).items() if name not in PPOConfig.added_fields}
    state['digest'] = digest([dict(then, windows=True), to_dict(Seeds(2))])
    save_sealed(state, tmp_path / 'old.pt')
    theirs.load(tmp_path / 'old.pt')
    assert repr(ours.learn()) == repr(theirs.learn()), 'also where a mean is nan'
    assert all(
        torch.equal(a, b)
        for a, b in zip(ours.policy.state_dict().values(), theirs.policy.state_dict().values())
    )
    for broken in (dict(place=[]), dict(place=[1, 2]), dict(moments=3), dict(moments=[1])):
        save_sealed(dict(state, own=dict(state['own'], **broken)), tmp_path / 'broken.pt')
        with pytest.raises(ValueError, match='own'):
            PPO(c, Seeds(2)).load(tmp_path / 'broken.pt')


def test_the_shipped_agents_are_runs_of_todays_configs():
    from goalmisgen.agents.examples import EXAMPLES, example_dir
    from goalmisgen.agents.exact_ppo import ExactPPOConfig
    from goalmisgen.agents.training import config_from, is_finished

    for name in EXAMPLES:
        kind, seed = name.split('-')
        assert is_finished(
            PPOConfig() if kind == 'ppo' else ExactPPOConfig(), Seeds(int(seed)), example_dir(name)
        ), name
        assert config_from(read_json(example_dir(name) / 'manifest.json')) == (
            PPOConfig() if kind == 'ppo' else ExactPPOConfig()
        )
