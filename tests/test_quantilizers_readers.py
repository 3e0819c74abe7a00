"""Demonstrations of others, in files laid out as the programs that wrote or read them say: `play/play.py` of
mtrazzi/quantilizers, `hdf5_storage.py` of Minari, `agc/dataset.py` of yobibyte/atarigrandchallenge"""

import json
import subprocess
import sys

import numpy as np
import pytest
from goalmisgen.quantilizers.commands import gather_demos
from goalmisgen.quantilizers.demos import concat_demos
from goalmisgen.quantilizers.drivers import synthetic_drivers
from goalmisgen.quantilizers.readers import read_grand_challenge, read_minari, read_padded


@pytest.fixture(scope='module')
def drivers():
    "Three who arrive and one who does not"
    many = synthetic_drivers(40, 3)
    return many.take([*np.flatnonzero(many.lengths < 200)[:3], np.flatnonzero(many.lengths == 200)[0]])


def recorded(episodes, width):
    "The arrays of a recording: `done` is false at every step and true in the filling"
    longest = max(len(steps) for steps in episodes)
    out = dict(
        obs=np.zeros((len(episodes), longest, width)),
        acs=np.zeros((len(episodes), longest, len(episodes[0][0][1]))),
        rews=np.zeros((len(episodes), longest)),
        done=np.full((len(episodes), longest), 1.0),  # a list of booleans in an array of floats
    )
    for k, steps in enumerate(episodes):
        for t, (seen, keys, reward) in enumerate(steps):
            out['obs'][k, t], out['acs'][k, t], out['rews'][k, t], out['done'][k, t] = seen, keys, reward, 0
    return out | dict(ep_rets=out['rews'].sum(1))


def steps_of(demos):
    return [
        [(demos.observations[t], demos.keys[t], demos.true[t]) for t in range(*bound)]
        for bound in demos.bounds
    ]


def test_a_recording_of_the_car(drivers, tmp_path):
    given_up = steps_of(drivers)[0][:50]
    arrays = recorded([*steps_of(drivers), given_up, []], 2)
    np.savez(tmp_path / 'ryan.npz', **arrays)
    again = read_padded(tmp_path / 'ryan.npz', 'mountain_car')
    for name in ('observations', 'keys', 'true', 'lengths'):
        assert np.array_equal(getattr(again, name), getattr(drivers, name)), name
    assert np.allclose(again.proxy, drivers.proxy, atol=1e-6), 'the last one is computed'
    assert again.kinds == ('keyboard',) * 4
    flat = arrays | dict(acs=arrays['acs'][..., 0])
    np.savez(tmp_path / 'flat.npz', **flat)
    assert np.array_equal(read_padded(tmp_path / 'flat.npz', 'mountain_car').keys, drivers.keys)
    for wrong, message in (
        (dict(acs=arrays['acs'] + 0.5), 'actions of joint 0'),
        (dict(acs=np.tile(arrays['acs'], 3)), 'numbers in an action'),
        (dict(rews=arrays['rews'][:, 1:]), 'shapes in'),
        (dict(done=np.ones_like(arrays['done'])), 'none of them whole'),
        (dict(obs=arrays['obs'][0]), 'shape of obs'),
    ):
        np.savez(tmp_path / 'wrong.npz', **arrays | wrong)
        with pytest.raises(ValueError, match=message):
            read_padded(tmp_path / 'wrong.npz', 'mountain_car')


def test_a_recording_of_hopper_holds_the_true_reward(tmp_path):
    rng = np.random.default_rng(0)
    episodes = [
        [(rng.normal(size=11), rng.integers(-1, 2, 3), rng.normal()) for _step in range(length)]
        for length in (7, 1, 4)
    ]
    np.savez(tmp_path / 'michael.npz', **recorded(episodes, 11))
    again = read_padded(tmp_path / 'michael.npz', 'hopper')
    assert again.lengths.tolist() == [7, 1, 4]
    assert np.array_equal(again.keys, np.concatenate([[keys + 1 for _, keys, _ in e] for e in episodes]))
    assert np.allclose(again.true_returns, [sum(r for *_, r in e) for e in episodes])
    ankles = [[seen[4] for seen, *_ in e] for e in episodes]
    assert np.allclose(again.proxy_returns, [np.mean(a[1:] or a) for a in ankles], atol=1e-6)
    assert np.array_equal(np.flatnonzero(again.proxy), again.bounds[:, 1] - 1), 'paid at the end'


def minari(path, drivers):
    "What Minari 0.5 writes: growing arrays, numbers of the episode, texts for infos"
    h5py = pytest.importorskip('h5py')
    path.mkdir(parents=True)
    with h5py.File(path / 'main_data.hdf5', 'w', track_order=True) as file:
        for k, (begin, end) in enumerate(drivers.bounds):
            group = file.create_group(f'episode_{k}')
            group.attrs.update(id=k, seed=k, total_steps=end - begin)
            after = [[drivers.proxy[end - 1], 0]]
            columns = dict(
                observations=np.concatenate([drivers.observations[begin:end], after]).astype(np.float32),
                actions=drivers.keys[begin:end, 0].astype(np.int64),
                rewards=drivers.true[begin:end],
                terminations=np.arange(begin, end) == end - 1,
                truncations=np.zeros(end - begin, bool),
            )
            for name, values in columns.items():
                group.create_dataset(name, data=values, chunks=True, maxshape=(None, *values.shape[1:]))
            infos = group.create_dataset('infos', (end - begin + 1,), dtype=h5py.string_dtype())
            infos[:] = ['{}'] * (end - begin + 1)
    (path / 'metadata.json').write_text(json.dumps(dict(total_episodes=len(drivers))))


