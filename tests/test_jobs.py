"Workers that die at the worst moment, scripts without a guard, one worker, and runs that come to nothing"

import inspect
import os
import signal
import subprocess
import sys
import time

import pytest

from goalmisgen.agents.exact_ppo import ExactPPOConfig
from goalmisgen.agents.population import train_population
from goalmisgen.jobs import Job, run_jobs

pytestmark = pytest.mark.slow

TINY = 'ExactPPOConfig(size=3, updates=4, updates_per_solve=2, levels_per_solve=8, batch_size=64)'
SCRIPT = f'''
from goalmisgen.agents.exact_ppo import ExactPPO, ExactPPOConfig
from goalmisgen.agents.population import train_population
print('the script runs')
print(train_population({TINY}, range(2), 'pop', workers=2, progress=False).finished)
'''
OWN = SCRIPT.replace(
    "print('the",
    '''from dataclasses import dataclass
@dataclass(frozen=True)
class Mine(ExactPPOConfig): pass
class Own(ExactPPO, config=Mine): pass
print('the''',
).replace(TINY, TINY.replace('ExactPPOConfig', 'Mine'))


def die_while_sending(report, stop):
    "The length of a message and a part of it, and then nothing more"
    pipe = inspect.getclosurevars(inspect.getclosurevars(report).nonlocals['tell']).nonlocals['pipe']
    os.write(pipe.fileno(), b'\x00\x00\x10\x00only a part of it')
    os.kill(os.getpid(), signal.SIGKILL)


def count(report, stop):
    for n in range(200):
        report(n)
    return os.getpid()


def wait_for_stop(file, report, stop):
    "Interrupts its own process, waits for the word, and saves"
    if file.with_suffix('.go').exists():
        os.kill(os.getpid(), signal.SIGINT)
    end = time.monotonic() + 30
    while not stop() and time.monotonic() < end:
        time.sleep(0.01)
    file.write_text('saved')
    return stop()


@pytest.fixture
def alarm():
    "What hangs fails"

    def late(*_):
        raise TimeoutError('hangs')

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(100)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def test_killed_while_sending(alarm):
    out = run_jobs([Job('a', die_while_sending), Job('b', count), Job('c', count)], workers=2, progress=False)
    assert 'the worker died (exit code -9)' in out[0].error and [o.error for o in out[1:]] == [None, None]
    assert len({os.getpid(), out[1].result, out[2].result}) == 3


def test_one_worker_runs_here(alarm, tmp_path):
    "With one thread, errors kept apart, and a Ctrl-C that waits until the job has saved"
    import torch

    before = torch.get_num_threads()
    out = run_jobs(
        [Job('a', count), Job('b', int, dict(wrong=1)), Job('c', count)], workers=1, progress=False
    )
    assert [o.result for o in out] == [os.getpid(), None, os.getpid()] and 'TypeError' in out[1].error
    (tmp_path / 'file.go').touch()
    handler = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            run_jobs([Job('w', wait_for_stop, dict(file=tmp_path / 'file'))], workers=1, progress=False)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, handler)
    assert (tmp_path / 'file').read_text() == 'saved' and torch.get_num_threads() == before


def script(source, folder, stdin=False):
    "Exit status and output of a script, from a file or from standard input"
    (folder / 'scripts').mkdir(exist_ok=True)
    (folder / 'scripts' / 'script.py').write_text(source)
    done = subprocess.run(
        [sys.executable, *(['-'] if stdin else ['scripts/script.py'])],
        cwd=folder,
        input=source if stdin else '',
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, 'OMP_NUM_THREADS': '1'},
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize('stdin', [False, True])
def test_a_script_needs_no_guard(tmp_path, stdin):
    "It runs once, also from standard input, and workers import nothing from the folder that they run in"
    if hasattr(sys.flags, 'safe_path') and not stdin:
        (tmp_path / 'socket.py').write_text('raise SystemExit("a file of the folder was run")')
    code, out, err = script(SCRIPT, tmp_path, stdin)
    assert (code, out) == (0, 'the script runs\n(0, 1)\n'), err


def test_a_script_with_a_trainer_of_its_own_is_told_of_the_guard(tmp_path):
    code, _, err = script(OWN, tmp_path)
    assert code != 0 and "if __name__ == '__main__':" in err.strip().splitlines()[-1]
    assert 'none of 2 agents' in err and not list(tmp_path.glob('pop/agent-*/manifest.json'))
    code, out, err = script(OWN.replace('workers=2', 'workers=1'), tmp_path)
    assert (code, out) == (0, 'the script runs\n(0, 1)\n'), err


def test_a_run_in_which_every_job_failed_raises(tmp_path):
    config = ExactPPOConfig(
        size=3, updates=4, updates_per_solve=2, levels_per_solve=8, batch_size=64, lr=1e5, precision='float32'
    )
    with pytest.raises(RuntimeError, match='none of 2 agents could be trained: FloatingPointError'):
        train_population(config, range(2), tmp_path / 'pop', workers=1, progress=False)
    assert not list((tmp_path / 'pop').glob('agent-*/manifest.json'))
