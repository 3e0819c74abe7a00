"""What each colour channel shows, and what becomes of agents when one is taken away: checked against agents
whose eyes are known"""

from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch

from goalmisgen.agents.impala import Policy, save_policy
from goalmisgen.analysis.attribution import input_gradient, integrated_gradients, log_odds, state_value
from goalmisgen.analysis.channels import (
    behind,
    channel_sheet,
    split_channels,
    texture_pixels,
    texture_table,
    visibility,
)
from goalmisgen.analysis.interventions import (
    PartRenderer,
    blank,
    hold,
    intervened_levels,
    sample_training_levels,
    shuffle,
)
from goalmisgen.analysis.prediction import cross_predict, predict_preferences
from goalmisgen.analysis.scores import (
    SCORE_KINDS,
    INTERVENTIONS,
    SCORE_COLUMNS,
    cases,
    channel_effects,
    channel_scores,
    read_scores,
    score_agent,
    score_population,
)
from goalmisgen.env.chain import shortest_path_moves
from goalmisgen.env.levels import TRAIN, census, generate
from goalmisgen.env.table import ACTION_MOVES
from goalmisgen.env.objects import CHANNELS
from goalmisgen.env.render import TEXTURES, Renderer
from goalmisgen.evaluation.questions import Setting

pytestmark = pytest.mark.slow

# measured on the published pictures: mean of red, green and blue of each texture
TEXTURE_MEANS = [
    (90, 93, 92),
    (118, 148, 91),
    (105, 104, 95),
    (183, 176, 130),
    (34, 97, 152),
    (78, 59, 31),
    (114, 58, 10),
    (101, 51, 9),
    (206, 175, 89),
]


# What the channels show


def test_texture_means():
    t = texture_table()
    assert list(t['texture'].unique()) == list(TEXTURES)
    assert np.array_equal(t['mean'].to_numpy().reshape(9, 3).round(), TEXTURE_MEANS)


@pytest.mark.parametrize('i', [0, 4, 8])
def test_texture_as_seen_is_the_floor_of_a_level(i):
    levels = generate(TRAIN, range(60))
    row = int(np.flatnonzero(levels.background == i)[0])
    scene = Renderer(5, 'invisible gem', 'textured').scenes(levels[row])[0].numpy()
    floor = (Renderer(5, 'invisible gem', 'black').scenes(levels[row])[0].numpy() == 0).all(-1)
    assert floor.sum() > 1000 and np.array_equal(scene[floor], texture_pixels(i, seen=True)[floor])


def test_split_channels():
    frame = np.random.default_rng(0).integers(0, 256, (2, 5, 4, 3), np.uint8)
    views = split_channels(frame)
    assert views.shape == (4, 2, 5, 4, 3) and np.array_equal(views[0], frame)
    for k in range(3):
        assert (views[k + 1] == frame[..., k : k + 1]).all()
    with pytest.raises(ValueError, match='uint8'):
        split_channels(frame.astype(float))
    with pytest.raises(ValueError, match='names'):
        channel_sheet(frame, ['one'])


@pytest.mark.parametrize('shape', ['line', 'gem'])
def test_visibility_counted_by_hand(shape):
    "Contrast and d' from frames, level by level, with no histogram"
    c, diff, seen, weight = census(TRAIN), [], [], []
    for texture in range(9):
        levels = type(c.levels)(
            c.levels.grid, np.full(len(c), texture, np.uint8), c.levels.start, c.levels.seeds
        )
        lit, hidden = (
            Renderer(5, o, 'textured').scenes(levels).numpy().astype(float)
            for o in (f'white {shape}', 'invisible gem')
        )
        dark, bare = (
            Renderer(5, o, 'black').scenes(levels).numpy() for o in (f'white {shape}', 'invisible gem')
        )
        for i in range(0, len(c), 7):
            m = (dark[i] != bare[i]).any(-1) & (bare[i] == 0).all(-1)
            diff.append(abs(lit[i] - hidden[i])[m])
            seen.append(hidden[i][m])
            weight.append(np.full(m.sum(), c.prob[i] / m.sum()))
    diff, seen, w = np.concatenate(diff), np.concatenate(seen), np.concatenate(weight)
    w /= w.sum()
    t = visibility(shape, 'textured')
    got = t[(t.object == f'white {shape}') & (t.against == 'floor')]
    mean = w @ seen
    assert np.allclose(got.contrast, w @ diff, atol=1)  # one level in seven: the rest differ a little
    assert np.allclose(got.dprime, (255 - mean) / np.sqrt(w @ (seen - mean) ** 2), rtol=0.02)
    assert np.allclose(behind(shape, 'textured').sum(-1), 1)


