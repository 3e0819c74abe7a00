"""Atari screens against PIL and the emulator itself, data against play, saliency against models that look
where they are told, and the commands"""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from goalmisgen import cli
from goalmisgen.rewards import commands, distances
from goalmisgen.pixels import small_screen
from goalmisgen.rewards.atari import (
    ATARI_GAMES,
    AtariScreen,
    Screens,
    collect_screens,
    hide_score,
    load_screens,
    make_raw_game,
    save_screens,
    scripted_player,
)
from goalmisgen.rewards.screens import (
    ScreenConfig,
    fit_screens,
    judge_screens,
    load_screen_model,
    overlay_saliency,
    reward_trace,
    save_overlay,
    save_screen_model,
    score_share,
    score_spots,
    screen_accuracy,
    screen_rewards,
    screen_saliency,
)
from PIL import Image


@pytest.fixture(scope='module')
def played():
    "Each game after sixty steps of its player"
    found = {}
    for name in ATARI_GAMES:
        env, player = AtariScreen(name), scripted_player(name, np.random.default_rng(1))
        env.reset(seed=1)
        for _ in range(60):
            if env.advance(player(env.ram))[1]:
                env.reset()
        found[name] = env
    return found


@pytest.mark.parametrize('name', ATARI_GAMES)
def test_small_screen_is_an_area_mean(played, name):
    frame = played[name].frames[-1]
    grey = np.asarray(Image.fromarray(frame).convert('L')).astype(float)
    fine = grey.repeat(2, 0).repeat(21, 1)  # 420 by 3360 parts of pixels, of which 5 by 40 make a new one
    assert abs(small_screen(frame) - fine.reshape(84, 5, 84, 40).mean((1, 3))).max() <= 1.01


@pytest.mark.parametrize('name', ATARI_GAMES)
def test_score_is_hidden_and_nothing_else(played, name):
    frame, game = played[name].frames[-1], ATARI_GAMES[name]
    inside = np.zeros((210, 160), bool)
    for top, bottom, left, right in game.boxes:
        inside[top:bottom, left:right] = True
    filled, blurred = (hide_score(frame, game, view) for view in ('fill', 'blur'))
    for hidden in (filled, blurred):
        assert np.array_equal(hidden[~inside], frame[~inside]) and not np.array_equal(hidden, frame)
    assert len(np.unique(filled[inside], axis=0)) == 1 and np.array_equal(
        hide_score(frame, game, 'show'), frame
    )
    colours, counts = np.unique(frame[inside], axis=0, return_counts=True)
    assert np.array_equal(filled[inside][0], colours[counts.argmax()]), (
        'filled with the colour that is around the digits'
    )
    assert blurred[inside].std() < frame[inside].std()


def test_steps_are_the_emulators():
    "Four frames for an action, the brighter pixel of the last two, points added up"
    env, raw = AtariScreen('breakout', noops=0), make_raw_game('breakout')
    env.reset(seed=4)
    raw.reset(seed=4)
    raw.unwrapped.np_random.integers(1)
    raw.step(1)
    for action in [1, 2, 2, 3, 3, 3, 0, 2] * 8:
        points, terminated, _ = env.advance(action)
        pictures, want = [], 0
        for _ in range(4):
            frame, reward, over, *_ = raw.step(action)
            pictures.append(frame)
            want += reward
        assert points == want and np.array_equal(env.frames[-1], np.maximum(*pictures[-2:]))
        if terminated:
            break
    assert env.observe().shape == (4, 84, 84) and env.observe().dtype == np.uint8


def test_lives_and_clipping():
    env = AtariScreen('breakout', life_ends=True, clip=True)
    env.reset(seed=0)
    lives, ended = env.unwrapped.ale.lives(), 0
    for _ in range(400):
        _, reward, terminated, _, info = env.step(2)
        assert reward == np.sign(info['points'])
        if terminated:
            ended += 1
            assert env.unwrapped.ale.lives() == lives - ended
            env.reset()
            if ended == 2:
                break
    assert ended == 2, 'a paddle in the corner loses the ball'


@pytest.fixture(scope='module')
def few():
    return collect_screens('breakout', 8, 3)


def test_collected_moments(few, tmp_path):
    assert np.bincount(few.rewards).tolist() == [4, 4]
    changed = few.shown != few.filled
    rows, columns = np.flatnonzero(changed.any((0, 1, 3))), np.flatnonzero(changed.any((0, 1, 2)))
    assert rows.max() < 7 and columns.min() >= 18 and columns.max() < 43, (
        'the views differ in the score alone'
    )
    rng = np.random.default_rng(
        3
    )  # played again: the moments with a reward are those in which points were won
    env, player, found, kept = AtariScreen('breakout'), scripted_player('breakout', rng), [], 0
    env.reset(seed=3)
    while len(found) < 4:
        points, terminated, truncated = env.advance(player(env.ram))
        if points:
            found.append(env.observe())
        elif kept < 4 and rng.random() < 0.05:
            kept += 1
        if terminated or truncated:
            env.reset()
    assert np.array_equal(np.stack(found), few.shown[few.rewards == 1])
    save_screens(few, tmp_path / 'a.npz')
    save_screens(Screens('pong', 0, 1, few.shown, few.filled, few.rewards), tmp_path / 'b.npz')
    with pytest.raises(ValueError, match='games in'):
        load_screens(tmp_path / 'a.npz', tmp_path / 'b.npz')
    save_screens(Screens('breakout', 0, 1, few.shown, few.filled[:4], few.rewards), tmp_path / 'c.npz')
    with pytest.raises(ValueError, match='moments in'):
        load_screens(tmp_path / 'c.npz')
    with pytest.raises(RuntimeError, match='moments with a reward in'):
        collect_screens('pong', 200, most_steps=20)
    assert collect_screens('pong', 4, stop=lambda: True) is None


