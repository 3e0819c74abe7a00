"Tasks with two rewards, pinball's detectors, playing, and playing by hand"

import math

import gymnasium
import numpy as np
import pytest
from goalmisgen import pixels
from goalmisgen.quantilizers import keyboard, tasks
from goalmisgen.quantilizers.demos import load_demos
from goalmisgen.quantilizers.playing import RandomHands, play, play_cars, record
from goalmisgen.quantilizers.tasks import (
    FLAG,
    ankle_rule,
    car_step,
    draw_car,
    find_task,
    hopper_joints,
    make_task,
    need,
    to_action,
)


def test_cars_are_gymnasiums_bit_for_bit():
    rng = np.random.default_rng(3)
    envs = [gymnasium.make('MountainCar-v0', max_episode_steps=10**6) for _ in range(6)]
    for k, env in enumerate(envs):
        env.reset(seed=k)
    position, velocity = np.array([env.unwrapped.state for env in envs]).T
    walls = arrived = 0
    for t in range(700):
        keys = (
            np.where(rng.random(6) < 0.9, np.where(velocity >= 0, 2, 0), rng.integers(3, size=6))
            if t < 400
            else np.zeros(6, int)
        )
        position, velocity, done = car_step(position, velocity, keys)
        for k, env in enumerate(envs):
            seen, reward, over, _, _ = env.step(int(keys[k]))
            assert (
                tuple(env.unwrapped.state) == (position[k], velocity[k]) and over == done[k] and reward == -1
            )
            assert seen.tobytes() == np.array([position[k], velocity[k]], np.float32).tobytes()
        walls += int((position == tasks.LEFT_WALL).sum())
        arrived += int(done.sum())
    assert walls and arrived, 'the walk should meet the wall and the flag'


def test_the_car_pays_its_position_and_reports_both():
    env = make_task('mountain_car')
    env.reset(seed=1)
    for step in range(200):
        seen, reward, over, cut, info = env.step(step % 3)
        assert reward == info['proxy'] == float(seen[0]) and info['true'] == -1
    assert cut and not over


def test_the_ankle_is_paid_once_at_the_end_also_when_time_is_up():
    rule = ankle_rule()
    angles = [0.3, -0.1, 0.7]
    paid = [rule(np.array([0, 0, 0, 0, a]), 2.0, k == 2) for k, a in enumerate(angles)]
    assert paid[0] == paid[1] == (0.0, 2.0) and math.isclose(paid[2][0], np.mean(angles))
    pytest.importorskip('mujoco')
    env = make_task('hopper', 5)
    raw = gymnasium.make('Hopper-v5')
    env.reset(seed=4), raw.reset(seed=4)
    seen = []
    for _step in range(5):
        observation, reward, over, cut, info = env.step(np.array([0.1, 0, -0.1]))
        expected = raw.step(np.array([0.1, 0, -0.1]))
        seen.append(observation[4])
        assert np.array_equal(observation, expected[0]) and info['true'] == expected[1]
    assert cut and math.isclose(reward, np.mean(seen)) and reward == info['proxy']
    env.reset(seed=5)
    assert env.step(np.zeros(3))[1] == 0.0, 'a new episode begins a new mean'


def test_the_stick_figure_stands_where_the_simulator_says():
    pytest.importorskip('mujoco')
    env = make_task('hopper')
    env.reset(seed=0)
    for _step in range(25):
        env.step(np.array([0.4, -0.6, 0.9]))
    data = env.unwrapped.data
    joints = hopper_joints(data.qpos)
    hip, knee, ankle = (data.joint(f'{part}_joint').xanchor[[0, 2]] for part in ('thigh', 'leg', 'foot'))
    assert np.allclose(joints[1:4], [hip, knee, ankle], atol=0.02)
    foot = data.geom('foot_geom').xpos[[0, 2]]
    assert np.allclose(joints[4:].mean(0), foot, atol=0.02)


def test_pictures_and_keys():
    assert draw_car(FLAG).shape == (160, 240, 3) and (draw_car(-0.5) != draw_car(0.4)).any()
    assert to_action(find_task('hopper'), [0, 1, 2]).tolist() == [-1, 0, 1]
    with pytest.raises(ValueError, match=r"pip install 'goalmisgen\[mujoco\]'"):
        need('not_a_simulator', 'mujoco')
    with pytest.raises(ValueError, match='mountain_car, hopper, pinball'):
        make_task('pong')
    with pytest.raises(ValueError, match='horizon'):
        make_task('mountain_car', 0)


