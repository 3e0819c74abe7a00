"""Populations: refused calls leave nothing behind, shared folders, claims, competence, divergence, other
processors"""

import sys
import threading

import pytest
import torch

import goalmisgen.agents.training as training
from goalmisgen.agents import population
from goalmisgen.agents.exact_ppo import ExactPPO, ExactPPOConfig
from goalmisgen.agents.population import (
    agent_dir,
    agents_of,
    claim_folder,
    competence_summary,
    train_population,
)
from goalmisgen.agents.ppo import PPO, PPOConfig
from goalmisgen.agents.training import Seeds, is_finished, train_agent
from goalmisgen.agents.training_levels import fewest_steps, training_levels
from goalmisgen.core import read_json, write_json

pytestmark = pytest.mark.slow

SMALL = ExactPPOConfig(
    size=3,
    updates=6,
    updates_per_solve=2,
    levels_per_solve=8,
    batch_size=64,
    checkpoint_every=1,
    precision='float32',
)
SMALL_PPO = PPOConfig(
    size=3, num_envs=8, rollout=8, minibatches=2, epochs=1, env_steps=192, checkpoints=0, precision='float32'
)


def files(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob('*')) if p.is_file()}


@pytest.fixture(scope='module')
def agent(tmp_path_factory):
    "A finished agent"
    folder = tmp_path_factory.mktemp('agent')
    assert train_agent(SMALL, Seeds(1), folder)
    return folder


@pytest.mark.parametrize(
    'wrong',
    [
        dict(workers=0),
        dict(workers=1.5),
        dict(track='pigeon'),
        dict(track='wandb'),
        dict(device='cuda:7'),
        dict(seeds=[]),
        dict(seeds=[1, 1]),
        dict(seeds=[1.5]),
        dict(seeds=['1']),
        dict(config='quick'),
    ],
)
def test_a_refused_call_leaves_nothing_behind(tmp_path, monkeypatch, wrong):
    monkeypatch.setitem(sys.modules, 'wandb', None)
    with pytest.raises(ValueError):
        train_population(
            **{**dict(config=SMALL, seeds=[0], folder=tmp_path / 'pop', progress=False), **wrong}
        )
    assert not (tmp_path / 'pop').exists()


def test_a_runner_that_refuses_is_asked_first(tmp_path):
    "As `run_on_ray` does where there is no Ray"

    def run(jobs, **_):
        raise ValueError('no cluster')

    with pytest.raises(ValueError, match='no cluster'):
        train_population(SMALL, [0], tmp_path / 'pop', run=run, progress=False)
    assert not (tmp_path / 'pop').exists()


