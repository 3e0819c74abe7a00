"What is required where, and that all that is imported is required"

import ast
import sys

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from project import ROOT, settings

COMPILED = {'procgen', 'procgen-mirror', 'gym3'}
OPTIONAL = {
    'wandb',
    'gym',
    'IPython',
}  # named where they are missed; comes with procgen; comes with every notebook
NAMES = dict(
    sklearn='scikit-learn',
    PIL='pillow',
    procgen='procgen-mirror',
    cycler='matplotlib',
    traitlets='ipywidgets',
    ale_py='ale-py',
    stable_baselines3='stable-baselines3',
)  # or what brings them


def required(python='3.11', system='linux', machine='x86_64'):
    "Requirements by name where these markers hold"
    where = dict(
        python_version=python,
        python_full_version=f'{python}.0',
        sys_platform=system,
        platform_machine=machine,
    )
    found = [Requirement(o) for o in settings(ROOT)['requirements'].split()]
    return {r.name: r for r in found if r.marker is None or r.marker.evaluate(where)}


@pytest.mark.parametrize(
    'python,system,machine,compiled',
    [
        ('3.10', 'linux', 'x86_64', {'procgen', 'gym3'}),
        ('3.10', 'win32', 'AMD64', {'procgen', 'gym3'}),
        ('3.10', 'darwin', 'arm64', set()),
        ('3.11', 'linux', 'x86_64', {'procgen-mirror', 'gym3'}),
        ('3.12', 'linux', 'x86_64', {'procgen-mirror', 'gym3'}),
        ('3.11', 'darwin', 'arm64', set()),
        ('3.12', 'linux', 'aarch64', set()),
        ('3.11', 'win32', 'AMD64', set()),
        ('3.13', 'linux', 'x86_64', set()),
        ('3.13', 'darwin', 'arm64', set()),
        ('3.14', 'win32', 'AMD64', set()),
    ],
)
def test_installs_where_procgen_is_not(python, system, machine, compiled):
    "Procgen is required where it has wheels, and numpy is held down by nobody else"
    found = required(python, system, machine)
    assert set(found) & COMPILED == compiled and str(found['numpy'].specifier) == ''


def test_lower_bounds():
    found = required()
    assert not found['gymnasium'].specifier.contains('1.0.0') and found['gymnasium'].specifier.contains(
        '1.1.0'
    )
    assert Version('2.4') in found['torch'].specifier and 'scipy' in found


def test_everything_imported_is_required():
    cfg = settings(ROOT)
    known = {
        Requirement(o).name
        for key in cfg
        if key.endswith('requirements') and key != 'dev_requirements'
        for o in cfg[key].split()
    }
    used = set()
    for path in (ROOT / cfg['lib_path']).rglob('*.py'):
        if path.name == 'docs.py':
            continue  # of the site's tools
        for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
            if isinstance(node, ast.Import):
                used |= {a.name.split('.')[0] for a in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                used.add(node.module.split('.')[0])
    outside = {NAMES.get(m, m) for m in used - set(sys.stdlib_module_names) - OPTIONAL - {cfg['lib_name']}}
    assert 'torch' in outside and outside <= known, outside - known
