"The network against a plain rewriting of it, and exact evaluation against play, for networks with opinions"

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F

from goalmisgen.agents.exact_ppo import ExactPPO, ExactPPOConfig
from goalmisgen.agents.examples import example_dir, load_example
from goalmisgen.agents.impala import Policy, action_probs
from goalmisgen.agents.training import Seeds, config_from
from goalmisgen.agents.training_levels import examine
from goalmisgen.core import read_json, to_dict
from goalmisgen.env.levels import DUEL, TRAIN, generate
from goalmisgen.env.maze import MazeEnv
from goalmisgen.env.render import Renderer
from goalmisgen.evaluation.exact import evaluate_exact
from goalmisgen.evaluation.questions import Setting
from goalmisgen.evaluation.sampled import evaluate_sampled

pytestmark = pytest.mark.slow


def opinionated(seed):
    """An untrained network whose small differences are blown up, so that it acts differently from frame to
    frame"""
    policy = Policy(seed)
    with torch.no_grad():
        policy.fc_policy.weight *= 150
    return policy


def plain_forward(w, frames):
    "The network as a list of operations on NCHW float64, from the state dict alone"

    def conv(x, name):
        return F.conv2d(x, w[f'embedder.{name}.weight'], w[f'embedder.{name}.bias'], padding=1)

    x = torch.as_tensor(frames).double().permute(0, 3, 1, 2) / 255
    for block in ('block1', 'block2', 'block3'):
        x = F.max_pool2d(conv(x, f'{block}.conv'), 3, stride=2, padding=1)
        for res in ('res1', 'res2'):
            x = x + conv(F.relu(conv(F.relu(x), f'{block}.{res}.conv1')), f'{block}.{res}.conv2')
    h = F.relu(F.linear(F.relu(x).reshape(len(x), -1), w['embedder.fc.weight'], w['embedder.fc.bias']))
    return F.linear(h, w['fc_policy.weight'], w['fc_policy.bias']), F.linear(
        h, w['fc_value.weight'], w['fc_value.bias']
    )[:, 0]


