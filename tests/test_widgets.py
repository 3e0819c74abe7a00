"""Interactive views: their logic, and the real thing in a real browser, under JupyterLab and under Voila.

The browser tests need a Chromium or Chrome on this machine. Where there is none they are skipped, saying so,
except in continuous integration (the variable CI is set), where they fail. KEEP_SHOTS names a folder for
screenshots.
"""

import base64
import io
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from goalmisgen.agents.examples import example_dir
from goalmisgen.analysis.preferences import as_table
from goalmisgen.analysis.details import details_html
from goalmisgen.analysis.explorer import Explorer, MAX_AGENTS_SHOWN, draw_panel, find_weights
from goalmisgen.analysis.maze_view import MazeView, VIEW_NAMES
from goalmisgen.env.levels import DUEL, generate
from goalmisgen.env.table import MOVES
from goalmisgen.evaluation.questions import Setting
from goalmisgen.evaluation.tables import load_table

pytestmark = pytest.mark.slow

RED, GREEN = Setting('red line', 'yellow gem'), Setting('green line', 'red line')
P, STEPS = [0.1, 0.9, 0.5, np.nan, 0.52], [5.0, 50.0, 480.0, 500.0, 6.0]


@pytest.fixture
def table():
    """Five agents, two questions; the fourth reaches neither object, the third takes longer than the axis is
    long"""
    import pandas as pd

    parts = [
        as_table(P, STEPS, RED, 'five', timeout=[0, 0, 0.9, 1, 0.2]),
        as_table(P[::-1], STEPS[::-1], GREEN, 'five', timeout=0.0),
    ]
    return pd.concat(parts, ignore_index=True)


IN_CI = os.environ.get('CI', '').lower() in ('1', 'true')


def missing(what):
    "Skip, or fail where everything should be there"
    (pytest.fail if IN_CI else pytest.skip)(f'these tests need {what}')


def need(module):
    if find_spec(module) is None:
        missing(f"{module}: pip install -e '.[dev]'")


# The logic


def test_dots_are_where_the_numbers_say(table):
    p = draw_panel(table, RED)
    assert [d.agent for d in p.dots] == [0, 1, 2, 4]
    x, y = np.array([[d.x, d.y] for d in p.dots]).T
    steps, preference = np.minimum(np.array(STEPS)[[0, 1, 2, 4]], 100), np.array(P)[[0, 1, 2, 4]]
    for seen, value, sign in ((x, steps, 1), (y, preference, -1)):  # a straight line from numbers to points
        slope, at = np.polyfit(value, seen, 1)
        assert slope * sign > 0 and abs(seen - slope * value - at).max() < 0.02
    assert 0 < x.min() and x.max() < p.width and 0 < y.min() and y.max() < p.height
    assert p.dots[2].text == 'agent 2: preference 0.50, 480.0 steps, time runs out in 90 %' and p.dots[
        0
    ].text.endswith('5.0 steps')


def test_dots_of_the_shipped_table():
    shipped = load_table('exact-yellow-line-black')
    for setting in Explorer(shipped).settings:
        asked = shipped[(shipped.obj1 == setting.obj1) & (shipped.obj2 == setting.obj2)]
        dots = draw_panel(shipped, setting).dots
        assert [d.agent for d in dots] == sorted(asked.agent)
        by_height = [d.agent for d in sorted(dots, key=lambda d: -d.y)]
        assert np.all(np.diff(asked.set_index('agent').preference[by_height]) > -1e-3)


def test_selection(table):
    e, heard = Explorer(table), []
    e.listen(lambda: heard.append(e.selected))
    e.select(np.int64(2))
    e.select(iter([4, 0, 4]))
    e.select((0, 4))
    assert heard == [(2,), (0, 4)] and all(type(n) is int for n in e.selected)
    for bad in (5, [0, 5], -1):
        with pytest.raises(ValueError, match='0 to 4'):
            e.select(bad)
    assert e.selected == (0, 4)