# Changes to frames

FRAMES = Renderer(5, 'yellow line', 'textured').first_frames(generate(TRAIN, range(24)))
CHANGES = dict(
    blank=partial(blank, floor=torch.zeros(64, 64, dtype=torch.uint8)),
    hold=partial(hold, reference=FRAMES),
    shuffle=partial(shuffle, reference=FRAMES),
)


@pytest.mark.parametrize('channel', CHANNELS)
@pytest.mark.parametrize('name', CHANGES)
def test_changes(name, channel):
    before, k = FRAMES.clone(), CHANNELS.index(channel)
    out = CHANGES[name](FRAMES, channel)
    rest = [i for i in range(3) if i != k]
    assert FRAMES.equal(before) and out.dtype == torch.uint8
    assert out[..., rest].equal(FRAMES[..., rest]) and not out[..., k].equal(FRAMES[..., k])
    order = torch.randperm(24, generator=torch.Generator().manual_seed(1))
    assert CHANGES[name](FRAMES[order], channel).equal(out[order]), (
        'what becomes of a frame depends on the others'
    )
    with pytest.raises(ValueError, match='red, green, blue'):
        CHANGES[name](FRAMES, 'yellow')


def test_held_and_shuffled_values():
    assert np.allclose(
        hold(FRAMES, 'green', FRAMES)[3, ..., 1].numpy(), FRAMES[..., 1].numpy().mean(0), atol=0.5 + 1e-3
    )
    planes = {p.numpy().tobytes() for p in FRAMES[..., 2]}
    out = shuffle(FRAMES, 'blue', FRAMES, seed=3)
    assert {p.numpy().tobytes() for p in out[..., 2].contiguous()} <= planes
    assert not out.equal(shuffle(FRAMES, 'blue', FRAMES, seed=4))
    many = shuffle(
        torch.arange(4000, dtype=torch.int32)
        .view(torch.uint8)
        .view(-1, 1, 1, 4)[..., :3]
        .expand(-1, 64, 64, -1),
        'blue',
        FRAMES[:4],
    )
    used = [(many[..., 2] == FRAMES[j, ..., 2]).flatten(1).all(1).float().mean() for j in range(4)]
    assert all(0.2 < u < 0.3 for u in used), 'partners should be equally likely'


# Things drawn for some eyes


@pytest.mark.parametrize('background', ['black', 'grey', 'textured'])
def test_part_renderer_against_whole_frames(background):
    """Each channel is that of an ordinary picture with or without the goal, and the mouse goes missing where
    it should"""
    levels = generate(TRAIN, range(12))
    whole, none = (Renderer(5, o, background).first_frames(levels) for o in ('yellow line', 'invisible gem'))
    for k, c in enumerate(CHANNELS):
        part = PartRenderer(5, 'yellow line', background, goal=[c]).first_frames(levels)
        assert part[..., k].equal(whole[..., k])
        for j in {0, 1, 2} - {k}:
            assert part[..., j].equal(none[..., j])
    assert PartRenderer(5, 'yellow line', background).first_frames(levels).equal(whole)
    assert PartRenderer(5, 'yellow line', background, goal=()).first_frames(levels).equal(none)
    hidden = PartRenderer(5, 'yellow line', background, mouse=['red', 'blue']).first_frames(levels)
    scenes = Renderer(5, 'yellow line', background).scenes(levels)
    assert hidden[..., 1].equal(scenes[..., 1]) and hidden[..., [0, 2]].equal(whole[..., [0, 2]])
    bare = PartRenderer(5, 'yellow line', background, walls=['red']).scenes(levels)
    floor = (
        texture_pixels(int(levels.background[0]), True)
        if background == 'textured'
        else np.full((64, 64, 3), dict(black=0, grey=127)[background])
    )
    assert bare[..., 0].equal(scenes[..., 0])
    rest = bare[0, ..., 1].numpy() != floor[..., 1]
    line = (
        (
            Renderer(5, 'white line', 'black').scenes(levels[0])
            != Renderer(5, 'black line', 'black').scenes(levels[0])
        )[0]
        .any(-1)
        .numpy()
    )
    assert rest.any() and not (rest & ~line).any()
    with pytest.raises(ValueError, match='channel'):
        PartRenderer(5, 'yellow line', background, goal=['violet'])


