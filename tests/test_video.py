"""Films: what is drawn is what the policy said and did, what is written is what was drawn, and nothing is
left half done"""

import re

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from goalmisgen.agents.impala import Policy, save_policy
from goalmisgen.env.levels import DUEL, WALL, MazeSpec, generate
from goalmisgen.env.maze import MazeEnv
from goalmisgen.env.render import Renderer
from goalmisgen.evaluation.questions import Setting
from goalmisgen.films.episodes import play_episode, play_together
from goalmisgen.films.video import save_film, save_gif, save_mp4, save_png, save_pngs
from goalmisgen.films.film import GAP, film, film_size, move_diagram
from goalmisgen.films.storyboard import level_sheet, storyboard
from goalmisgen.films.watch import WatchOptions, load_agents, most_discriminating_row, watch

pytestmark = pytest.mark.slow

BLACK, TEXTURED = Setting('red line', 'yellow gem'), Setting('cyan line', 'purple gem', 'textured')
LEVELS = generate(DUEL, np.arange(100_000, 100_004))
# the moves of the game's fifteen actions, by the directions of its buttons
BUTTONS = {
    'left': (0, 1, 2),
    'down': (3,),
    'up': (5,),
    'right': (6, 7, 8),
    'stay': (4, 9, 10, 11, 12, 13, 14),
}
STEPS = {'left': (-1, 0), 'down': (0, -1), 'up': (0, 1), 'right': (1, 0), 'stay': (0, 0)}


def lopsided(frames):
    "A policy whose answer depends on the picture: reproducible, different in every state, no move impossible"
    seed = frames.reshape(len(frames), -1).long().sum(1)
    return torch.stack(
        [torch.rand(15, generator=torch.Generator().manual_seed(int(s))) ** 3 + 0.01 for s in seed]
    ).softmax(1)


def up_or_right(frames):
    p = torch.zeros(len(frames), 15)
    p[:, [5, 7]] = 0.5
    return p


@pytest.fixture(scope='module')
def agents(tmp_path_factory):
    "Two untrained agents in their folders"
    home = tmp_path_factory.mktemp('population')
    return [save_policy(Policy(n), home / f'agent-{n}', {}) for n in (0, 1)]


@pytest.fixture(scope='module', params=[BLACK, TEXTURED], ids=['black', 'textured'])
def episode(request):
    return play_episode(lopsided, request.param, LEVELS[1:2], seed=2, max_steps=12)


def read_gif(path):
    "Frames and milliseconds of each"
    with Image.open(path) as im:
        return zip(
            *[
                (np.array(im.convert('RGB')), im.info['duration'])
                for i in range(im.n_frames)
                if im.seek(i) is None
            ]
        )


# Playing


def test_frames_moves_and_cells_tell_the_same_story(episode):
    e, size = episode, 5
    renderer = Renderer(size, (e.setting.obj1, e.setting.obj2), e.setting.background)
    zero = torch.zeros(1, dtype=torch.int64)
    for t in range(len(e.frames)):
        drawn = renderer.frames(
            renderer.scenes(e.level), zero, zero + int(e.cells[t]), zero + int(e.facing[t])
        )[0]
        assert np.array_equal(drawn.numpy(), e.frames[t])
    names = list(STEPS)
    for t, m in enumerate(e.moves):
        x, y = e.cells[t] % size, e.cells[t] // size
        dx, dy = STEPS[names[m]]
        free = 0 <= x + dx < size and 0 <= y + dy < size and e.level.grid[0, y + dy, x + dx] != WALL
        assert e.cells[t + 1] == (x + dx + size * (y + dy) if free else e.cells[t])
        assert e.facing[t + 1] == (dx > 0 if dx else e.facing[t])


def test_probabilities_are_the_policys(episode):
    want = lopsided(torch.as_tensor(episode.frames[:-1])).numpy()
    assert np.allclose(episode.probs, want, atol=1e-6)
    for m, actions in enumerate(BUTTONS.values()):
        assert np.allclose(episode.move_probs[:, m], want[:, actions].sum(1), atol=1e-6)


