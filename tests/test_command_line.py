"The command line: what was typed is what is done, and what cannot be done is said in one line"

import io
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from goalmisgen import cli
from goalmisgen.agents.examples import example_dir
from goalmisgen.agents.impala import Policy, save_policy
from goalmisgen.evaluation import questions
from goalmisgen.evaluation.results import read_results
from goalmisgen.parsing import expanded

pytestmark = pytest.mark.slow

INTERNALS = (
    'tyro',
    '<class',
    'NoneType',
    'literal',
    'Traceback',
    'instantiated',
    '{None}',
    'Command:',
    'Errno',
    '│',
    '─',
)


def typed(capsys, *words):
    "Exit status, and what was printed"
    try:
        cli.main(list(map(str, words)))
        status = 0
    except SystemExit as e:
        status = e.code
    said = capsys.readouterr()
    return status, said.out, said.err


def refused(capsys, *words):
    "What was said of a command that was refused"
    status, out, err = typed(capsys, *words)
    lines = err.strip().splitlines()
    assert status == 2 and not out, (status, out, err)
    assert lines[0].startswith('goalmisgen: ') and len(lines) <= 2 and not any(w in err for w in INTERNALS), (
        err
    )
    return lines[0]


@pytest.fixture
def agent(tmp_path, monkeypatch):
    "An untrained agent, and four levels to ask it on"
    monkeypatch.setattr(questions, 'PUBLISHED_SEEDS', range(100000, 100004))
    return save_policy(
        Policy(0),
        tmp_path / 'pop' / 'agent-0',
        dict(seeds=dict(agent=0), updates=1, config=dict(goal='yellow line', background='grey', size=5)),
    )


