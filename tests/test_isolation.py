"Child processes take nothing from the folder that the user works in"

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

with_procgen = pytest.mark.skipif(find_spec('procgen') is None, reason='no procgen package is installed')
TRAPS = (
    'numpy',
    'json',
    'procgen',
    'gym3',
    'goalmisgen',
    'torch',
    'PIL',
    'struct',
    'multiprocessing',
    'sitecustomize',
    'usercustomize',
)
CODE = '''
import os, sys
from goalmisgen.env.procgen import Engine
import PIL.Image, torch, multiprocessing
os.chdir(sys.argv[1])
with Engine('maze', 2) as engine: print(engine.frames().shape)
'''


def run(where, **names):
    env = {k: v for k, v in os.environ.items() if k != 'PYTHONPATH'} | names
    return subprocess.run(
        [sys.executable, '-c', CODE, where], cwd=where.parent, env=env, capture_output=True, encoding='utf-8'
    )


@with_procgen
@pytest.mark.parametrize(
    'startup', [{}, dict(PYTHONSTARTUP='numpy.py', PYTHONUSERBASE='.')], ids=['plain', 'startup']
)
def test_the_engine_runs_no_file_of_the_working_folder(tmp_path, startup):
    "A folder full of traps, in which this process was started too late to step on them"
    traps = tmp_path / 'traps'
    traps.mkdir()
    for name in TRAPS:
        (traps / f'{name}.py').write_text(f'open({str(tmp_path / "sprung")!r}, "a").write({name!r})')
    done = run(traps, **startup)
    assert done.stdout.strip() == '(2, 64, 64, 3)' and not (tmp_path / 'sprung').exists(), done.stderr


@with_procgen
def test_the_engine_finds_a_package_that_is_not_installed(tmp_path):
    "This package, in a folder that only the parent has on its path"
    site = tmp_path / 'site'
    site.mkdir()
    (site / 'goalmisgen').symlink_to(Path(__import__('goalmisgen').__file__).parent)
    code = f'import sys; sys.path.insert(0, {str(site)!r})\n' + CODE
    done = subprocess.run(
        [sys.executable, '-c', code, tmp_path], cwd=tmp_path, capture_output=True, encoding='utf-8'
    )
    assert done.stdout.strip() == '(2, 64, 64, 3)', done.stderr


@with_procgen
def test_the_engine_in_any_temporary_folder(tmp_path):
    "Other alphabets, a space, a quote and a dollar in its name"
    name = "Größe 日本 it's $HOME"
    (tmp_path / name).mkdir()
    done = run(tmp_path, TMPDIR=str(tmp_path / name))
    assert done.stdout.strip() == '(2, 64, 64, 3)', done.stderr
    assert os.listdir(tmp_path / name) == []