def test_answers(table):
    e = Explorer(table[~((table.agent == 1) & (table.obj1 == 'green line'))])
    e.select([1, 3])
    a = e.answers()
    assert a.values[:, :2].tolist() == [[1, str(RED)], [3, str(RED)], [3, str(GREEN)]]
    assert a.preference[0] == 0.9 and np.isnan(a.preference[1]) and a.preference[2] == 0.9
    e.select(1)
    assert 'not asked' in details_html(e) and '0.90' in details_html(e) and '50.0' in details_html(e)
    e.select(3)
    assert '–' in details_html(e) and 'not asked' not in details_html(e)
    e.select(e.agents)
    assert '5 agents' in details_html(e) and f'{np.nanmean(P):.2f}' in details_html(e)


@pytest.mark.parametrize(
    'change,words',
    [
        (lambda t: dict(table=t.drop(columns='preference')), 'columns of `Result`'),
        (lambda t: dict(table=None), 'columns of `Result`'),
        (lambda t: dict(table=t.assign(population=['a', 'b'] * 5)), 'populations'),
        (lambda t: dict(table=t, method='sampled'), 'method'),
        (lambda t: dict(table=t.assign(agent=0)), 'one agent a number'),
        (lambda t: dict(table=t, settings='red line vs blue gem'), 'red line vs blue gem'),
        (lambda t: dict(table=t.assign(agent=0, run='same')), 'choose a step'),
        (lambda t: dict(table=t, settings='purple'), 'purple'),
        (lambda t: dict(table=t, scores=t), 'scores'),
        (lambda t: dict(table=t, agents=[1]), 'dict from number'),
        (lambda t: dict(table=t, agents={0: 7}), 'dict from number'),
        (lambda t: dict(table=t, agents='nowhere'), 'nowhere'),
    ],
)
def test_bad_input(table, change, words):
    with pytest.raises(ValueError, match=words):
        Explorer(**change(table))


def test_weights(table, tmp_path):
    shutil.copytree(example_dir('exact-3'), tmp_path / 'agent-3')
    assert find_weights(tmp_path) == {3: tmp_path / 'agent-3'} and find_weights(None) == {}
    e = Explorer(load_table('exact-yellow-line-black'), agents=tmp_path)
    e.select([3, 4])
    assert 'agent 4' in e.no_weights() and 'agent 3' not in e.no_weights()
    with pytest.raises(ValueError, match='at hand'):
        e.animation(RED)
    e.select(3)
    assert e.no_weights() == '' and e.policy(3) is e.policy(3)
    with (tmp_path / 'agent-3/model.safetensors').open('ab') as f:
        f.write(b' ')
    with pytest.raises(ValueError, match='fingerprint'):
        Explorer(load_table('exact-yellow-line-black'), agents=tmp_path).policy(3)


def test_episodes_of_any_policy(table):
    import torch

    def straight_up(frames):
        return torch.eye(15)[[5] * len(frames)]

    e = Explorer(table, agents=dict.fromkeys(range(5), straight_up))
    e.select(e.agents)
    played = e.episodes(RED, 100_003)
    assert list(played) == [0, 1, 2][:MAX_AGENTS_SHOWN] and all(
        (o.moves == MOVES.index('up')).all() and len(o.moves) <= 40 for o in played.values()
    )
    with Image.open(io.BytesIO(e.animation(RED, 100_003, scale=2))) as film:
        assert film.n_frames == len(played[0].frames)


@pytest.mark.parametrize('background', ['black', 'textured'])
def test_moments_walk_everywhere(background):
    "By its moves the mouse comes to every open cell that an own search finds, and to no other"
    start = MazeView(100_017, background=background)
    seen, todo = {start.cell}, [start]
    while todo:
        here = todo.pop()
        for m in MOVES:
            if (there := here.moved(m)).cell not in seen:
                seen.add(there.cell)
                todo.append(there)
    grid = generate(DUEL, [100_017]).grid[0]
    reach, edge = {(0, 0)}, [(0, 0)]
    while edge:
        x, y = edge.pop()
        for at in ((x + 1, y), (x - 1, y), (x, y + 1), (x, y - 1)):
            if at not in reach and 0 <= min(at) and max(at) < 5 and grid[at[1], at[0]] == 0:
                reach.add(at)
                edge.append(at)
    assert seen == {x + 5 * y for x, y in reach}