def test_of_two_configs_that_claim_a_folder_at_once_one_is_refused(tmp_path):
    for n in range(5):
        refused, gate = [], threading.Barrier(2)

        def come(config, n=n, refused=refused, gate=gate):
            gate.wait()
            try:
                claim_folder(tmp_path / str(n), config)
            except ValueError:
                refused.append(config)

        threads = [threading.Thread(target=come, args=(c,)) for c in (SMALL, SMALL_PPO)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        (loser,) = refused
        assert read_json(tmp_path / str(n) / 'population.json')['algorithm'] != population.algorithm_of(loser)


def test_two_trainings_of_one_agent(tmp_path, agent):
    """The other one finishes first, and takes the checkpoint away: this one finds its agent, and that is no
    failure"""

    def report(updates, metrics):
        if updates == 4:
            assert train_agent(SMALL, Seeds(1), tmp_path)

    assert train_agent(SMALL, Seeds(1), tmp_path, report)
    assert files(tmp_path) == files(agent)

    def late(updates, metrics):  # after its last round, before it writes the agent
        if updates == 6:
            assert train_agent(SMALL, Seeds(1), tmp_path / 'late')

    assert train_agent(SMALL, Seeds(1), tmp_path / 'late', late)
    assert files(tmp_path / 'late') == files(agent)


def test_a_checkpoint_that_vanishes_is_none(tmp_path, agent, monkeypatch):
    assert not train_agent(SMALL, Seeds(1), tmp_path, stop=lambda: True)
    load = training.load_sealed

    def gone(path):
        path.unlink()
        return load(path)

    monkeypatch.setattr(training, 'load_sealed', gone)
    assert train_agent(SMALL, Seeds(1), tmp_path) and files(tmp_path) == files(agent)


def test_a_manifest_that_names_no_precision(tmp_path, agent):
    "Is read as far as it goes: the digest decides"
    from dataclasses import replace

    write_json(tmp_path / 'manifest.json', dict(digest=ExactPPO(SMALL, Seeds(1)).digest()))
    assert is_finished(SMALL, Seeds(1), tmp_path)
    for config in (replace(SMALL, precision='auto'), replace(SMALL, lr=0.5)):
        with pytest.raises(ValueError, match='another folder'):
            is_finished(config, Seeds(1), tmp_path)


def test_one_failure_beside_finished_agents_is_reported(tmp_path, agent):
    home = agent_dir(tmp_path / 'pop', 1)
    home.mkdir(parents=True)
    for name, data in files(agent).items():
        (home / name).write_bytes(data)
    agent_dir(tmp_path / 'pop', 2).mkdir()
    (agent_dir(tmp_path / 'pop', 2) / 'trainer.pt').write_bytes(b'nonsense')
    report = train_population(SMALL, [1, 2], tmp_path / 'pop', workers=1, progress=False)
    assert report.finished == (1,) and 'not a readable checkpoint' in report.failed[2]


def test_what_a_kill_left_behind_goes(tmp_path, agent):
    "A kill after the manifest and before the checkpoint is removed"
    home = agent_dir(tmp_path / 'pop', 1)
    learner = ExactPPO(SMALL, Seeds(1))
    learner.learn()
    learner.save(home / 'trainer.pt')
    for name, data in files(agent).items():
        (home / name).write_bytes(data)
    report = train_population(SMALL, [1], tmp_path / 'pop', progress=False)
    assert report.finished == (1,) and files(home) == files(agent)


def test_the_disk_is_asked_for_what_is_missing(tmp_path, monkeypatch):
    "A resumed population needs room for what is not there yet"
    most = population.disk_per_agent(SMALL)[1]
    monkeypatch.setattr(
        population.shutil, 'disk_usage', lambda p: population.shutil._ntuple_diskusage(0, 0, most - 1_000_000)
    )
    with pytest.raises(ValueError, match='disk space'):
        train_population(SMALL, [0], tmp_path / 'pop', workers=1, progress=False)
    assert not (tmp_path / 'pop').exists()
    agent_dir(tmp_path / 'pop', 0).mkdir(parents=True)
    (agent_dir(tmp_path / 'pop', 0) / 'step-0.safetensors').write_bytes(bytes(2_000_000))
    assert train_population(SMALL, [0], tmp_path / 'pop', workers=1, progress=False).finished == (0,)


@pytest.mark.parametrize(
    'begun,named', [('auto', 'bfloat16'), ('auto', 'float32'), ('bfloat16', 'auto'), ('float32', 'auto')]
)
def test_a_run_goes_on_elsewhere_in_the_precision_it_began_with(tmp_path, monkeypatch, begun, named):
    from dataclasses import replace

    here = begun if begun != 'auto' else named
    monkeypatch.setattr(training, 'resolve_precision', lambda p, device='cpu': here if p == 'auto' else p)
    first, second = replace(SMALL, precision=begun), replace(SMALL, precision=named)
    assert train_agent(first, Seeds(2), tmp_path / 'whole')
    assert not train_agent(first, Seeds(2), tmp_path / 'moved', stop=lambda: True)
    other = {'bfloat16': 'float32', 'float32': 'bfloat16'}[here]
    monkeypatch.setattr(training, 'resolve_precision', lambda p, device='cpu': other if p == 'auto' else p)
    assert train_agent(second, Seeds(2), tmp_path / 'moved')
    assert (tmp_path / 'moved' / 'model.safetensors').read_bytes() == (
        tmp_path / 'whole' / 'model.safetensors'
    ).read_bytes()
    assert read_json(tmp_path / 'moved' / 'manifest.json')['precision'] == here and train_agent(
        first, Seeds(2), tmp_path / 'moved'
    )
    with pytest.raises(ValueError, match='another folder'):
        train_agent(replace(SMALL, precision=other), Seeds(2), tmp_path / 'moved')


@pytest.mark.parametrize(
    'kind,config',
    [
        (ExactPPO, dict(size=3, updates=30, updates_per_solve=2, levels_per_solve=8, batch_size=64)),
        (PPO, dict(size=3, num_envs=8, rollout=8, minibatches=2, epochs=1, env_steps=64 * 30, checkpoints=0)),
    ],
)
def test_training_that_diverges_stops_at_once(tmp_path, kind, config):
    "With finite weights, and the checkpoint from before"
    config = dict(config, lr=1e5, checkpoint_every=1, precision='float32')
    cls = {ExactPPO: ExactPPOConfig, PPO: PPOConfig}[kind]
    with pytest.raises(FloatingPointError, match='lr=100000.0'):
        train_agent(cls(**config), Seeds(0), tmp_path)
    assert not (tmp_path / 'manifest.json').exists()
    learner = kind(cls(**config), Seeds(0))
    if (tmp_path / 'trainer.pt').exists():
        learner.load(tmp_path / 'trainer.pt')
    with pytest.raises(FloatingPointError):
        while not learner.done:
            learner.learn()
    assert not learner.done and len(learner.metrics) < 10


def test_one_step_is_no_rollout():
    with pytest.raises(ValueError, match='spread'):
        PPOConfig(num_envs=1, rollout=1, minibatches=1)
    PPOConfig(num_envs=1, rollout=2, minibatches=1)


def test_weights_that_are_no_numbers_end_a_round():
    "Also where the last step of all made them so"
    learner = ExactPPO(SMALL, Seeds(0))
    learner.learn()
    learner.policy.fc_value.weight.data[0, 0] = torch.inf
    with pytest.raises(FloatingPointError, match='weights'):
        learner.learn()
    assert len(learner.metrics) == 1


def test_training_ends_with_a_word_on_competence(tmp_path, capsys):
    report = train_population(SMALL, [0, 1], tmp_path / 'pop', workers=1)
    said = capsys.readouterr().out
    assert 'fewest possible: ' in said and 'Warning: not competent: agent 0' in said and 'updates' in said
    assert report.competence == {
        n: read_json(d / 'manifest.json')['training_levels'] for n, d in agents_of(tmp_path / 'pop').items()
    }
    good, lost = dict(episode_length=4.35, timeout=0.0), dict(episode_length=4.5, timeout=0.05)
    assert 'Warning' not in competence_summary(
        {0: good}, ExactPPOConfig()
    ) and 'agent 3' in competence_summary({0: good, 3: lost}, ExactPPOConfig())
    assert 'not known' in competence_summary({0: None}, PPOConfig(size=9))
    unseen = dict(good, unseen_levels=500)
    assert '500 levels that were not trained on' in competence_summary({0: unseen}, ExactPPOConfig(size=9))
    assert 'env_steps' in competence_summary({0: lost}, PPOConfig())


def test_fewest_steps():
    "Against a search from each level's start, cell by cell"
    levels, prob = training_levels(num_levels=60)
    total = 0.0
    for n in range(len(levels)):
        grid, (x, y) = levels.grid[n], map(int, levels.start[n])
        seen, edge, steps = {(x, y)}, [(x, y)], 0
        while not any(grid[b, a] == 2 for a, b in edge):
            edge = [
                (a + p, b + q)
                for a, b in edge
                for p, q in ((0, 1), (1, 0), (0, -1), (-1, 0))
                if 0 <= a + p < 5 and 0 <= b + q < 5 and grid[b + q, a + p] != 1
            ]
            edge = [c for c in dict.fromkeys(edge) if c not in seen]
            seen.update(edge)
            steps += 1
        total += float(prob[n]) * steps
    assert abs(fewest_steps(ExactPPOConfig(num_levels=60)) - total) < 1e-12
