"Files of arrays that come from anywhere: what is no such file is refused, and what would not fit"

import io
import os
import pickle
import zipfile

import numpy as np
import pytest

from goalmisgen.arrays import read_arrays, write_arrays
from goalmisgen.quantilizers.demos import load_demos
from goalmisgen.quantilizers.hoppers import load_bank
from goalmisgen.quantilizers.readers import read_padded
from goalmisgen.rewards.atari import load_screens
from goalmisgen.rewards.nets import load_rewards
from goalmisgen.rewards.screens import load_screen_model
from goalmisgen.rewards.transitions import load_transitions

READERS = {
    'arrays': read_arrays,
    'demos': load_demos,
    'bank': load_bank,
    'padded': lambda path: read_padded(path, 'mountain_car'),
    'screens': load_screens,
    'rewards': load_rewards,
    'screen model': load_screen_model,
    'transitions': load_transitions,
}


def plain():
    out = io.BytesIO()
    np.savez_compressed(out, a=np.arange(100), b=np.ones((3, 4), np.float32))
    return out.getvalue()


def huge(size):
    "Zeros: a thousandth of their size on disk"
    out = io.BytesIO()
    with zipfile.ZipFile(out, 'w', zipfile.ZIP_DEFLATED) as archive, archive.open('a.npy', 'w') as member:
        np.lib.format.write_array_header_1_0(member, dict(descr='|u1', fortran_order=False, shape=(size,)))
        member.write(bytes(size))
    return out.getvalue()


def objects():
    "An array of Python objects, which is a pickle"
    out = io.BytesIO()
    np.savez(out, a=np.array([dict(x=1)], dtype=object))
    return out.getvalue()


@pytest.mark.parametrize('reader', READERS)
def test_what_is_no_file_of_arrays_is_refused(reader, tmp_path):
    read = READERS[reader]
    for n, data in enumerate((b'', b'PK', b'not a zip', pickle.dumps(1), plain()[:-40], objects())):
        path = tmp_path / f'{n}.npz'
        path.write_bytes(data)
        with pytest.raises(ValueError, match=str(path)):
            read(path)
    os.mkfifo(tmp_path / 'pipe.npz')
    for name in ('pipe.npz', '.'):
        with pytest.raises(ValueError, match='plain file'):
            read(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        read(tmp_path / 'none.npz')


def test_what_unpacks_to_more_than_is_allowed(tmp_path):
    path = tmp_path / 'zeros.npz'
    path.write_bytes(huge(5_000_000))
    assert path.stat().st_size < 50_000 and len(read_arrays(path)['a']) == 5_000_000
    with pytest.raises(ValueError, match='unpacked.*5000'):
        read_arrays(path, 1_000_000)


def test_no_flipped_byte_is_taken_for_another_array(tmp_path):
    data = plain()
    path = tmp_path / 'flipped.npz'
    rng = np.random.default_rng(0)
    for at in rng.choice(len(data), 150, replace=False):
        path.write_bytes(data[:at] + bytes([data[at] ^ (1 << rng.integers(8))]) + data[at + 1 :])
        try:
            found = read_arrays(path)
        except ValueError:
            continue
        assert all(
            (found[k] == v).all() for k, v in dict(a=np.arange(100), b=np.ones((3, 4))).items() if k in found
        )


def test_written_and_read(tmp_path):
    arrays = dict(a=np.arange(6).reshape(2, 3), text=np.array('maze'), none=np.zeros((0, 4), np.float32))
    write_arrays(tmp_path / 'a.npz', **arrays)
    found = read_arrays(tmp_path / 'a.npz')
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype and (found[name] == array).all()
    with pytest.raises(ValueError, match='npz'):
        write_arrays(tmp_path / 'a.bin', **arrays)