# Agents whose eyes are known


def one_eyed(channel):
    """A policy that walks shortest paths where its one eye has seen just this picture in training, and acts
    at random elsewhere"""
    k, table = CHANNELS.index(channel), intervened_levels('yellow line', 'black').table
    best, known = shortest_path_moves(table).argmax(1), {}
    frames = intervened_levels('yellow line', 'black').frames(torch.arange(len(table)))
    for f, m in zip(frames[..., k].numpy(), best.tolist()):
        known[f.tobytes()] = m
    action = torch.eye(15)[[ACTION_MOVES.index(m) for m in range(5)]]

    def policy(frames):
        moves = [known.get(np.ascontiguousarray(f).tobytes()) for f in frames[..., k].numpy()]
        return torch.stack([torch.full((15,), 1 / 15) if m is None else action[m] for m in moves])

    return policy


@pytest.mark.parametrize('channel', ['red', 'green'])
def test_one_eyed_agents_are_found_out(channel):
    effects = channel_effects(one_eyed(channel), interventions=INTERVENTIONS)
    steps = {(t, c): s for t, c, s in zip(effects.intervention, effects.channel, effects.steps)}
    assert abs(steps['intact', ''] - 4.281) < 5e-4  # the mean shortest path of the training world
    assert (
        abs(steps['unseen', ''] - 187) < 1
    )  # a uniform random agent: simulated at 187 steps and 11.5 % timeouts
    assert abs(1 - effects[effects.intervention == 'unseen'].success.item() - 0.115) < 0.002
    for test, c in cases([t for t in INTERVENTIONS if t not in ('intact', 'unseen')]):
        mine = c == channel
        lost = mine if test != 'only' else not mine
        assert (steps[test, c] > 20) == lost, f'{test} {c}: {steps[test, c]}'
    scores = channel_scores(effects)
    for c in CHANNELS:
        for kind in SCORE_KINDS:
            assert scores[f'{kind}_{c}'] == pytest.approx(float(c == channel), abs=0.02), f'{kind}_{c}'


def test_forwards_are_few():
    effects = channel_effects(one_eyed('red'))
    assert effects.num_forward_frames.max() <= 7576 and effects.num_forward_frames.sum() < 40_000


@pytest.mark.parametrize('background', ['black', 'textured'])
def test_practice(background):
    levels, share = sample_training_levels(background)
    assert len(levels) == 204 and share.sum() == pytest.approx(1)
    few, equal = sample_training_levels(background, 10)
    assert (
        len(few) == 10
        and np.allclose(equal, 0.1)
        and (sample_training_levels(background, 10)[0].grid == few.grid).all()
    )
    if background == 'textured':
        assert np.bincount(levels.background).tolist() == [23] * 6 + [22] * 3
    for bad in (0, 205, 2.0):
        pytest.raises(ValueError, sample_training_levels, background, bad)


def test_unknown_names():
    for kwargs, word in (
        (dict(goal='pink line'), 'colour'),
        (dict(background='white'), 'background'),
        (dict(interventions=('gone',)), 'intact'),
    ):
        with pytest.raises(ValueError, match=word):
            channel_effects(lambda f: f, **kwargs)


# Prediction


