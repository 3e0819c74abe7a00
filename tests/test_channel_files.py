"Taking a channel away on any floor, and files of scores that are believed only as far as they can be checked"

import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from goalmisgen.agents.impala import Policy, save_policy
from goalmisgen.analysis.channels import CHANNELS, texture_pixels
from goalmisgen.analysis.interventions import (
    PartRenderer,
    bare_floor,
    blank,
    intervened_levels,
    sample_training_levels,
)
from goalmisgen.analysis.prediction import cross_predict
from goalmisgen.analysis.scores import (
    FILE_COLUMNS,
    SCORE_COLUMNS,
    read_scores,
    run_case,
    score_agent,
    shipped_scores,
)
from goalmisgen.analysis.outliers import simulate_null
from goalmisgen.analysis.seeds import seed_grid
from goalmisgen.analysis.maze_view import MazeView
from goalmisgen.env.levels import DUEL, TRAIN, census, generate
from goalmisgen.env.render import Renderer

FLOOR = dict(black=0, grey=127)


# Blank is the bare floor


@pytest.mark.parametrize('background', FLOOR)
@pytest.mark.parametrize('objects', ['yellow line', ('red line', 'yellow gem'), ('white line', 'black gem')])
def test_blank_reads_the_floor_off_any_frame(background, objects):
    levels = census(TRAIN).levels if objects == 'yellow line' else generate(DUEL, range(100_000, 100_100))
    frames = Renderer(5, objects, background).first_frames(levels)
    for k, channel in enumerate(CHANNELS):
        assert (blank(frames, channel)[..., k] == FLOOR[background]).all()
        assert blank(blank(frames, channel), channel).equal(blank(frames, channel))


def test_on_textures_the_floor_must_be_given():
    levels = generate(TRAIN, range(9))
    levels.background[:] = range(9)
    frames = Renderer(5, 'yellow line', 'textured').first_frames(levels)
    for k, channel in enumerate(CHANNELS):
        with pytest.raises(ValueError, match='black or grey'):
            blank(frames, channel)
        floors = np.stack([texture_pixels(i, seen=True)[..., k] for i in range(9)])
        given = blank(frames, channel, floors)
        others = [c for c in CHANNELS if c != channel]
        drawn = PartRenderer(5, 'yellow line', 'textured', others, others, others).first_frames(levels)
        assert given.equal(drawn), 'the blank channel of the tests is the bare floor'
    with pytest.raises(ValueError):
        bare_floor(frames[..., 0])


@pytest.mark.parametrize('background', ['grey', 'textured'])
def test_an_eye_that_only_fears_the_dark_is_not_needed(background):
    """A walker that minds nothing but pixels of 0 in a channel, of which nothing but goals has many, loses
    nothing with the channel"""
    rendered = intervened_levels('red line', background, 6)
    from goalmisgen.env.chain import shortest_path_moves
    from goalmisgen.env.table import ACTION_MOVES

    action = torch.eye(15)[[ACTION_MOVES.index(m) for m in range(5)]]
    every = rendered.frames(torch.arange(len(rendered.table)))
    best = dict(
        zip(
            (f.tobytes() for f in every[..., 0].numpy()),
            action[shortest_path_moves(rendered.table).argmax(1)],
        )
    )

    def walker(frames):
        lost = (frames[..., 2] == 0).float().mean((1, 2)) > 0.5
        steps = [
            best.get(np.ascontiguousarray(f).tobytes(), torch.full((15,), 1 / 15))
            for f in frames[..., 0].numpy()
        ]
        return torch.where(lost[:, None], torch.full((15,), 1 / 15), torch.stack(steps))

    intact, gone = (
        run_case(walker, test, channel, 'red line', background, 6)['steps']
        for test, channel in (('intact', ''), ('blank', 'blue'))
    )
    assert gone == pytest.approx(intact), 'blanking filled the channel with what it was to take away'


def test_shipped_black_scores_are_reproduced():
    from goalmisgen.agents.examples import load_example

    shipped = shipped_scores().query("population=='exact-yellow-line-black' and agent==1").iloc[0]
    found = run_case(load_example('exact-1'), 'blank', 'blue')
    assert found['steps'] == pytest.approx(shipped.steps_blank_blue, rel=1e-4)


# Files of scores


@pytest.fixture(scope='module')
def one(tmp_path_factory):
    "A row of scores, as text"
    folder = tmp_path_factory.mktemp('one')
    save_policy(
        Policy(0),
        folder / 'agent-0',
        dict(seeds=dict(agent=0), config=dict(goal='yellow line', background='black'), updates=0),
    )
    score_agent(folder / 'agent-0', folder / 'a.csv', 'p', 2)
    return (folder / 'a.csv').read_text()


def written(tmp_path, text):
    path = tmp_path / 'x.csv'
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_a_file_that_was_cut_off_is_never_read(one, tmp_path):
    for end in range(len(one)):
        with pytest.raises(ValueError):
            print(read_scores([written(tmp_path, one[:end])]).iloc[0].to_dict())