def test_moment_pictures():
    pictures = MazeView(100_003, 'red line', 'yellow gem').pictures(2)
    assert tuple(pictures) == VIEW_NAMES and {p.shape for p in pictures.values()} == {(128, 128, 3)}
    for i, channel in enumerate(('red', 'green', 'blue')):
        assert (pictures[channel] == pictures['observation'][..., i : i + 1]).all()
    with pytest.raises(ValueError, match='facing'):
        MazeView(facing=2)


# Without a browser


def test_view_stores_no_widget_but_a_picture(table):
    need('anywidget')
    from goalmisgen.analysis.widgets import channel_viewer, explore

    for view in (explore(table, select=[0, 1]), channel_viewer()):
        bundle = view._repr_mimebundle_()
        assert set(bundle) >= {'application/vnd.jupyter.widget-view+json', 'image/png'}
        data = base64.b64decode(bundle['image/png'])
        with Image.open(io.BytesIO(data)) as picture:
            assert picture.width > 500
        assert len(data) < 100_000


def test_front_end_fetches_nothing():
    from importlib.resources import files

    for name in ('scatter.js', 'scatter.css'):
        text = files('goalmisgen').joinpath('data', 'widgets', name).read_text(encoding='utf-8')
        for word in ('import ', 'fetch', 'http', '@import', 'url('):
            assert word not in text.replace('http://www.w3.org/2000/svg', ''), (name, word)


def test_choices_that_a_browser_may_send(table):
    need('anywidget')
    from goalmisgen.analysis.widgets import explore

    view = explore(table, select=2)
    assert 'No weights of agent 2' in view.player.note.value
    view.plots[0].set_state(dict(selected=[0, 77]))  # an agent that is not there is passed over
    assert view.explorer.selected == (0,) and [p.selected for p in view.plots] == [[0], [0]]


# In a browser

FLAGS = '--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update --disable-sync'.split()  # noqa: E501
SHOTS = os.environ.get('KEEP_SHOTS')
VOILAS_OWN = (
    'https://cdn.jsdelivr.net/npm/@fortawesome/'  # icons that Voila's page asks for, whatever is on it
)
CELLS = [
    '''
from goalmisgen.agents.examples import example_dir
from goalmisgen.analysis.widgets import channel_viewer, explore
from goalmisgen.evaluation.tables import load_table
''',
    '''
table = load_table('exact-yellow-line-black').query('agent < 27')
settings = ['red line vs yellow gem', 'yellow line vs black gem', 'green line vs red line']
explore(table, settings, agents={n: example_dir(f'exact-{n}') for n in (0, 1, 3, 4)})
''',
    "channel_viewer(100_003, background='textured')",
]


@pytest.fixture(scope='module')
def chromium():
    found = next(
        filter(
            None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable'))
        ),
        None,
    )
    if not found:
        missing('chromium: apt-get install chromium')
    need('playwright')
    from playwright.sync_api import sync_playwright

    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=found, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope='module')
def home(tmp_path_factory):
    "A folder with a notebook, which is also the home of everything that Jupyter writes"
    folder = tmp_path_factory.mktemp('home')
    cells = [
        dict(cell_type='code', execution_count=None, id=f'c{i}', metadata={}, outputs=[], source=s.strip())
        for i, s in enumerate(CELLS)
    ]
    spec = dict(display_name='python3', language='python', name='python3')
    quiet = (
        folder / 'settings/@jupyterlab/apputils-extension/notification.jupyterlab-settings'
    )  # no questions about news
    quiet.parent.mkdir(parents=True)
    quiet.write_text('{"fetchNews": "false", "checkForUpdates": false}')
    (folder / 'app.ipynb').write_text(
        json.dumps(dict(cells=cells, metadata=dict(kernelspec=spec), nbformat=4, nbformat_minor=5))
    )
    return folder