def test_moves_are_drawn_with_their_probabilities():
    begin, n = (0, 1), 2000
    rng = torch.Generator().manual_seed(0)
    first = [play_episode(lopsided, BLACK, LEVELS[:1], rng, max_steps=1, begin=begin) for _ in range(n)]
    p = first[0].move_probs[0]
    counts = np.bincount([e.moves[0] for e in first], minlength=5)
    assert (abs(counts - n * p) < 4.5 * np.sqrt(n * p * (1 - p)) + 1).all()
    assert play_episode(lopsided, BLACK, LEVELS[:1], begin=begin, greedy=True, max_steps=1).moves[
        0
    ] == np.argmax(
        [lopsided(torch.as_tensor(first[0].frames[:1]))[0, list(a)].max() for a in BUTTONS.values()]
    )


def test_an_episode_begins_in_any_state():
    level = LEVELS[2:3]
    open_cells = [c for c in range(25) if level.grid[0, c // 5, c % 5] == 0]
    for cell in range(25):
        for facing in (0, 1):
            if cell in open_cells:
                e = play_episode(lopsided, BLACK, level, begin=(cell, facing), max_steps=1)
                assert (e.cells[0], e.facing[0]) == (cell, facing)
            else:
                with pytest.raises(ValueError, match=f'cell to begin at: got {cell};'):
                    play_episode(lopsided, BLACK, level, begin=(cell, facing))


def test_an_episode_of_the_environment():
    "The same buttons pressed in `MazeEnv` show the same frames"
    e = play_episode(up_or_right, BLACK, LEVELS[:1], seed=1)
    env = MazeEnv(1, DUEL, 'black', num_levels=1, start_level=100_000, objects=('red line', 'yellow gem'))
    for t, m in enumerate(e.moves):
        assert np.array_equal(env.frames()[0].numpy(), e.frames[t])
        reward, done = env.step([list(BUTTONS.values())[m][0]])
        assert bool(done) == (t == len(e.moves) - 1)
    assert float(reward) == {0: 0, 1: 10, 2: -10}[e.outcome] and e.outcome


@pytest.mark.parametrize('size', [3, 9, 25])
def test_other_sizes(size):
    e = play_episode(lopsided, TEXTURED, generate(MazeSpec(size, (10.0, -10.0)), [5]), max_steps=3)
    assert e.frames.shape[1:] == (64, 64, 3) and e.level.size == size


def test_together_and_alone_are_the_same():
    both = play_together([lopsided, up_or_right], BLACK, LEVELS, seed=4, frames=60)
    alone = play_together([up_or_right], BLACK, LEVELS, seed=4, frames=60)
    for (_, a), (b,) in zip(both, alone):
        n = min(len(a.moves), len(b.moves))
        assert n and np.array_equal(a.moves[:n], b.moves[:n])
    assert [int(row[0].level.seeds[0]) for row in both] == [100_000, 100_001, 100_002, 100_003][: len(both)]
    assert sum(max(len(e.frames) for e in row) for row in both) <= 60


@pytest.mark.parametrize(
    'policy, message',
    [(lambda f: torch.ones(1, 15), 'action_probs'), (lambda f: torch.ones(1, 5) / 5, 'shape of action')],
)
def test_a_policy_that_gives_no_probabilities(policy, message):
    with pytest.raises(ValueError, match=message):
        play_episode(policy, BLACK, LEVELS)


# Writing


def test_png_frames_are_exact(episode, tmp_path):
    folder = save_pngs(episode.frames, tmp_path / 'frames')
    files = sorted(folder.iterdir())
    assert [p.name for p in files] == [f'frame-{i:04}.png' for i in range(len(episode.frames))]
    for p, f in zip(files, episode.frames):
        big = np.asarray(Image.open(p))
        assert big.shape == (384, 384, 3) and all(
            np.array_equal(big[i::6, j::6], f) for i in range(6) for j in range(6)
        )


def test_gif(episode, tmp_path):
    frames, times = read_gif(save_gif(episode.frames, tmp_path / 'a.gif', scale=2))
    assert sum(times) == 200 * (len(episode.frames) - 1) + 1200
    shown = [f for f, ms in zip(frames, times) for _ in range((ms - 1000 * (f is frames[-1])) // 200)]
    assert len(shown) == len(episode.frames)
    error = np.stack([abs(a[::2, ::2].astype(int) - b) for a, b in zip(shown, episode.frames)])
    if episode.setting.background == 'black':
        assert not error.any()
    else:
        of_object = (episode.frames == (0, 255, 255)).all(-1)
        assert of_object.any() and not error[of_object].any()
        assert error.mean() < 1.5


def test_gif_of_more_colours_than_it_can_hold(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)
    noise[0, :20] = (255, 0, 0)
    first = read_gif(save_gif(noise, tmp_path / 'a.gif'))
    first = list(first)[0][0].astype(int)
    assert (first[:20] == (255, 0, 0)).all()
    assert abs(first - noise[0]).mean() < 20


@pytest.mark.parametrize('height, scale', [(64, 6), (64, 2), (33, 1)])
def test_mp4(episode, tmp_path, height, scale):
    av = pytest.importorskip('av', reason='the extra `video` is not installed')
    frames = episode.frames[:, :height]
    path = save_mp4(frames, tmp_path / 'a.mp4', scale=scale)
    with av.open(str(path)) as box:
        stream = box.streams.video[0]
        decoded = list(box.decode(stream))
        shown, grey = [f.to_ndarray(format='rgb24') for f in decoded], decoded[0].to_ndarray(format='gray')
        assert float(stream.average_rate) == 5 and stream.codec_context.pix_fmt == 'yuv420p'
    assert len(shown) == len(frames) + 5
    want = np.repeat(np.repeat(frames, scale, 1), scale, 2)
    h = want.shape[1]
    assert shown[0].shape == (h + h % 2, want.shape[2], 3)
    if h % 2:
        assert (grey[-1] > 225).all()
    for i, f in enumerate(shown):
        error = abs(f[:h].astype(int) - want[min(i, len(want) - 1)])
        assert error.mean() < (3 if scale > 1 else 12)
        if scale > 1:
            assert error.max() <= 12


@pytest.mark.parametrize('name', ['a.gif', 'a.mp4', 'frames'])
def test_same_frames_same_bytes(episode, tmp_path, name):
    if name == 'a.mp4':
        pytest.importorskip('av', reason='the extra `video` is not installed')

    def written():
        path = save_film(episode.frames, tmp_path / name, scale=2)
        return [p.read_bytes() for p in (sorted(path.iterdir()) if path.is_dir() else [path])]

    first = written()
    assert written() == first
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_a_film_that_fails_leaves_the_old_one(episode, tmp_path, monkeypatch):
    "Also a folder: the new frames replace the old ones together or not at all"
    gif, folder = (
        save_film(episode.frames[:3], tmp_path / 'a.gif'),
        save_film(episode.frames[:3], tmp_path / 'frames'),
    )
    before = gif.read_bytes()
    save, calls = Image.Image.save, []

    def breaks(self, path, *args, **kwargs):
        calls.append(path)
        if len(calls) % 3 == 0:
            save(self, path, *args, **kwargs)
            raise OSError('disk full')
        return save(self, path, *args, **kwargs)

    monkeypatch.setattr(Image.Image, 'save', breaks)
    with pytest.raises(OSError, match='disk full'):
        save_pngs(episode.frames, folder)
    calls[:] = [0, 0]
    with pytest.raises(OSError, match='disk full'):
        save_gif(episode.frames, gif)
    monkeypatch.undo()
    assert gif.read_bytes() == before and len(list(folder.iterdir())) == 3
    assert sorted(p.name for p in tmp_path.iterdir()) == ['a.gif', 'frames']


def test_a_folder_with_other_files_is_left_alone(episode, tmp_path):
    (tmp_path / 'thesis.tex').write_text('five years of work')
    with pytest.raises(ValueError, match='holds only frames'):
        save_film(episode.frames, tmp_path / '')
    with pytest.raises(ValueError, match='holds only frames'):
        save_pngs(episode.frames, tmp_path / 'thesis.tex')
    assert [p.name for p in tmp_path.iterdir()] == ['thesis.tex']


def test_a_shorter_film_replaces_all_frames(episode, tmp_path):
    save_pngs(episode.frames, tmp_path / 'frames')
    assert len(list(save_pngs(episode.frames[:2], tmp_path / 'frames').iterdir())) == 2


@pytest.mark.parametrize(
    'frames, extra, message',
    [
        (np.zeros((0, 64, 64, 3), np.uint8), {}, 'T at least 1'),
        (np.zeros((2, 64, 64, 3)), {}, 'uint8'),
        (np.zeros((64, 64, 3), np.uint8), {}, 'uint8'),
        (np.zeros((2, 64, 64, 3), np.uint8), {'scale': 0}, 'scale: got 0'),
        (np.zeros((2, 64, 64, 3), np.uint8), {'scale': 2.0}, 'scale: got 2.0'),
        (np.zeros((2, 64, 64, 3), np.uint8), {'ms': 0}, 'ms: got 0'),
        (np.zeros((2, 64, 64, 3), np.uint8), {'hold': -1}, 'hold: got -1'),
        (np.broadcast_to(np.uint8(0), (40_000, 64, 64, 3)), {'scale': 32}, 'size of the film'),
        (np.broadcast_to(np.uint8(0), (1, 64, 10_000, 3)), {'scale': 2}, 'size of the film'),
    ],
)
def test_no_film(frames, extra, message, tmp_path):
    with pytest.raises(ValueError, match=re.escape(message)):
        save_gif(frames, tmp_path / 'a.gif', **extra)
    assert not list(tmp_path.iterdir())


def test_without_the_extra(episode, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__('sys').modules, 'av', None)
    with pytest.raises(ValueError, match=r"goalmisgen\[video\]"):
        save_film(episode.frames, tmp_path / 'a.mp4')
    assert not list(tmp_path.iterdir())


def test_png_suffix(tmp_path):
    with pytest.raises(ValueError, match='suffix of the picture'):
        save_png(np.zeros((2, 2, 3), np.uint8), tmp_path / 'a.jpg')


# Drawing


def is_colour(picture, rgb):
    return (abs(picture.astype(int) - rgb) <= 12).all(-1)


CHOSEN, OTHER = (180, 68, 31), (138, 151, 165)


def heights(diagram):
    "The columns' heights from 0 to 1 as they are drawn, and which has the colour"
    width = diagram.shape[1]
    full, mine = np.zeros(5), None
    for m in range(5):
        x = round((m + 0.5) * width / 5) - 1
        line = diagram[8:42, x]
        full[m] = (is_colour(line, CHOSEN) | is_colour(line, OTHER)).sum() / 34
        if is_colour(diagram[50:60, round(m * width / 5) : round((m + 1) * width / 5)], CHOSEN).sum() > 40:
            mine = m
    return full, mine


@pytest.mark.parametrize('width', [128, 192, 256, 384])
def test_columns_are_as_high_as_the_probabilities(width):
    rng = np.random.default_rng(width)
    for p in rng.dirichlet(np.ones(5) * 0.7, 12):
        m = int(rng.integers(5))
        drawn, mine = heights(move_diagram(p, m, width))
        assert abs(drawn - p).max() <= 1.01 / 34 and mine == m
    assert heights(move_diagram([0, 0, 1, 0, 0], None, width)) == (pytest.approx([0, 0, 1, 0, 0]), None)


def test_a_film_shows_frames_probabilities_and_moves(episode):
    scale, other = 3, play_episode(up_or_right, episode.setting, episode.level)
    frames = film([[episode, other]], ['a', 'b'], scale)
    assert (
        frames.shape == (max(len(episode.frames), len(other.frames)), *film_size(2, scale), 3)
        and frames.dtype == np.uint8
    )
    top, side = GAP // 2 + 34 + 26, 64 * scale
    for t, picture in enumerate(frames):
        for left, e in ((GAP // 2, episode), (GAP // 2 + side + GAP, other)):
            pane = picture[:, left : left + side]
            assert np.array_equal(pane[top : top + side : scale, ::scale], e.frames[min(t, len(e.moves))])
            if t < len(e.moves):
                drawn, mine = heights(pane[top + side : top + side + 80])
                want = [float(e.probs[t][list(a)].sum()) for a in BUTTONS.values()]
                assert abs(drawn - want).max() <= 1.01 / 34 and mine == e.moves[t]
            else:
                assert (pane[top + side : top + side + 80] == (238, 241, 244)).all(-1).sum() < 50
    assert np.array_equal(frames[-1], film([[episode, other]], ['a', 'b'], scale)[-1])


def test_a_film_rests_between_levels_only():
    rows = play_together([up_or_right], BLACK, LEVELS, frames=100)
    frames = film(rows, ['a'], 2, pause=3)
    lengths = [len(e.frames) for (e,) in rows]
    assert len(frames) == sum(lengths) + 3 * (len(rows) - 1)
    end = lengths[0] - 1
    assert all(np.array_equal(frames[end], frames[end + i]) for i in (1, 2, 3)) and not np.array_equal(
        frames[end], frames[end + 4]
    )


def test_without_probabilities(episode):
    plain = film([[episode]], ['a'], 2, probs=False)
    assert (plain[0][-80 - GAP // 2 :] == 255).all() and not (
        film([[episode]], ['a'], 2)[0][-80 - GAP // 2 :] == 255
    ).all()


def test_a_storyboard_draws_the_way(episode):
    import matplotlib.pyplot as plt

    fig = storyboard(episode, pictures=6)
    last = fig.axes[-1]
    x, y = last.lines[0].get_data()
    assert len(fig.axes) == 6 and len(x) == len(episode.cells)
    assert np.array_equal(np.floor((np.asarray(x[:-1]) + 0.5) / 12.8), episode.cells[:-1] % 5)
    assert np.array_equal(4 - np.floor((np.asarray(y[:-1]) + 0.5) / 12.8), episode.cells[:-1] // 5)
    assert np.array_equal(last.images[0].get_array()[::4, ::4], episode.frames[-1])
    plt.close(fig)


@pytest.mark.parametrize('side', [16, 32, 64, 128])
def test_every_level_is_on_its_place(side):
    seeds, cols, step = range(100_000, 100_013), 5, side + 2
    sheet = level_sheet(BLACK, seeds, cols, side)
    assert sheet.shape == (3 * step, 50 + cols * step, 3)
    for i, seed in enumerate(seeds):
        env = MazeEnv(1, DUEL, 'black', num_levels=1, start_level=seed, objects=('red line', 'yellow gem'))
        want = Image.fromarray(env.frames()[0].numpy()).resize(
            (side, side), Image.BOX if side < 64 else Image.NEAREST
        )
        y, x = i // cols * step, 50 + i % cols * step
        assert abs(sheet[y : y + side, x : x + side].astype(int) - np.asarray(want)).max() <= 1
    assert (sheet[2 * step :, 50 + 3 * step :] == 255).all()


def test_sheets_that_cannot_be():
    for kwargs, message in (
        ({'side': 48}, 'side'),
        ({'cols': 0}, 'columns'),
        ({'seeds': []}, 'seeds'),
        ({'side': 6400}, 'size of the film'),
    ):
        with pytest.raises(ValueError, match=message):
            level_sheet(BLACK, **kwargs)


# Watching


@pytest.mark.parametrize('name', ['a.gif', 'a.mp4', 'frames', 'story.svg', 'story.png', 'A.GIF'])
def test_watch_writes_what_the_suffix_says(agents, tmp_path, name):
    if name == 'a.mp4':
        pytest.importorskip('av', reason='the extra `video` is not installed')
    options = WatchOptions(levels=2, frames=8, scale=2)
    path = watch(agents, tmp_path / name, options)
    data = [p.read_bytes() for p in (sorted(path.iterdir()) if path.is_dir() else [path])]
    starts = {
        'a.gif': b'GIF89a',
        'A.GIF': b'GIF89a',
        'a.mp4': b'\0\0\0',
        'frames': b'\x89PNG',
        'story.svg': b'<?xml',
        'story.png': b'\x89PNG',
    }
    assert path == tmp_path / name and data[0].startswith(starts[name])
    assert [
        p.read_bytes()
        for p in (
            sorted(watch(agents, path, options).iterdir())
            if path.is_dir()
            else [watch(agents, path, options)]
        )
    ] == data
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_watch_shows_the_agents_on_the_level(agents, tmp_path):
    folder = watch(
        agents[1],
        tmp_path / 'frames',
        WatchOptions('blue line', 'white gem', 'grey', level=100_007, cell=None, scale=2, frames=5, seed=3),
    )
    e = play_together(
        [Policy(1).eval()], Setting('blue line', 'white gem', 'grey'), generate(DUEL, [100_007]), 3, frames=5
    )[0][0]
    want = film([[e]], ['agent 1'], 2)
    assert all(
        np.array_equal(np.asarray(Image.open(p)), f)
        for p, f in zip(sorted(folder.iterdir()), want, strict=True)
    )


def test_watch_from_a_state(agents, tmp_path):
    level = generate(DUEL, [100_001])
    cell = max(c for c in range(25) if level.grid[0, c // 5, c % 5] == 0)
    folder = watch(
        agents[0], tmp_path / 'frames', WatchOptions(level=100_001, cell=cell, facing=1, scale=2, frames=3)
    )
    env = Renderer(5, ('red line', 'yellow gem'))
    zero = torch.zeros(1, dtype=torch.int64)
    want = env.frames(env.scenes(level), zero, zero + cell, zero + 1)[0].numpy()
    got = np.asarray(Image.open(sorted(folder.iterdir())[0]))
    top = GAP // 2 + 34 + 26
    assert np.array_equal(got[top : top + 128 : 2, GAP // 2 : GAP // 2 + 128 : 2], want)


def test_the_telling_level(tmp_path):
    "Whatever their order, each of two agents does there what it is likely to do"

    def leaning(up):
        return lambda frames: torch.tensor([[0.0] * 5 + [up, 0.0, 1 - up] + [0.0] * 7]).repeat(len(frames), 1)

    agents = {'a': leaning(0.9), 'b': leaning(0.1)}
    options = WatchOptions(telling=True)
    a, b = most_discriminating_row(agents, options)
    d, c = most_discriminating_row(dict(reversed(agents.items())), options)
    assert {a.outcome, b.outcome} == {1, 2} and (a.outcome, b.outcome) == (c.outcome, d.outcome)
    assert 100_000 <= a.level.seeds[0] < 100_100 and a.level.seeds[0] == c.level.seeds[0]
    with pytest.raises(ValueError, match='agents for a telling level'):
        most_discriminating_row({'a': up_or_right}, options)


def test_names_of_agents(agents, tmp_path):
    assert list(load_agents(agents)) == ['agent 0', 'agent 1']
    assert list(load_agents([up_or_right, agents[1]])) == ['agent 1', f'{agents[1].parent.name} agent 1']
    elsewhere = save_policy(Policy(5), tmp_path / 'others' / 'agent-0', {})
    assert list(load_agents([agents[0], elsewhere])) == [f'{agents[0].parent.name} agent 0', 'others agent 0']
    assert list(load_agents({'mine': up_or_right})) == ['mine']


@pytest.mark.parametrize(
    'change, message',
    [
        ({'level': -1}, 'level: got -1'),
        ({'level': 2**32}, 'level: got 4294967296'),
        ({'level': 2**32 - 1, 'levels': 2}, 'last level seed'),
        ({'level': 1.5}, 'level: got 1.5'),
        ({'obj1': 'red square'}, 'shape'),
        ({'background': 'pink'}, 'background'),
        ({'size': 4}, 'size'),
        ({'facing': 2}, 'facing'),
        ({'scale': 1}, 'scale'),
        ({'frames': 1}, 'frames'),
        ({'telling': True, 'levels': 3}, 'telling'),
        ({'ms': 0}, 'ms'),
        ({'seed': -1}, 'seed'),
    ],
)
def test_options_that_cannot_be(change, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        WatchOptions(**change)


def test_watching_what_cannot_be_watched(agents, tmp_path, monkeypatch):
    monkeypatch.setattr('goalmisgen.films.watch.play_together', lambda *_: pytest.fail('began to play'))
    other = save_policy(Policy(0), tmp_path / 'other', {}) / 'model.safetensors'
    weights = Policy(0).state_dict()
    weights['embedder.fc.weight'] = torch.zeros(256, 32 * 4 * 4)
    save_file({k: v.contiguous() for k, v in weights.items()}, other)
    big = WatchOptions(frames=5000, scale=16, levels=1000)
    for who, where, options, message in (
        (agents, 'a.avi', WatchOptions(), 'suffix'),
        ('nobody', 'a.gif', WatchOptions(), "agent: got 'nobody'"),
        (tmp_path, 'a.gif', WatchOptions(), 'an agent folder with model.safetensors'),
        (other.parent, 'a.gif', WatchOptions(), 'weights in'),
        ([], 'a.gif', WatchOptions(), '1 to 6'),
        ([agents[0]] * 2, 'a.gif', WatchOptions(), 'each once'),
        (agents, 'a.gif', big, 'size of the film'),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            watch(who, tmp_path / where, options)
    assert [p.name for p in tmp_path.iterdir()] == ['other']


def test_a_wall_is_no_place_to_begin(agents, tmp_path):
    wall = int(np.flatnonzero(LEVELS.grid[0].ravel() == WALL)[0])
    with pytest.raises(ValueError, match=f'cell to begin at: got {wall}'):
        watch(agents, tmp_path / 'a.gif', WatchOptions(cell=wall))
    assert not list(tmp_path.iterdir())
