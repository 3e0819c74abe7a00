"Where Procgen's pictures are found, how the cache is filled, and what the heart of the package imports"

import os
import shutil
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pytest
from goalmisgen.env import assets, render, pictures
from goalmisgen.env.assets import (
    ASSETS_VARIABLE,
    PICTURE_FILES,
    asset_dir,
    cache_dir,
    fetch_pictures,
    installed_assets,
)

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    "A folder with the fifteen pictures and nothing else"
    copy = tmp_path_factory.mktemp('pictures')
    for path in PICTURE_FILES.values():
        (copy / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(asset_dir() / path, copy / path)
    return copy


@pytest.fixture
def bare(monkeypatch, tmp_path):
    "No variable, no procgen, an empty cache"
    monkeypatch.delenv(ASSETS_VARIABLE, raising=False)
    monkeypatch.setattr(assets, 'installed_assets', lambda: None)
    monkeypatch.setattr(assets, 'cache_dir', lambda: tmp_path / 'cache')
    return tmp_path / 'cache'


def wheel_of(folder, at, **changed):
    with zipfile.ZipFile(at, 'w', zipfile.ZIP_DEFLATED) as z:
        for path in PICTURE_FILES.values():
            z.writestr(
                f'procgen/data/assets/{path}', changed.get(Path(path).stem, (folder / path).read_bytes())
            )
    return at


def test_the_search_order(bare, folder, monkeypatch, tmp_path):
    with pytest.raises(FileNotFoundError) as e:
        asset_dir()
    for part in (ASSETS_VARIABLE, 'the procgen package is not installed', str(bare), assets.FETCH_COMMAND):
        assert part in str(e.value)
    shutil.copytree(folder, bare)
    assert asset_dir() == bare
    shutil.copytree(folder, tmp_path / 'installed')
    monkeypatch.setattr(assets, 'installed_assets', lambda: tmp_path / 'installed')
    assert asset_dir() == tmp_path / 'installed'
    monkeypatch.setenv(ASSETS_VARIABLE, str(folder))
    assert asset_dir() == folder


def test_a_named_folder_is_used_or_refused(bare, folder, monkeypatch, tmp_path):
    shutil.copytree(folder, bare)
    monkeypatch.setenv(ASSETS_VARIABLE, str(tmp_path / 'none'))
    with pytest.raises(FileNotFoundError, match='15 of 15 pictures are missing'):
        asset_dir()
    shutil.copytree(folder, tmp_path / 'some')
    (tmp_path / 'some' / PICTURE_FILES['star']).unlink()
    monkeypatch.setenv(ASSETS_VARIABLE, str(tmp_path / 'some'))
    with pytest.raises(
        FileNotFoundError, match='1 of 15 pictures are missing, such as kenney/Items/star.png'
    ):
        asset_dir()
    monkeypatch.setenv(ASSETS_VARIABLE, '')
    assert asset_dir() == bare


def test_a_cache_half_filled_does_not_count(bare, folder):
    shutil.copytree(folder, bare)
    (bare / PICTURE_FILES['cheese']).unlink()
    with pytest.raises(FileNotFoundError, match='has not all of them'):
        asset_dir()


@pytest.mark.parametrize('error', [ImportError, ValueError])
def test_a_blocked_procgen_counts_as_absent(monkeypatch, error):
    def find(name):
        raise error(name)

    monkeypatch.setattr(assets, 'find_spec', find)
    assert installed_assets() is None


@pytest.mark.parametrize(
    'platform, names, expected',
    [
        ('linux', dict(XDG_CACHE_HOME='/x'), '/x/goalmisgen/assets'),
        ('linux', {}, '/people/ü/.cache/goalmisgen/assets'),
        ('darwin', {}, '/people/ü/Library/Caches/goalmisgen/assets'),
        ('win32', dict(LOCALAPPDATA='/local'), '/local/goalmisgen/assets'),
    ],
)
def test_the_cache_of_each_system(monkeypatch, platform, names, expected):
    for name in ('XDG_CACHE_HOME', 'LOCALAPPDATA'):
        monkeypatch.delenv(name, raising=False)
    for name, value in dict(HOME='/people/ü', USERPROFILE='/people/ü', **names).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(assets.sys, 'platform', platform)
    assert cache_dir() == Path(expected)


def test_every_picture_of_the_package_comes_from_the_folder(bare, folder, monkeypatch):
    monkeypatch.setenv(ASSETS_VARIABLE, str(folder))
    for load, names in (
        (render.load_picture, ('wall', 'mouse', *render.TEXTURES)),
        (pictures.picture, pictures.PICTURES),
    ):
        for name in names:
            known = load(name)
            assert np.array_equal(load.__wrapped__(name), known)  # not from the memory of this process
    assert {*PICTURE_FILES} == {'wall', 'mouse', *render.TEXTURES, *pictures.PICTURES}


def test_the_cache_is_filled_from_a_wheel(bare, folder, tmp_path):
    assert fetch_pictures(wheel_of(folder, tmp_path / 'procgen.whl')) == bare == asset_dir()
    for path in PICTURE_FILES.values():
        assert (bare / path).read_bytes() == (folder / path).read_bytes()
    assert sorted(p.relative_to(bare).as_posix() for p in bare.rglob('*.png')) == sorted(
        PICTURE_FILES.values()
    )


@pytest.mark.parametrize('damage', ['altered', 'bomb', 'cut', 'empty', 'foreign', 'text', 'absent'])
def test_another_wheel_is_refused_and_nothing_is_written(bare, folder, tmp_path, damage):
    wheel, star = tmp_path / 'procgen.whl', (folder / PICTURE_FILES['star']).read_bytes()
    if damage == 'altered':
        wheel_of(folder, wheel, gemRed=star)
    elif damage == 'bomb':
        wheel_of(folder, wheel, star=star + bytes(10**8))
    elif damage == 'cut':
        wheel.write_bytes(wheel_of(folder, wheel).read_bytes()[:100_000])
    elif damage == 'foreign':
        with zipfile.ZipFile(wheel, 'w') as z:
            z.writestr('../procgen/data/assets/misc_assets/cheese.png', b'')
    elif damage != 'absent':
        wheel.write_bytes(b'' if damage == 'empty' else b'no zip file')
    with pytest.raises(FileNotFoundError if damage == 'absent' else ValueError, match='procgen.whl'):
        fetch_pictures(wheel)
    assert not bare.exists()


def test_pip_that_cannot_help_is_quoted(bare, monkeypatch, tmp_path):
    def run(command, cwd, **kwargs):
        assert command[1:4] == ['-m', 'pip', 'download'] and '--no-deps' in command and os.listdir(cwd) == []
        return subprocess.CompletedProcess(command, 1, '', '/usr/bin/python: No module named pip\n')

    monkeypatch.setattr(assets.subprocess, 'run', run)
    with pytest.raises(FileNotFoundError, match='No module named pip.*name it'):
        fetch_pictures()


def test_the_child_that_runs_pip_takes_nothing_from_the_working_folder(bare, folder, monkeypatch, tmp_path):
    "`pip.py` in the user's folder is not run"
    (tmp_path / 'pip.py').write_text('open("ran", "w")')
    (tmp_path / 'zipfile.py').write_text('open("ran", "w")')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(assets, '_WHEEL', ('--no-index', 'procgen-mirror==0'))
    with pytest.raises(FileNotFoundError, match='could not fetch'):
        fetch_pictures()
    assert not (tmp_path / 'ran').exists()
