"Names in figures: beside their dots, on nothing, struck through by nothing, and never taken for formulas"

import io

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.path import Path as Line
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from goalmisgen.analysis.attribution import draw_attribution
from goalmisgen.analysis.prediction import draw_sufficiency
from goalmisgen.analysis.scores import SCORE_COLUMNS, draw_scores, shipped_scores
from goalmisgen.analysis.channels import CHANNELS, channel_sheet, distinguishing_channels
from goalmisgen.analysis.detectors import draw_map
from goalmisgen.analysis.comparison import compare
from goalmisgen.analysis.preferences import as_table
from goalmisgen.analysis.scatter import draw_scatter, scatter, scatter_grid
from goalmisgen.analysis.regression import pairs, regression_plot
from goalmisgen.env.objects import COLOURS, GoalObject
from goalmisgen.evaluation.questions import Setting
from goalmisgen.evaluation.tables import load_table
from goalmisgen.style import style

matplotlib.use('Agg')
PAIR, FORMULA = Setting('red line', 'yellow gem'), '$x^$'


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close('all')


def drawn(fig):
    fig.savefig(io.BytesIO(), format='png')
    fig.canvas.draw()
    return fig.canvas.get_renderer()


def boxes(ax, renderer):
    "The names of dots on some axes: each text and its box"
    return [
        (a.get_text(), Text.get_window_extent(a, renderer))
        for a in ax.texts
        if getattr(a, 'arrow_patch', None)
    ]


def overlap(a, b):
    shared = Bbox.intersection(a, b)
    return 0 if shared is None else shared.width * shared.height


@pytest.mark.parametrize('where', ['apart', 'together', 'on the line', 'at the edge', 'in a crowd'])
def test_names_do_not_overlap_and_nothing_strikes_them_through(where):
    rng = np.random.default_rng(0)
    p, steps = rng.uniform(0.3, 0.7, 40), rng.uniform(5, 60, 40)
    if where == 'together':
        p[:4], steps[:4] = [0.5, 0.502, 0.504, 0.498], 20
    if where == 'on the line':
        p[:4], steps[:4] = 0.5, [10, 30, 50, 70]
    if where == 'at the edge':
        p[:4], steps[:4] = [0.99, 0.01, 0.5, 0.52], [3, 99, 400, 500]
    if where == 'in a crowd':
        p[4:], steps[4:] = 0.5 + 0.02 * rng.normal(size=36), 30 + 3 * rng.normal(size=36)
    fig = scatter(as_table(p, np.clip(steps, 1, 500), PAIR, 'x'), PAIR, label=[0, 1, 2, 3])
    renderer, ax = drawn(fig), fig.axes[0]
    names = boxes(ax, renderer)
    assert [n for n, _ in names] == [f'agent {i}' for i in range(4)]
    for i, (_, a) in enumerate(names):
        for _, b in names[:i]:
            assert overlap(a, b) == 0
        for line in ax.lines:
            assert not line.get_transform().transform_path(line.get_path()).intersects_bbox(a, filled=False)
    for (_, own), name in zip(names, [a for a in ax.texts if getattr(a, 'arrow_patch', None)]):
        home = ax.transData.transform(name.xy)
        assert np.hypot(*(np.mean(own.get_points(), 0) - home)) < 170, 'too far from its dot'
        leader = Line([home, np.mean(own.get_points(), 0)])
        assert not any(leader.intersects_bbox(b, filled=False) for _, b in names if b is not own), (
            'struck through by the line of another'
        )


def test_names_are_placed_for_the_size_that_is_drawn():
    with style():
        fig, ax = plt.subplots(figsize=(9, 8), layout='constrained')
        draw_scatter(ax, as_table([0.5, 0.51], [20, 22], PAIR, 'x'), PAIR, label=[0, 1])
    for size in ((9, 8), (3, 2.4)):
        fig.set_size_inches(size)
        (_, a), (_, b) = boxes(ax, drawn(fig))
        assert overlap(a, b) == 0


def everything_named(text):
    "Figures that write somebody else's words"
    one, two = (
        as_table([0.2, 0.5, 0.8], [5, 6, 7], PAIR, 'x'),
        as_table([0.3, 0.6, 0.7], [5, 6, 7], Setting('green line', 'red line'), 'x'),
    )
    yield scatter(one, PAIR, label={0: text})
    yield scatter_grid(one, [[PAIR]], [text])
    yield compare({text: one, 'b': one}, PAIR, {text + 'c': one})
    both = pairs(pd.concat([one, two]), PAIR, Setting('green line', 'red line'))
    yield regression_plot(both, PAIR, Setting('green line', 'red line'), text, {0: text})
    yield draw_scores(pd.DataFrame(np.ones((1, len(SCORE_COLUMNS))), columns=SCORE_COLUMNS, index=[text]))
    frame = np.zeros((1, 64, 64, 3), np.uint8)
    yield channel_sheet(frame, [text])
    import torch

    yield draw_attribution(torch.tensor(frame), torch.ones(1, 64, 64, 3), [text])
    z = pd.DataFrame(np.random.default_rng(0).normal(size=(5, 3)), index=[text, 'b', 'c', 'd', 'e'])
    yield draw_map(z, [text], kinds=('pca',))


@pytest.mark.parametrize('text', [FORMULA, 'a $5 agent', r'$\frac$', '100 %', '_x_'])
def test_somebody_elses_words_are_no_formulas(text):
    for fig in everything_named(text):
        drawn(fig)


# Sufficiency for any colours


@pytest.mark.parametrize('a', COLOURS)
def test_sufficiency_is_drawn_for_any_two_colours(a):
    scores = shipped_scores().query("population=='exact-yellow-line-black'")
    table = load_table('exact-yellow-line-black').query("obj1=='green line' and obj2=='red line'")
    for b in COLOURS:
        asked = table.assign(obj1=f'{a} line', obj2=f'{b} gem')
        if a == b:
            with pytest.raises(ValueError, match='differ'):
                draw_sufficiency(scores, asked, Setting(f'{a} line', f'{b} gem'))
            continue
        signs = distinguishing_channels(f'{a} line', f'{b} gem')
        assert signs == {
            c: int(np.sign(x - y))
            for c, x, y in zip(CHANNELS, GoalObject.parse(f'{a} line').rgb, GoalObject.parse(f'{b} gem').rgb)
            if x != y
        }
        ax = draw_sufficiency(scores, asked, Setting(f'{a} line', f'{b} gem')).axes[0]
        x = ax.collections[0].get_offsets()[:, 0]
        sufficiency = scores[[f'sufficiency_{c}' for c in signs]].to_numpy()
        mixed = len(set(signs.values())) > 1
        assert np.allclose(
            np.sort(x), np.sort(sufficiency @ list(signs.values()) if mixed else sufficiency.sum(1))
        )
        low, high = ax.get_xlim()
        assert low <= x.min() + 0.06 and x.max() <= high