class Looks(torch.nn.Module):
    "A model that pays the mean brightness of a patch of the last screen"

    def __init__(self, rows, columns):
        super().__init__()
        self.rows, self.columns = rows, columns

    def forward(self, x):
        return x[:, -1, self.rows, self.columns].mean((1, 2))[:, None] * 10


def test_saliency_is_where_a_model_looks():
    rng = np.random.default_rng(0)
    screens = rng.integers(0, 2, (2, 4, 84, 84), dtype=np.uint8) * 255
    for row, column in ((2, 3), (9, 9), (15, 4)):
        maps = screen_saliency(
            Looks(slice(5 * row - 2, 5 * row + 3), slice(5 * column - 2, 5 * column + 3)), screens
        )
        peak = np.unravel_index(maps.mean(0).argmax(), (17, 17))
        assert abs(peak[0] - row) <= 1 and abs(peak[1] - column) <= 1
    even, on_score = np.ones((3, 17, 17)), score_spots('seaquest')[None].astype(float)
    assert (
        np.isclose(score_share(even, 'seaquest'), score_spots('seaquest').mean())
        and score_share(on_score, 'seaquest') == 1
    )
    assert np.isclose(score_spots('seaquest').mean(), 0.048, atol=0.001) and np.isclose(
        score_spots('breakout').mean(), 0.048, atol=0.001
    )


def test_a_model_of_the_score_is_found_out(few):
    "A model that reads the score's box alone: its saliency lies there, and the toggle changes what it pays"
    reads = Looks(slice(2, 5), slice(24, 36))
    row, maps = judge_screens(reads, ScreenConfig(), few, looked_at=2)
    blind = Looks(slice(60, 70), slice(10, 70))
    other, _ = judge_screens(blind, ScreenConfig(), few, looked_at=2)
    assert row['share'] > 0.6 > 0.1 > other['share'] and maps.shape == (2, 17, 17)
    assert not np.allclose(screen_rewards(reads, few.shown), screen_rewards(reads, few.filled))
    assert (
        np.array_equal(screen_rewards(blind, few.shown), screen_rewards(blind, few.filled))
        and other['accuracy'] == other['toggled']
    )


def test_accuracy_is_of_the_nearest_reward():
    assert screen_accuracy(np.array([0.6, 0.4, -0.7, 3.0]), np.array([1, 0, -1, 1])) == 1
    assert screen_accuracy(np.array([0.4, 0.6]), np.array([1, 0])) == 0


def test_fit_learns_and_repeats(tmp_path):
    rewards = np.tile(np.array([0, 1], np.int8), 20)
    bright = np.broadcast_to((255 * (rewards != 0))[:, None, None, None], (40, 4, 84, 84)).astype(np.uint8)
    data = Screens('pong', 0, 1, bright, bright, rewards)
    config = ScreenConfig(epochs=4, batch=10, learning_rate=1e-3)
    net, again = fit_screens(data, config), fit_screens(data, config)
    paid = screen_rewards(net, bright)
    assert screen_accuracy(paid, rewards) == 1 and np.array_equal(paid, screen_rewards(again, bright))
    assert fit_screens(data, config, stop=lambda: True) is None
    save_screen_model(net, config, 'pong', tmp_path / 'm.npz')
    loaded, its_config, game = load_screen_model(tmp_path / 'm.npz')
    assert (its_config, game) == (config, 'pong') and np.array_equal(screen_rewards(loaded, bright), paid)
    with pytest.raises(ValueError, match='share of moments'):
        fit_screens(Screens('pong', 0, 1, bright, bright, rewards * 0), config)
    with pytest.raises(ValueError, match='screens'):
        screen_rewards(net, bright[:, :2])


def test_traces_and_films(tmp_path, played):
    trace = reward_trace(Looks(slice(2, 5), slice(24, 36)), 'breakout', 30, 2)
    assert (
        list(trace) == ['points', 'show', 'fill']
        and len(trace) == 30
        and (trace.show > trace.fill + 0.1).all()
    )
    frame = played['seaquest'].frames[-1]
    spot = np.zeros((17, 17))
    spot[8, 8] = 1
    over = overlay_saliency(frame, spot)
    added = over[..., 1].astype(int) - frame[..., 1].clip(1).astype(int)
    assert (
        np.array_equal(over[..., [0, 2]], frame[..., [0, 2]].clip(1))
        and not added[:60].any()
        and not added[150:].any()
    )
    assert added[105, 80] == added.max() > 100
    save_overlay(np.stack([frame, over]), tmp_path / 'f.gif', 4)
    assert Image.open(tmp_path / 'f.gif').n_frames == 2
    with pytest.raises(ValueError, match='ends in .gif'):
        save_overlay([frame], tmp_path / 'f.mp4')


