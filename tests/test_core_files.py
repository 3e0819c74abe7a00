"Files are written as `open` would have, and only plain ones are read; integers may come out of arrays"

import os
import stat
import threading

import numpy as np
import pytest

from goalmisgen.agents.exact_ppo import ExactPPOConfig
from goalmisgen.agents.impala import Policy
from goalmisgen.jobs import run_jobs
from goalmisgen.agents.ppo import PPOConfig
from goalmisgen.agents.training import Seeds
from goalmisgen.core import (
    create_atomic,
    digest,
    read_bytes,
    read_json,
    seal,
    to_dict,
    write_atomic,
    write_json,
)


@pytest.mark.parametrize('umask', [0o077, 0o027, 0o002])
def test_umask(tmp_path, umask):
    before = os.umask(umask)
    try:
        write_atomic(tmp_path / 'a', 'x')
        create_atomic(tmp_path / 'b', 'x')
        (tmp_path / 'c').write_text('as open makes it')
    finally:
        os.umask(before)
    modes = [stat.S_IMODE((tmp_path / n).stat().st_mode) for n in 'abc']
    assert modes == [0o666 & ~umask] * 3
    (tmp_path / 'a').chmod(0o600)
    write_atomic(tmp_path / 'a', 'y')
    assert stat.S_IMODE((tmp_path / 'a').stat().st_mode) == 0o600, 'what was made private stays so'


def test_links_stay_links(tmp_path):
    (tmp_path / 'far').mkdir()
    (tmp_path / 'link').symlink_to(tmp_path / 'far' / 'file')
    for text in ('new', 'newer'):
        write_atomic(tmp_path / 'link', text)
        assert (tmp_path / 'link').is_symlink() and (tmp_path / 'far' / 'file').read_text() == text
    assert sorted(p.name for p in tmp_path.rglob('*')) == ['far', 'file', 'link']


@pytest.mark.parametrize('name', ['n' * 250 + '.csv', 'ü' * 127, 'a.' + 'b' * 252, '.hidden'])
def test_names_as_long_as_they_may_be(tmp_path, name):
    write_atomic(tmp_path / name, 'x')
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_only_plain_files_are_replaced_or_read(tmp_path):
    os.mkfifo(tmp_path / 'pipe')
    (tmp_path / 'null').symlink_to('/dev/null')
    for name in ('pipe', 'null', '.'):
        with pytest.raises(ValueError, match='plain file'):
            write_atomic(tmp_path / name, 'x')
        with pytest.raises(ValueError, match='plain file'):
            read_bytes(tmp_path / name, 10)
    assert stat.S_ISCHR(os.stat('/dev/null').st_mode) and stat.S_ISFIFO((tmp_path / 'pipe').stat().st_mode)
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / 'nothing')


def test_the_first_keeps_the_name(tmp_path):
    "Of twenty who create a file at once one succeeds, and the file is that one's, whole"
    said, gate = {}, threading.Barrier(20)

    def come(n):
        gate.wait()
        said[n] = create_atomic(tmp_path / 'file', f'{n} ' * 1000)

    threads = [threading.Thread(target=come, args=(n,)) for n in range(20)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    (winner,) = (n for n, first in said.items() if first)
    assert (tmp_path / 'file').read_text() == f'{winner} ' * 1000 and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    'text',
    [
        '[1]',
        '{"a": 1, "a": 2}',
        '{"a": NaN}',
        '{"a": -Infinity}',
        '[' * 100_000,
        '"text"',
        '1' * 5000,
        '{"format": 2, "a": 1}',
        '{"a": 1, "checksum": "0000000000000000"}',
        '\xff',
        '',
    ],
)
def test_what_json_is_refused(tmp_path, text):
    (tmp_path / 'a.json').write_text(text, encoding='latin-1')
    with pytest.raises(ValueError, match='a.json') as e:
        read_json(tmp_path / 'a.json')
    assert len(str(e.value)) < 500
    with pytest.raises(ValueError):
        write_json(tmp_path / 'b.json', dict(a=float('nan')))


def test_a_seal_is_that_of_all_the_rest(tmp_path):
    write_json(tmp_path / 'a.json', seal(dict(format=2, a=0.1, b=[1, None])))
    assert read_json(tmp_path / 'a.json') == seal(read_json(tmp_path / 'a.json'))


def test_numpy_integers_are_integers(tmp_path):
    seeds = Seeds(np.int64(3), weights=np.uint8(9))
    assert seeds == Seeds(3, weights=9) and digest(to_dict(seeds)) == digest(to_dict(Seeds(3, weights=9)))
    a = PPOConfig(num_envs=np.int32(8), size=np.int64(7), lr=np.float32(0.5), num_levels=np.array(50))
    b = PPOConfig(num_envs=8, size=7, lr=0.5, num_levels=50)
    c = ExactPPOConfig(updates=np.int64(8), size=np.int16(3), gamma=np.float64(0.5))
    assert (
        a == b
        and digest(a) == digest(b)
        and digest(c) == digest(ExactPPOConfig(updates=8, size=3, gamma=0.5))
    )
    assert all(type(v) in (int, float, str, bool) for v in vars(a).values())
    assert run_jobs([], workers=np.int64(2), progress=False) == [] and Policy(
        np.int64(2)
    ).fc_value.bias.shape == (1,)


@pytest.mark.parametrize('wrong', [1.5, True, '3', None, np.float64(3), np.bool_(True), -1, 2**40])
def test_what_is_no_integer_is_refused(wrong):
    for make in (
        lambda: Seeds(wrong),
        lambda: PPOConfig(epochs=wrong),
        lambda: ExactPPOConfig(updates=wrong),
        lambda: run_jobs([], workers=wrong),
    ):
        if (wrong is None and make.__code__.co_names[0] == 'run_jobs') or (
            wrong == 2**40 and 'Seeds' not in make.__code__.co_names
        ):
            continue
        with pytest.raises(ValueError):
            make()
