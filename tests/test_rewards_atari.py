"""Atari screens against PIL and the emulator itself, data against play, saliency against models that look
where they are told, and the commands"""

import json
from dataclasses import replace
from functools import partial

import av
import numpy as np
import pandas as pd
import pytest
import torch
from goalmisgen import cli
from goalmisgen.agents.weights import load_sealed
from goalmisgen.pixels import small_screen
from goalmisgen.rewards import commands, distances
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
from goalmisgen.rewards.atari_agents import (
    AtariAgentConfig,
    LearnedScreenReward,
    evaluate_points,
    train_atari_agent,
)
from goalmisgen.rewards.screens import (
    ScreenConfig,
    fit_screens,
    judge_screens,
    load_screen_model,
    overlay_saliency,
    reward_trace,
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
    for hidden in (few.filled, few.blurred):
        changed = few.shown != hidden
        rows, columns = np.flatnonzero(changed.any((0, 1, 3))), np.flatnonzero(changed.any((0, 1, 2)))
        assert rows.max() < 7 and columns.min() >= 18 and columns.max() < 43, (
            'the views differ in the score alone'
        )
    assert not np.array_equal(few.filled, few.blurred) and few.view('blur') is few.blurred
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
    save_screens(replace(few, game='pong'), tmp_path / 'b.npz')
    with pytest.raises(ValueError, match='games in'):
        load_screens(tmp_path / 'a.npz', tmp_path / 'b.npz')
    save_screens(replace(few, filled=few.filled[:4]), tmp_path / 'c.npz')
    with pytest.raises(ValueError, match='moments in'):
        load_screens(tmp_path / 'c.npz')
    with pytest.raises(RuntimeError, match='moments with a reward in'):
        collect_screens('pong', 200, most_steps=20)
    assert collect_screens('pong', 4, stop=lambda: True) is None


class Looks(torch.nn.Module):
    "A model that pays the mean brightness of a patch of the last screen"

    def __init__(self, rows=slice(2, 5), columns=slice(24, 36)):
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
    data = Screens('pong', 0, 1, bright, bright, bright, rewards)
    config = ScreenConfig(epochs=4, batch=10, learning_rate=1e-3)
    net, again = fit_screens(data, config), fit_screens(data, config)
    paid = screen_rewards(net, bright)
    assert screen_accuracy(paid, rewards) == 1 and np.array_equal(paid, screen_rewards(again, bright))
    assert fit_screens(data, config, stop=lambda: True) is None
    save_screen_model(net, config, 'pong', tmp_path / 'm.npz')
    loaded, its_config, game = load_screen_model(tmp_path / 'm.npz')
    assert (its_config, game) == (config, 'pong') and np.array_equal(screen_rewards(loaded, bright), paid)
    with pytest.raises(ValueError, match='share of moments'):
        fit_screens(replace(data, rewards=rewards * 0), config)
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
        (('atari-film', 'm.npz', 'f.avi'), '.gif: an animation; .mp4: a video'),
        (('atari-film', 'none.npz', 'f.gif'), 'No such file'),
        (('reward-data', 'x.npz', '--walker', 'cat'), 'expert, ppo'),
        (('atari-agents', 'chess'), 'breakout, seaquest'),
        (('atari-agents', 'pong', '.', '--score', 'dim'), 'show, fill, blur'),
        (('atari-agents', 'pong', '.', '--reward', 'none.npz'), 'No such file'),
        (('atari-agents', 'pong', '.', '--config.batch', '100'), 'a divisor of envs*rollout'),
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


def test_agent_walks_for_data(tmp_path, capsys):
    command = ('reward-data', tmp_path / 'x.npz', '--walker', 'ppo', '--count', '300')
    assert typed(*command, '--agent.steps', '64', '--agent.rollout', '64') == 0
    said = capsys.readouterr().out
    assert 'an agent with a true return of' in said and '300 transitions' in said


def test_points_are_the_emulators():
    "Five lives of somebody who never moves: the game is played again, frame by frame"
    still = lambda screens: np.eye(4)[[0]]
    found = evaluate_points(still, 'breakout', games=2, seed=3)
    raw = make_raw_game('breakout')
    for game in range(2):
        raw.reset(seed=3 + game)
        points = steps = 0
        for _ in range(raw.unwrapped.np_random.integers(31)):
            raw.step(0)
        over = False
        while not over:
            raw.step(1)
            lives = raw.unwrapped.ale.lives()
            while not over and raw.unwrapped.ale.lives() == lives:
                for _ in range(4):
                    _, reward, over, *_ = raw.step(0)
                    points += reward
                    if over:
                        break
                steps += 1
            raw.step(0)
        row = found.loc[game]
        assert (row.points, row.length, row.lives) == (points, steps, 5) and np.isnan(row.learned)
    cut = evaluate_points(still, 'breakout', seed=3, games=1, max_steps=7, reward=(Looks(), 'show'))
    assert cut.length[0] == 7 and cut.learned[0] != 0


def test_a_game_goes_on_where_it_was(played):
    "Its console, and whatever it will draw at the next reset"
    for name in ('breakout', 'pong'):
        one, other = AtariScreen(name, life_ends=True), AtariScreen(name, life_ends=True)
        one.reset(seed=5)
        for _ in range(20):
            one.advance(3)
        other.load_state_dict(one.state_dict())
        for t in range(90):
            results = [env.step(3) for env in (one, other)]
            assert results[0][1:4] == results[1][1:4]
            if results[0][2] or t == 60:
                for env in (one, other):
                    env.over = t == 60
                    env.reset()
        assert np.array_equal(one.observe(), other.observe()) and np.array_equal(one.ram, other.ram)


TINY = AtariAgentConfig(
    steps=192, envs=2, rollout=32, epochs=1, batch=64, evaluate_every=128, games=1, save_every=128
)


def test_atari_agent_is_stopped_damaged_and_mixed_up(tmp_path, monkeypatch):
    "What was stopped is, in the end, what was not; it is paid by the model and judged by points"
    from goalmisgen.rewards import atari_agents

    judged = []
    monkeypatch.setattr(
        atari_agents,
        'evaluate_points',
        lambda policy, *args: judged.append(args) or pd.DataFrame([dict(game=0, points=len(judged))]),
    )
    reward = Looks(slice(60, 80), slice(0, 84)), 'fill'
    train = lambda folder, stop=lambda: False, **kwargs: train_atari_agent(
        'breakout', tmp_path / folder, **{**dict(reward=reward, config=TINY), **kwargs}, stop=stop
    )
    before = torch.get_rng_state().tolist(), np.random.get_state()[1].tolist()
    whole = train('whole')
    assert whole.steps.tolist() == [0, 128, 192] and judged[0][:3] == ('breakout', 'show', 1)
    for _ in range(2):
        assert train('parts', partial(next, iter([False, True]), False)) is None
        assert len(pd.read_csv(tmp_path / 'parts/curve.csv')) in (1, 2)
    train('parts')
    assert before == (torch.get_rng_state().tolist(), np.random.get_state()[1].tolist())
    ends = [load_sealed(tmp_path / name / 'checkpoint.pt') for name in ('whole', 'parts')]
    assert all(torch.equal(v, ends[1]['policy'][k]) for k, v in ends[0]['policy'].items())
    assert torch.equal(ends[0]['games'][1]['console'], ends[1]['games'][1]['console'])
    by_points = train('points', reward=None)
    assert len(by_points) == 3 and not all(
        torch.equal(v, ends[0]['policy'][k])
        for k, v in load_sealed(tmp_path / 'points/checkpoint.pt')['policy'].items()
    )
    with pytest.raises(ValueError, match='agent in'):
        train('whole', seed=1)
    path = tmp_path / 'parts/checkpoint.pt'
    path.write_bytes(path.read_bytes()[:-90])
    with pytest.raises(ValueError, match='not a readable checkpoint'):
        train('parts')


def test_learned_screen_reward_keeps_the_truth():
    env = LearnedScreenReward(AtariScreen('breakout', 'fill', clip=True, life_ends=True), Looks(), 'show')
    env.reset(seed=0)
    ends = 0
    for _ in range(120):
        screens, paid, ended, _, info = env.step(0)
        seen = env.env.observe('show')
        assert np.isclose(paid, screen_rewards(Looks(), seen[None])[0])
        assert info['true_reward'] == np.sign(info['points']) and not np.array_equal(screens, seen)
        if ended:
            ends += 1
            env.reset()
    assert ends, 'the last screens of a life are paid too, not those of the next'
    with pytest.raises(ValueError, match='show, fill, blur'):
        LearnedScreenReward(env.env, Looks(), 'dim')


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
        '--count',
        '4',
        '--scores',
        'show',
        'blur',
    )
    assert typed(*fit) == 0 and '2 of 2 models' in capsys.readouterr().out
    rows = [json.loads(p.read_text()) for p in models.glob('*.json')]
    assert {r['score'] for r in rows} == {'show', 'blur'} and all(
        r['trained_on'] == 4 and r['moments'] == 4 for r in rows
    )
    assert typed(*fit[:-4], '6') == 2 and 'the first pieces: 4, 8' in capsys.readouterr().err
    model, film = next(models.glob('*show*.npz')), tmp_path / 'f.mp4'
    assert typed('atari-film', model, film, '--steps', '3', '--every', '2', '--ms', '600') == 0
    with av.open(str(film)) as box:
        assert [(p.width, p.height) for p in box.decode(video=0)] == [(320, 420)] * 3  # the last stays on
    agents = tmp_path / 'agents'
    command = ('atari-agents', 'breakout', agents, '--reward', model, '--workers', '1', '--config.games', '1')
    command += (
        '--config.steps',
        '32',
        '--config.envs',
        '1',
        '--config.rollout',
        '32',
        '--config.batch',
        '32',
    )
    assert typed(*command) == 0 and '1 of 1 agents' in capsys.readouterr().out
    assert typed(*command) == 0 and '0 of 1 agents' in capsys.readouterr().out
    curve = pd.read_csv(next(agents.glob('*.csv')))
    assert curve.steps.tolist() == [0, 32] and curve[['points', 'learned']].notna().all(None)
    assert typed(*command[:1], 'pong', *command[2:]) == 2 and 'game of' in capsys.readouterr().err
