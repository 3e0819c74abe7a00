"A local Ray of two workers gives the files of one plain process, and survives the death of a worker"

import hashlib
from pathlib import Path

import pytest

from goalmisgen.agents.exact_ppo import ExactPPOConfig
from goalmisgen.agents.population import train_population
from goalmisgen.jobs import Job, dummy_job
from goalmisgen.agents.ppo import PPOConfig

pytestmark = pytest.mark.slow

ray = pytest.importorskip('ray', reason='the ray extra is not installed')
EXACT = ExactPPOConfig(size=3, updates=4, updates_per_solve=2, levels_per_solve=8, batch_size=64)
PPO = PPOConfig(size=3, num_envs=8, rollout=16, minibatches=2, epochs=1, env_steps=256, checkpoints=2)


def digests(folder):
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(Path(folder).rglob('*'))
        if p.is_file()
    }


@pytest.fixture(scope='module')
def two_workers():
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.mark.parametrize('config', [EXACT, PPO], ids=['exact', 'ppo'])
def test_same_files_as_here(two_workers, tmp_path, config):
    from goalmisgen.agents.cluster import run_on_ray

    a = train_population(config, range(3), tmp_path / 'here', workers=1, progress=False)
    b = train_population(config, range(3), tmp_path / 'ray', progress=False, run=run_on_ray)
    assert a.finished == b.finished == (0, 1, 2) and not b.failed
    assert digests(tmp_path / 'here') == digests(tmp_path / 'ray')


def test_failures_are_reported_and_do_not_stop_the_others(two_workers):
    "One job raises, one kills its own process, one works"
    from goalmisgen.agents.cluster import run_on_ray

    seen = []
    out = run_on_ray(
        [Job(w, dummy_job, dict(what=w)) for w in ('fail', 'die', 'work')], progress=False, each=seen.append
    )
    assert [o.result for o in out] == [None, None, 'work'] and len(seen) == 3
    assert 'told to fail' in out[0].error and 'the worker died' in out[1].error and out[2].error is None


def test_bad_number_of_workers(two_workers):
    from goalmisgen.agents.cluster import run_on_ray

    with pytest.raises(ValueError, match='workers'):
        run_on_ray([], workers=0)
