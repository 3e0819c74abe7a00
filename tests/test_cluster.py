"A local Ray of two workers gives the files of plain processes, and survives the death of a worker"
import hashlib
import os
import signal
import time
from pathlib import Path

import pytest

from goalmisgen.agents.exact_ppo import ExactPPOConfig
from goalmisgen.agents.population import Job, train_population
from goalmisgen.agents.ppo import PPOConfig

ray = pytest.importorskip('ray', reason='the ray extra is not installed')
EXACT = ExactPPOConfig(size=3, updates=4, updates_per_solve=2, levels_per_solve=8, batch_size=64)
PPO = PPOConfig(size=3, num_envs=8, rollout=16, minibatches=2, epochs=1, env_steps=256, checkpoints=2)


def digests(folder):
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(Path(folder).rglob('*')) if p.is_file()}


@pytest.fixture(scope='module')
def two_workers():
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, _temp_dir='/tmp/ray-test')
    yield
    ray.shutdown()


@pytest.mark.parametrize('config', [EXACT, PPO], ids=['exact','ppo'])
def test_same_files_as_processes(two_workers, tmp_path, config):
    from goalmisgen.agents.cluster import run_on_ray
    a = train_population(config, range(3), tmp_path/'processes', workers=2, progress=False)
    b = train_population(config, range(3), tmp_path/'ray', progress=False, run=run_on_ray)
    assert a.finished==b.finished==(0,1,2) and not b.failed
    assert digests(tmp_path/'processes')==digests(tmp_path/'ray')


def _work(what, where, report, stop):
    "A job for the test: note one's process, then fail, or wait to be killed, or finish"
    (Path(where)/f'{what}.pid').write_text(str(os.getpid()))
    if what=='fail': raise ValueError('told to fail')
    while what=='wait': time.sleep(.05)
    report(1)
    return what


def test_failures_are_reported_and_do_not_stop_the_others(two_workers, tmp_path):
    from threading import Thread
    from goalmisgen.agents.cluster import run_on_ray
    def kill():
        pid = tmp_path/'wait.pid'
        while not (pid.exists() and pid.read_text()): time.sleep(.05)
        os.kill(int(pid.read_text()), signal.SIGKILL)
    killer = Thread(target=kill)
    killer.start()
    seen = []
    out = run_on_ray([Job(w, _work, dict(what=w, where=str(tmp_path))) for w in ('fail','wait','work')], progress=False, each=seen.append)
    killer.join()
    assert [o.result for o in out]==[None,None,'work'] and len(seen)==3
    assert 'told to fail' in out[0].error and 'the worker died' in out[1].error and out[2].error is None


def test_bad_number_of_workers(two_workers):
    from goalmisgen.agents.cluster import run_on_ray
    with pytest.raises(ValueError, match='workers'): run_on_ray([], workers=0)