@pytest.mark.parametrize(
    'line, says',
    [
        ('study --agents many', "--agents: got 'many'; allowed: a whole number"),
        ('study --agents 1.5', "got '1.5'; allowed: a whole number"),
        ('evaluate x --tolerance big', "--tolerance: got 'big'; allowed: a number"),
        ('train x --config.size 4', 'size: got 4'),
        ('train-ppo x --config.env-steps 1e6', "got '1e6'; allowed: a whole number"),
        ('train x --config.goal pink', "got 'pink'"),
        ('watch a --level -1', 'level: got -1'),
        ('watch a --scal 3', 'unknown: --scal, 3; perhaps you meant --scale'),
        ('evaluat x', 'unknown: evaluat, x'),
        ('evaluate', 'needs PATH'),
        ('play --level', '--level: a value is missing'),
        ('study quick more', 'unknown: more'),
        ('', 'Expected one of {study'),
        ('watch a --size 0', 'got 0'),
        ('watch a --obj1=', "got ''"),
        ('study --agents 4294967296', 'agents: got 4294967296'),
        ('train x --agents 4294967296', 'agents: got 4294967296'),
        ('train x --agents 0', 'agents: got 0'),
        ('train-ppo x --first 2147483647 --agents 2', 'allowed: an integer from 1 to 1'),
        ('train x --first -1', 'first: got -1'),
        ('study --agents 9999999999999999999999', 'agents'),
        ('evaluate nowhere', 'nowhere: no such folder'),
        ('evaluate x --levels some', "levels: got 'some'"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(capsys, tmp_path, monkeypatch, line, says):
    monkeypatch.chdir(tmp_path)
    assert says in refused(capsys, *line.split())
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize('encoding', ['ascii', 'latin-1', 'utf-8'])
def test_help_and_errors_in_every_encoding(encoding):
    code = '''
import sys
from goalmisgen import cli
for words in [[c, '--help'] for c in cli.COMMANDS] + [['study', '--agents', 'many'], ['study', 'ünknown']]:
    try: cli.main(words)
    except SystemExit as e: assert e.code == (0 if '--help' in words else 2), words
'''
    p = subprocess.run(
        [sys.executable, '-c', code],
        env=os.environ | dict(PYTHONIOENCODING=encoding),
        capture_output=True,
        timeout=300,
    )
    assert p.returncode == 0 and b'Traceback' not in p.stderr, p.stderr
    assert b"goalmisgen: --agents: got 'many'; allowed: a whole number" in p.stderr


@pytest.mark.parametrize('module', ['numpy', 'torch', 'goalmisgen.films.watch'])
def test_ctrl_c_while_it_loads(module):
    "A module reports that it is being loaded, then waits for the key"
    code = f'''
import sys, time
class Slow:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            print('loading', flush=True)
            time.sleep(60)
sys.meta_path.insert(0, Slow())
import runpy
sys.argv = ['goalmisgen', 'study', 'slow']
runpy.run_module('goalmisgen.cli', run_name='__main__')
'''
    listen = lambda: signal.signal(signal.SIGINT, signal.default_int_handler)
    p = subprocess.Popen(
        [sys.executable, '-c', code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=listen,
    )
    assert p.stdout.readline() == 'loading\n'
    p.send_signal(signal.SIGINT)
    _, err = p.communicate(timeout=120)
    assert p.returncode == 130 and 'Traceback' not in err, err


def test_what_the_system_refuses_is_one_line(capsys, agent, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path('file').write_text('')
    for option in ('background', 'population'):
        refused(capsys, 'evaluate', 'pop', f'--{option}=')
    for out in ('file/t.csv', 'n' * 300 + '.csv', 'pop', 't.txt', '~nobody-of-this-name/t.csv'):
        refused(capsys, 'evaluate', 'pop', '--out', out)
        refused(capsys, 'evaluate', agent, '--method', 'sampled', '--out', out)
    for out in ('file/a.gif', 'n' * 300 + '.gif', 'pop'):
        refused(capsys, 'watch', agent, '--out', out)
    for folder in ('file', 'n' * 300, 'a' * 5000):
        refused(capsys, 'evaluate', folder)
    assert sorted(p.name for p in tmp_path.iterdir()) == ['file', 'pop']
    for error in (
        PermissionError(13, 'Permission denied', 'x'),
        OSError(28, 'No space left on device'),
        NotADirectoryError(20, 'Not a directory', 'y'),
    ):
        monkeypatch.setattr(cli, 'watch', lambda *a, e=error: (_ for _ in ()).throw(e))
        assert error.strerror in refused_oserror(capsys, agent)


def refused_oserror(capsys, agent):
    status, out, err = typed(capsys, 'watch', agent)
    assert status == 2 and len(err.splitlines()) == 1 and 'Traceback' not in err
    return err


@pytest.mark.parametrize('text', ['[1, 2]', '[' * 100_000, '"x"', '{'])
def test_manifests_that_are_none(capsys, agent, text):
    (agent / 'manifest.json').write_text(text)
    for words in (('evaluate', agent), ('evaluate', agent.parent), ('watch', agent)):
        assert 'manifest.json' in refused(capsys, *words)


def test_one_agent_is_kept_in_the_table_that_was_named(capsys, agent, tmp_path):
    ask = ('evaluate', agent, '--method', 'sampled')
    status, out, err = typed(capsys, *ask)
    assert (
        status == 0
        and 'red line vs yellow gem on grey' in out
        and not err
        and sorted(p.name for p in tmp_path.iterdir()) == ['pop']
    )
    assert typed(capsys, *ask, '--out', tmp_path / 't.csv') == (0, out, '')
    (row,) = read_results(tmp_path / 't.csv')
    assert (row.population, row.run, row.agent, row.trained_background, row.background) == (
        'pop',
        'agent-0',
        0,
        'grey',
        'grey',
    )
    status, out, err = typed(capsys, *ask, '--background', 'black', '--out', tmp_path / 't.csv', '--lengths')
    assert (
        status == 0
        and 'on black' in out
        and 'trained on grey, asked on black' in err
        and len(read_results(tmp_path / 't.csv')) == 2
    )
    assert (tmp_path / 't.lengths.csv.gz').exists() and 'with a table' in refused(capsys, *ask, '--lengths')
    save_policy(Policy(1), agent, dict(seeds=dict(agent=0), updates=1))
    before = (tmp_path / 't.csv').read_bytes()
    assert 'other weights' in refused(capsys, *ask, '--background', 'grey', '--out', tmp_path / 't.csv')
    assert (tmp_path / 't.csv').read_bytes() == before


def test_paths_as_people_type_them(capsys, tmp_path, monkeypatch):
    home, here = tmp_path / 'home', tmp_path / 'here'
    home.mkdir()
    here.mkdir()
    monkeypatch.setenv('HOME', str(home))
    monkeypatch.chdir(here)
    (home / 'agent').symlink_to(example_dir('exact-3'))
    for i, words in enumerate(
        (
            ('~/agent', '--out=~/a0.gif'),
            ('$HOME/agent', '--out', '${HOME}/a1.gif'),
            ('~/agent/', '--out', '~/new/../a2.gif'),
        )
    ):
        assert (
            typed(capsys, 'watch', *words, '--frames', '3', '--scale', '2')[0] == 0
            and (home / f'a{i}.gif').exists()
        )
    assert not any(here.iterdir())
    (here / '~').mkdir()  # somebody has it
    assert expanded(Path('~')) == Path('~') and expanded((Path('$HOME/x'), 3)) == (home / 'x', 3)


def test_a_reader_that_leaves_is_no_error():
    p = subprocess.Popen(
        [sys.executable, '-m', 'goalmisgen.cli', 'watch', '--help'],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    p.stdout.close()
    assert 'Traceback' not in p.stderr.read() and p.wait(120) in (0, 1, 120)


def test_timeouts_and_agents_without_a_preference_are_in_the_summary():
    import pandas as pd

    rows = [
        dict(
            step=1, obj1='a', obj2='b', background='black', agent=n, preference=p, mean_length=5.0, timeout=t
        )
        for n, (p, t) in enumerate([(0.25, 0.5), (0.75, 0.0), (float('nan'), 1.0)])
    ]
    (line,) = pd.read_csv(io.StringIO(cli._summary(pd.DataFrame(rows))), sep=r'\s+').to_dict('records')
    assert (line['agents'], line['undecidable'], line['preference'], line['timeouts']) == (3, 1, 0.5, 0.5)
    assert 'undecidable' not in cli._summary(pd.DataFrame(rows[:2]))