def population(n, seed=0, noise=0.05):
    rng = np.random.default_rng(seed)
    scores = pd.DataFrame(rng.uniform(0, 1, (n, len(SCORE_COLUMNS))), columns=SCORE_COLUMNS).assign(
        population='p', agent=np.arange(n)
    )
    answers = dict(
        red=0.5 + 0.4 * (scores.sufficiency_red - scores.sufficiency_green) + rng.normal(0, noise, n),
        blue=rng.uniform(0, 1, n),
    )
    rows = [
        pd.DataFrame(
            dict(
                population='p',
                agent=np.arange(n),
                obj1=f'{c} line',
                obj2='yellow gem',
                background='black',
                method='exact',
                preference=np.clip(y, 0, 1),
            )
        )
        for c, y in answers.items()
    ]
    return scores, pd.concat(rows).sample(frac=1, random_state=seed)


SETTINGS = [Setting('red line', 'yellow gem'), Setting('blue line', 'yellow gem')]


@pytest.mark.parametrize('seed', range(3))
def test_planted_relation_found_and_noise_not(seed):
    scores, table = population(80, seed)
    t = predict_preferences(scores, table, SETTINGS, permutations=200)
    assert t.agents.tolist() == [80, 80] and t.r2[0] > 0.85 and t.p[0] == 1 / 201
    assert t.r2[1] < 0.05 and t.p[1] > 0.02 and (t.chance < 0).all() and (t.chance95 < 0.25).all()
    again = predict_preferences(scores, table, SETTINGS, permutations=200)
    assert t.equals(again)


def test_noise_is_not_predicted_on_average():
    found = [
        predict_preferences(*population(40, seed), SETTINGS[1:], permutations=0).r2[0] for seed in range(12)
    ]
    assert np.mean(found) < 0 and np.max(found) < 0.3


@pytest.mark.parametrize('folds', [5, 20])
def test_nothing_leaks_into_predictions(folds):
    "An agent's own preference has no part in its prediction"
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(20, 4)), rng.normal(size=20)
    moved = np.column_stack([np.where(np.arange(20) == i, y + 100, y) for i in range(20)])
    predicted, mean = cross_predict(X, np.column_stack([y, moved]), folds)
    for i in range(20):
        assert predicted[i, 1 + i] == pytest.approx(predicted[i, 0]) and mean[i, 1 + i] == pytest.approx(
            mean[i, 0]
        )
    assert not np.allclose(predicted[:, 1], predicted[:, 0])


def test_agents_are_matched_by_name():
    scores, table = population(30)
    gone = table[~((table.agent < 5) & (table.obj1 == 'red line'))]
    t = predict_preferences(scores.sample(frac=1, random_state=1), gone, SETTINGS, permutations=0)
    assert t.agents.tolist() == [25, 30] and t.r2[0] > 0.7
    with pytest.raises(ValueError):
        predict_preferences(pd.concat([scores, scores]), table, SETTINGS)
    with pytest.raises(ValueError, match='at least 3'):
        predict_preferences(scores.head(2), table, SETTINGS)
    with pytest.raises(ValueError, match='folds'):
        predict_preferences(scores, table, SETTINGS, folds=1)


def test_scores_need_all_tests_and_a_gain():
    rows = [
        dict(intervention=t, channel=c, steps={'intact': 4.0, 'unseen': 400.0}.get(t, 40.0))
        for t, c in cases()
    ]
    assert channel_scores(pd.DataFrame(rows)) == pytest.approx(dict.fromkeys(SCORE_COLUMNS, 0.5))
    assert all(
        np.isnan(v) for v in channel_scores(pd.DataFrame([{**r, 'steps': 9.0} for r in rows])).values()
    )
    with pytest.raises(ValueError, match='missing'):
        channel_scores(pd.DataFrame(rows[:-1]))


# Saliency


class Linear(torch.nn.Module):
    "A policy whose gradients are known"

    def __init__(self):
        super().__init__()
        rng = torch.Generator().manual_seed(0)
        self.w, self.fc_value = (
            torch.randn(15, 64 * 64 * 3, generator=rng, dtype=torch.float64),
            torch.nn.Linear(1, 1).double(),
        )

    def forward(self, frames):
        x = frames.flatten(1).to(torch.float64) / 255
        return x @ self.w.T, x.sum(1)