def test_a_data_set_of_minari(drivers, tmp_path):
    many = concat_demos([drivers] * 3)  # episode_10 comes after episode_2
    minari(tmp_path / 'car' / 'data', many)
    file = tmp_path / 'car' / 'data' / 'main_data.hdf5'
    for again in (read_minari(file, 'mountain_car'), gather_demos([tmp_path / 'car'], 'mountain_car')):
        for name in ('observations', 'keys', 'true', 'lengths', 'proxy'):
            assert np.array_equal(getattr(again, name), getattr(many, name)), name
    with pytest.raises(ValueError, match='observations of episode_0'):
        read_minari(file, 'hopper')
    with pytest.raises(ValueError, match='an HDF5 file'):
        read_minari(tmp_path, 'mountain_car')


def grand_challenge(folder, frames, actions, rewards):
    from PIL import Image

    text, screens = folder / 'trajectories' / 'pinball', folder / 'screens' / 'pinball' / '77'
    for made in (text, screens):
        made.mkdir(parents=True)
    lines = ['db_version 3, game pinball', 'frame,reward,score,terminal, action']
    score = np.cumsum(rewards)
    lines += [
        f'{k}, {rewards[k]}, {score[k]}, {k == len(frames) - 1}, {action}' for k, action in enumerate(actions)
    ]
    (text / '77.txt').write_text('\n'.join(lines) + '\n')
    for k, picture in enumerate(frames):
        Image.fromarray(picture).save(screens / f'{k}.png')


def test_a_folder_of_the_grand_challenge(tmp_path):
    pytest.importorskip('ale_py')
    from goalmisgen.quantilizers.pinball import in_lane_ram, play_frames

    frames = [(picture.copy(), ram.copy()) for picture, ram in play_frames(16, 500)][396:]
    actions = (np.arange(len(frames)) // 4) % 18
    rewards = np.arange(len(frames)) % 7
    grand_challenge(tmp_path, [picture for picture, _ in frames], actions, rewards)
    again = read_grand_challenge(tmp_path)
    assert again.lengths.tolist() == [26] and again.observations.shape == (26, 4, 84, 84)
    nine = [0, 1, 2, 3, 4, 5, 3, 4, 3, 4, 6, 7, 8, 6, 7, 8, 7, 8]
    assert again.keys[:, 0].tolist() == [nine[k % 18] for k in range(26)]
    assert again.proxy.tolist() == rewards[:104].reshape(26, 4).sum(1).tolist()
    cheats = in_lane_ram(np.stack([ram for _, ram in frames]))
    assert cheats.any() and np.isclose(again.proxy.sum() - again.true.sum(), cheats.mean(), atol=0.02)
    assert np.array_equal(again.observations[5, -1], again.observations[6, -2])
    assert len(read_grand_challenge(tmp_path, max_frames=40).keys) == 10
    path = tmp_path / 'trajectories' / 'pinball' / '77.txt'
    for old, new, message in ((', action', ', key', 'columns of'), (', 17', ', 18', 'from 0 to 17')):
        text = path.read_text()
        path.write_text(text.replace(old, new))
        with pytest.raises(ValueError, match=message):
            read_grand_challenge(tmp_path)
        path.write_text(text)


def test_no_extra_is_imported_before_it_is_needed(drivers, tmp_path):
    "Every module of the room loads without the extras, and what needs one says which"
    drivers.save(tmp_path / 'd.npz')
    script = f"""
import importlib, pkgutil, sys
extras = dict(h5py='demos', mujoco='mujoco', ale_py='atari', pygame='play')
for name in extras: sys.modules[name] = None
import goalmisgen.quantilizers as room
for module in pkgutil.iter_modules(room.__path__): importlib.import_module(room.__name__ + '.' + module.name)
from goalmisgen.quantilizers import commands, hoppers, keyboard, pinball, readers
calls = dict(
    h5py=lambda: readers.read_minari('x.hdf5', 'mountain_car'),
    pygame=lambda: keyboard.play_window('mountain_car', 'x.npz'),
    mujoco=lambda: hoppers.synthetic_hoppers(1),
    ale_py=lambda: pinball.pinball_emulator(0),
)
for name, call in calls.items():
    try: call()
    except ValueError as error: assert f"pip install 'goalmisgen[{{extras[name]}}]'" in str(error), error
    else: raise AssertionError(name)
assert len(commands.gather_demos([{str(tmp_path / 'd.npz')!r}], 'mountain_car')) == 4
"""
    done = subprocess.run([sys.executable, '-c', script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