def typed(*args):
    "Exit status of a command, in this process"
    try:
        cli.main([str(o) for o in args])
    except SystemExit as end:
        return end.code
    return 0


@pytest.mark.parametrize('name', commands.REWARD_COMMANDS)
def test_help(name, capsys):
    assert typed(name, '--help') == 0
    said = ' '.join(capsys.readouterr().out.replace('│', ' ').split())
    assert commands.REWARD_COMMANDS[name].__doc__.split('.')[0][:60] in said


@pytest.mark.parametrize(
    'args, message',
    [
        (('reward-data', 'x.npz', '--maze.goal', 'north'), 'coin flip'),
        (('reward-data', 'x.txt'), 'ends in .npz'),
        (('reward-fit', 'none.npz', 'x.npz'), 'No such file'),
        (('atari-data', 'chess', '.'), 'breakout, seaquest'),
        (('atari-data', 'pong', '.', '--count', '7', '--piece', '4'), 'a multiple of 4'),
        (('atari-fit', '.', 'pong'), 'see atari-data'),
        (('reward-agents', '.', '--agents', '6'), 'agents'),
        (('reward-scenes', 'none.npz'), 'No such file'),
        (('atari-film', 'm.npz', 'f.avi'), 'ends in .gif'),
    ],
)
def test_bad_input_is_said_in_a_line(tmp_path, monkeypatch, capsys, args, message):
    monkeypatch.chdir(tmp_path)
    assert typed(*args) == 2
    said = capsys.readouterr().err
    assert message in said and 'Traceback' not in said and not list(tmp_path.iterdir())


def test_reward_commands_go_on(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        distances,
        'REWARD_CASES',
        (distances.RewardCase('two', 0.2, 400), distances.RewardCase('fixed', 0.2, 400)),
    )
    monkeypatch.setattr(distances, 'ASKED_MAZES', ('two',))
    home = tmp_path / 'd'
    command = ('reward-distances', home, '--seeds', '1', '--workers', '1')
    assert typed(*command) == 0 and '2 of 2 cases' in capsys.readouterr().out
    table = pd.read_csv(home / 'distances.csv')
    assert len(table) == 2 and set(table.goal) == {'two', 'fixed'}
    next(home.glob('two-*.csv')).unlink()
    assert (
        typed(*command) == 0
        and '1 of 2 cases' in capsys.readouterr().out
        and pd.read_csv(home / 'distances.csv').equals(table)
    )
    monkeypatch.setattr(distances, 'compare_case', lambda *args: 1 / 0)
    next(home.glob('two-*.csv')).unlink()
    assert 'ZeroDivisionError' in typed(*command) and len(list(home.glob('fixed-*.csv'))) == 1


def test_agents_command(tmp_path, capsys):
    command = (
        'reward-agents',
        tmp_path,
        '--agents',
        '1',
        '--workers',
        '1',
        '--config.steps',
        '64',
        '--config.rollout',
        '64',
    )
    assert typed(*command) == 0 and '4 of 4 agents' in capsys.readouterr().out
    curves = pd.read_csv(tmp_path / 'curves.csv', dtype=dict(reward=str))
    assert (
        len(curves) == 8
        and curves[curves.reward == 'true'].learned_return.isna().all()
        and curves[curves.reward == 'learned'].learned_return.notna().all()
    )
    assert typed(*command) == 0 and '0 of 4 agents' in capsys.readouterr().out


def test_atari_commands_from_play_to_film(tmp_path, capsys):
    data, models = tmp_path / 'data', tmp_path / 'models'
    command = (
        'atari-data',
        'breakout',
        data,
        '--count',
        '8',
        '--test',
        '4',
        '--piece',
        '4',
        '--workers',
        '1',
    )
    assert typed(*command) == 0 and '3 of 3 pieces' in capsys.readouterr().out
    assert typed(*command) == 0 and '0 of 3 pieces' in capsys.readouterr().out
    fit = (
        'atari-fit',
        data,
        'breakout',
        '--out',
        models,
        '--seeds',
        '1',
        '--epochs',
        '1',
        '--looked-at',
        '1',
        '--workers',
        '1',
    )
    assert typed(*fit) == 0 and '2 of 2 models' in capsys.readouterr().out
    rows = [json.loads(p.read_text()) for p in models.glob('*.json')]
    assert {r['score'] for r in rows} == {'show', 'fill'} and all(
        r['trained_on'] == 8 and r['moments'] == 4 for r in rows
    )
    assert (
        typed(
            'atari-film', next(models.glob('*show*.npz')), tmp_path / 'f.gif', '--steps', '2', '--every', '2'
        )
        == 0
    )
    assert (tmp_path / 'f.gif').exists()