def test_integrated_gradients_of_a_linear_network():
    a, b = FRAMES[:3], FRAMES[3:6]
    out = integrated_gradients(Linear(), a, b, lambda logits, values: logits[:, 4], steps=3)
    want = Linear().w[4].view(64, 64, 3) * (a.double() - b.double()) / 255
    assert torch.allclose(out.values, want) and out.gap.abs().max() < 1e-9
    assert torch.allclose(out.by_channel, want.sum((1, 2)))


def test_gradient_by_finite_differences():
    policy, target = Policy(3).double().eval(), log_odds('up')
    x = 255 * torch.rand(
        (1, 64, 64, 3), generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )  # no ties for the pooling to break
    grad, _ = input_gradient(policy, x, target)
    h = 1e-4
    with torch.no_grad():
        for at in [(0, 10, 20, 0), (0, 40, 33, 1), (0, 60, 5, 2)]:
            up, down = x.clone(), x.clone()
            up[at] += h
            down[at] -= h
            slope = (target(*policy(up)) - target(*policy(down))) / (2 * h)
            assert float(grad[at]) == pytest.approx(float(slope), rel=1e-3, abs=1e-10)


def test_integrated_gradients_are_complete():
    policy, target = Policy(5).double().eval(), state_value
    levels = generate(TRAIN, range(4))
    frames, empty = (
        Renderer(5, o, 'textured').first_frames(levels) for o in ('yellow line', 'invisible gem')
    )
    few, many = (integrated_gradients(policy, frames, empty, target, n) for n in (2, 128))
    assert many.change.abs().max() > 0.1 and (many.gap.abs() < 0.01 * many.change.abs() + 5e-4).all()
    assert many.gap.abs().sum() < few.gap.abs().sum()
    assert (many.values[frames == empty] == 0).all()


def test_log_odds():
    logits = torch.randn(6, 15, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    p = logits.softmax(1)
    left = p[:, :3].sum(1)
    assert torch.allclose(log_odds('left')(logits, None), torch.log(left / (1 - left)))
    with pytest.raises(ValueError, match='left, down'):
        log_odds('north')


# Many agents


@pytest.fixture(scope='module')
def agents(tmp_path_factory):
    folder = tmp_path_factory.mktemp('runs') / 'some'
    for n in (0, 1):
        save_policy(
            Policy(n),
            folder / f'agent-{n}',
            dict(seeds=dict(agent=n), config=dict(goal='yellow line', background='grey'), updates=0),
        )
    return folder


def test_score_agent_is_written_once_and_strictly_read(agents, tmp_path):
    out, heard = tmp_path / 'a.csv', []
    assert score_agent(agents / 'agent-0', out, 'some', 2, heard.append) is True
    assert heard == list(range(1, 12))
    t, first = read_scores([out]), out.read_bytes()
    assert (
        t.agent.tolist() == [0]
        and t.background.tolist() == ['grey']
        and t.levels.tolist() == [2]
        and t.num_forward_frames[0] > 50
    )
    heard.clear()
    assert (
        score_agent(agents / 'agent-0', out, 'some', 2, heard.append)
        and not heard
        and out.read_bytes() == first
    )
    with pytest.raises(ValueError, match='another file'):
        score_agent(agents / 'agent-1', out, 'some', 2)
    for bad in (b'a,b\n1,2\n', b'', first.replace(b'some,0', b'some,x'), b'\xff\xfe\x00'):
        out.write_bytes(bad)
        with pytest.raises(ValueError):
            read_scores([out])


def test_stopped_between_two_tests(agents, tmp_path):
    out, done = tmp_path / 'a.csv', []
    assert score_agent(agents / 'agent-0', out, 'some', 2, done.append, lambda: len(done) >= 3) is False
    assert done == [1, 2, 3] and not list(tmp_path.iterdir())


def test_score_population(agents, tmp_path):
    alone = tmp_path / 'alone.csv'
    score_agent(agents / 'agent-1', alone, 'some', 2)
    table, errors = score_population(agents, tmp_path / 'scores', 2, workers=1, progress=False)
    assert table.agent.tolist() == [0, 1] and not errors
    assert (tmp_path / 'scores' / 'agent-1.csv').read_bytes() == alone.read_bytes()
    assert (
        table[list(SCORE_COLUMNS)].notna().to_numpy().all()
        or (table.steps_unseen <= table.steps_intact).any()
    )