@contextmanager
def server(home, *command):
    "A server on a free port; its address and token. It and its kernels are gone in the end"
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
    token = secrets.token_hex(16)
    folders = {
        k: str(home / k.lower())
        for k in ('JUPYTER_CONFIG_DIR', 'JUPYTER_DATA_DIR', 'JUPYTER_RUNTIME_DIR', 'IPYTHONDIR')
    }
    env = {
        **os.environ,
        **folders,
        'HOME': str(home),
        'JUPYTERLAB_SETTINGS_DIR': str(home / 'settings'),
        'JUPYTER_TOKEN': token,
        'OMP_NUM_THREADS': '1',
    }
    with (home / 'server.log').open('w') as log:
        process = subprocess.Popen(
            [sys.executable, '-m', *command, '--no-browser', f'--port={port}', '--ServerApp.port_retries=0'],
            cwd=home,
            env=env,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        address = f'http://127.0.0.1:{port}'
        wait_for(address, process, home / 'server.log')
        yield address, token
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_for(address, process, log, seconds=60):
    "Wait until something answers"
    for _ in range(4 * seconds):
        assert process.poll() is None, log.read_text()
        try:
            return urllib.request.urlopen(address, timeout=2).close()
        except urllib.error.HTTPError:
            return  # it answers, if only that a token is needed
        except OSError:
            time.sleep(0.25)
    pytest.fail(f'{address} does not answer\n{log.read_text()}')


@contextmanager
def watched(chromium, width=1280, height=1500):
    "A page that must not complain, nor ask for anything from elsewhere"
    context = chromium.new_context(viewport=dict(width=width, height=height), device_scale_factor=1)
    page, complaints, addresses = context.new_page(), [], []
    page.on(
        'console',
        lambda m: complaints.append(f'{m.text} ({m.location.get("url")})') if m.type == 'error' else None,
    )
    page.on('pageerror', lambda e: complaints.append(str(e)))
    page.on('request', lambda r: addresses.append(r.url))
    page.route(f'{VOILAS_OWN}**', lambda route: route.fulfill(body='', content_type='text/css'))
    page.set_default_timeout(60_000)
    try:
        yield page
    finally:
        context.close()
    assert complaints == []
    elsewhere = {
        a
        for a in addresses
        if not a.startswith(('http://127.0.0.1', 'ws://127.0.0.1', 'data:', 'blob:', VOILAS_OWN))
    }
    assert not elsewhere


def shot(page, name):
    if SHOTS:
        page.screenshot(path=Path(SHOTS) / f'{name}.png')


def scenario(page, name):
    "What a person does with both views, with mouse and keys; the answers come from Python"
    plots, view = page.locator('.gm-scatter'), page.locator('.gm-view')
    plots.nth(2).locator('circle').first.wait_for()
    assert plots.count() == 3

    def dot(plot, agent):
        box = plots.nth(plot).locator(f'circle[data-agent="{agent}"]').bounding_box()
        return box['x'] + box['width'] / 2, box['y'] + box['height'] / 2

    def expect(text):
        view.get_by_text(text, exact=False).first.wait_for()

    def chosen(plot):
        return [
            int(a)
            for a in plots.nth(plot)
            .locator('circle.gm-selected')
            .evaluate_all('o => o.map(c => c.dataset.agent)')
        ]

    # a click: Python answers with the agent's numbers, in every plot it is marked, and its episode plays
    plots.nth(0).scroll_into_view_if_needed()
    page.mouse.move(*dot(0, 3))
    assert plots.nth(0).locator('.gm-tip').inner_text().startswith('agent 3: preference')
    page.mouse.click(*dot(0, 3))
    expect('Agent 3')
    expect('time runs out')
    assert [chosen(i) for i in range(3)] == [[3]] * 3
    film = view.locator('img.widget-image')
    film.wait_for()
    page.wait_for_function('o => o.complete && o.naturalWidth > 150', arg=film.element_handle())
    shot(page, f'{name}-click')
    shot(view, f'{name}-view')

    # an arrow key: another agent, the next by preference, in a plot that was not clicked
    plots.nth(2).locator('svg').focus()
    page.keyboard.press('ArrowUp')
    expect(f'Agent {after(3)}')
    assert chosen(0) == chosen(2) == [after(3)]

    # shift and a click: one more
    page.keyboard.down('Shift')
    page.mouse.click(*dot(1, 3))
    page.keyboard.up('Shift')
    expect('2 agents')
    assert sorted(chosen(0)) == sorted([3, after(3)])

    # a rectangle around the whole plot: all; Escape: none
    box = plots.nth(0).locator('svg').bounding_box()
    page.mouse.move(box['x'] + 3, box['y'] + 3)
    page.mouse.down()
    page.mouse.move(box['x'] + box['width'] - 3, box['y'] + box['height'] - 3, steps=4)
    page.mouse.up()
    everyone = plots.nth(0).locator('circle').count()
    expect(f'{everyone} agents')
    plots.nth(0).locator('svg').focus()
    page.keyboard.press('Escape')
    expect('Click a dot')

    # an agent without weights
    stranger = next(
        a
        for a in map(int, plots.nth(0).locator('circle').evaluate_all('o => o.map(c => c.dataset.agent)'))
        if a not in (0, 1, 3, 4)
    )
    page.mouse.click(*dot(0, stranger))
    expect(f'No weights of agent {stranger}')
    assert not film.is_visible()

    # the channel viewer
    page.get_by_title('move up').click()
    page.get_by_text('row 2 from the bottom').wait_for()
    page.get_by_role('button', name='next level').last.click()
    page.get_by_text('row 1 from the bottom').wait_for()
    page.get_by_title('move up').scroll_into_view_if_needed()
    shot(page, f'{name}-channels')


def after(agent):
    "The next agent by preference between a green and a red line"
    t = load_table('exact-yellow-line-black')
    order = (
        t[(t.agent < 27) & (t.obj1 == 'green line') & (t.obj2 == 'red line')]
        .sort_values('preference')
        .agent.tolist()
    )
    return order[order.index(agent) + 1]


def test_jupyterlab(chromium, home):
    need('jupyterlab')
    options = [
        '--ip=127.0.0.1',
        '--allow-root',
        '--LabApp.expose_app_in_browser=True',
        '--LabApp.extension_manager=readonly',
    ]
    with server(home, 'jupyterlab', *options) as (address, token), watched(chromium) as page:
        page.goto(f'{address}/lab/tree/app.ipynb?token={token}')
        # the page calls a kernel idle before there is one: ask the kernel itself
        page.wait_for_function(
            "window.jupyterapp?.shell.currentWidget?.context?.sessionContext?.session?.kernel?.status === "
            "'idle'"
        )
        page.evaluate("window.jupyterapp.commands.execute('notebook:run-all-cells')")
        scenario(page, 'lab')


def test_voila(chromium, home):
    need('voila')
    with (
        server(home, 'voila', 'app.ipynb', '--Voila.ip=127.0.0.1') as (address, token),
        watched(chromium, 1000) as page,
    ):
        page.goto(f'{address}/?token={token}')
        scenario(page, 'voila')
        page.set_viewport_size(dict(width=400, height=1600))  # a phone: nothing is wider than the page
        page.wait_for_timeout(300)
        shot(page, 'voila-narrow')
        for plot in page.locator('.gm-scatter').all():
            assert plot.bounding_box()['x'] + plot.bounding_box()['width'] <= 400