class Pumpers(RandomHands):
    def probs(self, observations):
        right = (observations[..., 1] >= 0) * 1.0
        return np.stack([0.9 - 0.8 * right, 0.1 + 0 * right, 0.8 * right], -1)[:, :, None]


def test_many_cars_and_one_environment_after_the_other_agree():
    fast, slow = (how(Pumpers('mountain_car', 2), 2, 5, 'argmax') for how in (play_cars, play))
    assert np.array_equal(fast.true, slow.true) and np.allclose(fast.proxy, slow.proxy, atol=1e-9)
    alone = play_cars(Pumpers('mountain_car', 1), 3, 5)
    both = play_cars(Pumpers('mountain_car', 2), 3, 5)
    assert np.array_equal(alone.true[0], both.true[0]) and np.array_equal(alone.proxy[0], both.proxy[0])
    assert not np.array_equal(both.proxy[0], both.proxy[1]), 'each policy has luck of its own'
    demos = record(Pumpers('mountain_car', 1), 2, 5, 'argmax')
    assert np.allclose(demos.true_returns, fast.true[0]) and np.allclose(demos.proxy_returns, fast.proxy[0])


def test_pinball_detectors_and_rewards():
    pytest.importorskip('ale_py')
    from goalmisgen.quantilizers import pinball

    frames = [(picture.copy(), ram.copy()) for picture, ram in pinball.play_frames(16, 600)]
    ram = pinball.in_lane_ram(np.stack([r for _, r in frames]))
    patches = pinball.lane_patch(np.stack([p for p, _ in frames]))
    assert ram.sum() > 10 and (ram == pinball.in_lane_patch(patches)).mean() > 0.995
    weights = pixels.area_weights(7, 3)
    assert np.allclose(weights.sum(1), 1) and np.allclose(weights[0], [3 / 7, 3 / 7, 1 / 7, 0, 0, 0, 0])
    env = pinball.PinballEnv(horizon=30, lam=10)
    seen, _ = env.reset(seed=3)
    total = np.zeros(2)
    for step in range(30):
        seen, reward, over, cut, info = env.step(1)
        total += [info['proxy'], info['true']]
        assert reward == info['proxy'] and (step < 29) == (not cut)
    assert seen.shape == (4, 84, 84) and math.isclose(total[0] - total[1], 10 * info['cheat'])
    again = pinball.PinballEnv(horizon=30)
    again.reset(seed=3)
    for _step in range(30):
        other = again.step(1)[0]
    assert np.array_equal(seen, other)
    with pytest.raises(ValueError, match='reset'):
        pinball.PinballEnv().step(0)


def test_a_window_records_and_goes_on(tmp_path, monkeypatch):
    pygame = pytest.importorskip('pygame')
    monkeypatch.setenv('SDL_VIDEODRIVER', 'dummy')
    key = dict(down=pygame.KEYDOWN, up=pygame.KEYUP)

    def script(*events):
        waiting = iter(events)

        def get():
            event = next(waiting, None)
            return [pygame.event.Event(key[event[0]], key=event[1])] if event else []

        return get

    path = tmp_path / 'mine.npz'
    monkeypatch.setattr(pygame.event, 'get', script(('down', pygame.K_d), None, None, ('up', pygame.K_d)))
    assert keyboard.play_window('mountain_car', path, episodes=1, fps=1000, horizon=6) == 1
    assert load_demos(path).keys[:, 0].tolist() == [2, 2, 2, 1, 1, 1]
    monkeypatch.setattr(pygame.event, 'get', script(('down', pygame.K_a), None, ('down', pygame.K_BACKSPACE)))
    assert keyboard.play_window('mountain_car', path, episodes=1, fps=1000, horizon=6) == 2
    assert load_demos(path).lengths.tolist() == [6, 6]
    monkeypatch.setattr(pygame.event, 'get', script(None, None, ('down', pygame.K_ESCAPE)))
    assert keyboard.play_window('mountain_car', path, fps=1000, horizon=6) == 2, (
        'a broken-off episode is not kept'
    )
    with pytest.raises(ValueError, match='another file'):
        keyboard.play_window('hopper', path)