def test_a_file_that_was_changed_is_not_read_with_other_numbers(one, tmp_path):
    rng, head = np.random.default_rng(0), one.index('\n') + 1
    before, checked = (
        read_scores([written(tmp_path, one)]),
        (*SCORE_COLUMNS, *[c for c in FILE_COLUMNS if c.startswith('steps_')]),
    )
    for _ in range(300):
        at = int(rng.integers(head, len(one)))
        new = one[:at] + str(rng.choice(list('0123456789.,-e\nxn'))) + one[at + 1 :]
        try:
            after = read_scores([written(tmp_path, new)])
        except ValueError:
            continue
        assert len(after) == 1
        for c in checked:
            assert np.isclose(after[c][0], before[c][0], rtol=3e-4, atol=3e-4, equal_nan=True), (c, at)


@pytest.mark.parametrize('name', ['2024', 'NA', 'True', '1e5', 'nan', '5669732331e84638', 'inf', '007', '='])
def test_names_are_text(one, tmp_path, name):
    found = read_scores([written(tmp_path, one.replace('\n3,p,', f'\n3,{name},'))])
    assert found.population.tolist() == [name] and found.agent.tolist() == [0]


OLD_KINDS = (
    ('mouse_necessity', 'self'),
    ('sufficiency', 'sight'),
    ('necessity', 'need'),
)  # the words of schema 2


def as_schema_2(text):
    head, _, rows = text.partition('\n')
    for new, old in OLD_KINDS:
        head = head.replace(f',{new}_', f',{old}_')
    return head.replace('num_forward_frames', 'forwards') + '\n' + rows.replace('3,p,', '2,p,', 1)


def test_rows_from_before_are_read_where_they_mean_the_same(one, tmp_path):
    second = as_schema_2(one)
    first = '\n'.join(line.partition(',')[2] for line in second.splitlines()) + '\n'
    for old in (second, first):
        pd.testing.assert_frame_equal(
            read_scores([written(tmp_path, old)]), read_scores([written(tmp_path, one)])
        )
    assert read_scores([written(tmp_path, second.replace(',black,', ',grey,'))]).background[0] == 'grey'
    with pytest.raises(ValueError, match='black'):
        read_scores([written(tmp_path, first.replace(',black,', ',grey,'))])


def test_a_schema_and_its_columns_go_together(one, tmp_path):
    for mixed in (
        one.replace('\n3,', '\n2,'),
        as_schema_2(one).replace('\n2,', '\n3,'),
        one.replace('\n3,', '\n4,'),
        one.replace('\n3,', '\n03,'),
    ):
        with pytest.raises(ValueError, match='schema'):
            read_scores([written(tmp_path, mixed)])


def test_a_row_as_schema_2_wrote_it():
    "The first shipped row of schema 2, word for word, is the first that ships now"
    columns = (
        'schema,population,agent,goal,background,levels,steps_intact,steps_unseen,steps_only_red,steps_only_green,steps_only_blue,'
        'steps_no_mouse_red,steps_no_mouse_green,steps_no_mouse_blue,steps_blank_red,steps_blank_green,steps_blank_blue,'
        'sight_red,sight_green,sight_blue,need_red,need_green,need_blue,self_red,self_green,self_blue,forwards'
    )
    row = (
        '2,exact-yellow-line-black,0,yellow '
        'line,black,204,4.3490793,271.16703,66.116454,243.99226,271.05588,4.3710416,4.5502565,267.17342,'
        '288.34182,4.7100738,213.428,0.34149422,0.025551491,9.9198564e-05,1.0148597,0.019294419,0.94206419,0.0012188373,0.010941674,'
        '0.99640991,28402'
    )
    old = pd.DataFrame([row.split(',')], columns=columns.split(',')).to_csv(index=False)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / 'old.csv'
        path.write_text(old)
        pd.testing.assert_frame_equal(read_scores([path]), shipped_scores().iloc[:1])


def test_two_rows_of_one_agent_are_refused(one, tmp_path):
    path = written(tmp_path, one + one.splitlines()[1] + '\n')
    with pytest.raises(ValueError, match='several'):
        read_scores([path])
    with pytest.raises(ValueError, match='several'):
        read_scores([written(tmp_path, one)] * 2)


def test_other_sizes_are_refused_and_not_scored_in_small_mazes(tmp_path):
    save_policy(
        Policy(0),
        tmp_path / 'agent-0',
        dict(seeds=dict(agent=0), config=dict(goal='yellow line', background='black', size=7), updates=0),
    )
    with pytest.raises(ValueError, match='size'):
        score_agent(tmp_path / 'agent-0', tmp_path / 'a.csv', 'p', 2)
    assert not (tmp_path / 'a.csv').exists()


# Numbers as numpy has them


def test_numpy_integers_count():
    two = np.int64(2)
    assert (
        seed_grid(two, two, two) == seed_grid(2, 2, 2) and MazeView(level=np.int32(100_003)).level == 100_003
    )
    assert len(sample_training_levels('black', two)[0]) == 2
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(9, 2)), rng.normal(size=(9, 1))
    assert np.allclose(cross_predict(X, y, np.int64(3))[0], cross_predict(X, y, 3)[0])
    assert np.allclose(cross_predict(X, y)[0], cross_predict(X, y, 9)[0])
    for bad in (
        lambda: seed_grid(True, 2, 2),
        lambda: sample_training_levels('black', True),
        lambda: MazeView(level=1.5),
        lambda: simulate_null(None, draws=0),
    ):
        with pytest.raises(ValueError):
            bad()