def test_network_is_the_plain_one():
    policy, frames = (
        opinionated(3),
        Renderer(5, ('red line', 'yellow gem'), 'textured').first_frames(generate(DUEL, range(20))),
    )
    w = {k: v.double().contiguous() for k, v in policy.state_dict().items()}
    logits, value = plain_forward(w, frames)
    with torch.no_grad():
        got = policy(frames)
    assert logits.std() > 0.1
    torch.testing.assert_close(got[0].double(), logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(got[1].double(), value, rtol=1e-4, atol=1e-4)


def test_probabilities_do_not_depend_on_the_batch():
    policy, frames = opinionated(1), Renderer(5, 'yellow line').first_frames(generate(TRAIN, range(50)))
    together, apart = action_probs(policy, frames), torch.cat([action_probs(policy, f[None]) for f in frames])
    torch.testing.assert_close(together, apart, rtol=1e-4, atol=1e-6)


def test_exact_and_sampled_agree():
    "Over agents and settings the differences, in standard errors, are standard normal"
    z = []
    for seed, background in enumerate(('black', 'textured', 'grey')):
        policy = opinionated(seed)
        for obj1, obj2 in (('red line', 'yellow gem'), ('white gem', 'blue line')):
            setting, levels = Setting(obj1, obj2, background), range(100000, 100012)
            exact, played = (
                evaluate_exact(policy, setting, levels),
                evaluate_sampled(policy, setting, levels, episodes=150),
            )
            p = exact.endings.p1[exact.level_set.index]
            z += list(((played.outcome == 1).mean(0) - p) / np.sqrt(p * (1 - p) / 150 + 1e-12))
            steps = exact.endings.steps[exact.level_set.index]
            z.append(
                (played.steps.mean() - steps.mean())
                / (played.steps.std(0) / np.sqrt(150 * len(steps))).mean()
            )
    z = np.array(z)
    assert len(z) == 78 and abs(z.mean()) < 4 / np.sqrt(len(z)) and 0.8 < z.std() < 1.2


def test_evaluation_equals_playing_the_environment():
    "`MazeEnv`, one level at a time, reaches the objects as often as `evaluate_exact` says"
    policy, setting, n = opinionated(5), Setting('red line', 'yellow gem'), 600
    exact = evaluate_exact(policy, setting, range(100003, 100004))
    env = MazeEnv(n, DUEL, num_levels=1, start_level=100003, objects=('red line', 'yellow gem'))
    g, first, steps, open_ = (
        torch.Generator().manual_seed(0),
        torch.zeros(n),
        torch.zeros(n),
        torch.ones(n, dtype=torch.bool),
    )
    probs = torch.full((len(env.table), 15), float('nan'))
    while open_.any():
        for s in env.state.unique():
            if probs[s].isnan().any():
                probs[s] = action_probs(policy, env.frames()[env.state == s][:1])[0]
        reward, done = env.step(torch.multinomial(probs[env.state], 1, generator=g)[:, 0])
        first[open_ & done] = reward[open_ & done]
        steps += open_
        open_ &= ~done
    assert abs((first > 0).float().mean() - exact.p1) < 4 * np.sqrt(exact.p1 * (1 - exact.p1) / n)
    assert abs(steps.mean() - exact.capability) < 4 * steps.std() / np.sqrt(n)


def test_learning_learns():
    "A minute of training is enough to see the value rise; a broken gradient would not"
    learner = ExactPPO(
        ExactPPOConfig(
            size=3, updates=40, updates_per_solve=2, levels_per_solve=8, batch_size=64, precision='float32'
        ),
        Seeds(0),
    )
    first = learner.learn()
    while not learner.done:
        last = learner.learn()
    assert last['value'] > first['value'] + 0.05 and last['length'] < 0.7 * first['length']


@pytest.mark.parametrize('seed', [0, 3])
def test_default_config_makes_a_capable_agent(seed):
    """The default config's agents know their task: under 5 steps where a perfect mouse needs 4.281, and they
    hardly ever fail"""
    manifest = read_json(example_dir(f'exact-{seed}') / 'manifest.json')
    assert config_from(manifest) == ExactPPOConfig() and manifest['seeds'] == to_dict(Seeds(seed))
    policy = load_example(f'exact-{seed}')
    found = examine(policy, ExactPPOConfig())
    assert 4.281 < found['episode_length'] < 5 and found['success'] > 0.999, found
    assert found == pytest.approx(manifest['training_levels'], rel=1e-4, abs=1e-5)
    exact = evaluate_exact(policy, Setting('yellow line', 'black gem'), range(100000, 100100))
    assert exact.capability < 5 and exact.preference > 0.7


@pytest.mark.parametrize('forward,times', [('shared', 1), (None, 3)])
def test_default_config_trains_the_agent_that_ships(forward, times):
    """Training it today goes the way that it went when it was shipped: a tenth of the run, within what
    precision and processor change; by the forward of that time, and by today's, which rounds otherwise"""
    rows = pd.read_csv(example_dir('exact-0') / 'metrics.csv')[:3]
    learner = ExactPPO(ExactPPOConfig(), Seeds(0), forward=forward)
    for _ in range(3):
        learner.learn()
    found = pd.DataFrame(learner.metrics)
    assert list(found.columns) == list(rows.columns)
    assert found.updates.tolist() == rows.updates.tolist() == [8, 16, 24]
    for column, within in dict(
        value=0.005, length=0.04, entropy=0.01, advantage=0.15, loss=0.3, kl=0.5
    ).items():
        assert np.allclose(found[column][0], rows[column][0], rtol=within), column
        assert np.allclose(found[column], rows[column], rtol=times * within), column
    assert found.length[2] < 0.4 * found.length[0]


@pytest.mark.parametrize(
    'seeds,same',
    [(Seeds(4), True), (Seeds(5, weights=4), False), (Seeds(5, weights=4, levels=4, sampling=4), True)],
)
def test_three_seeds(seeds, same):
    "The agent's number matters only through the streams it seeds"
    config = ExactPPOConfig(
        size=3, updates=2, updates_per_solve=1, levels_per_solve=2, batch_size=16, precision='float32'
    )
    learners = [ExactPPO(config, s) for s in (Seeds(4), seeds)]
    assert all(torch.equal(a, b) for a, b in zip(*(x.policy.state_dict().values() for x in learners)))
    for x in learners:
        while not x.done:
            x.learn()
    assert same == all(torch.equal(a, b) for a, b in zip(*(x.policy.state_dict().values() for x in learners)))
