"The pages of the site: their search finds what it should, and the code that they show would run"

import ast
import importlib
import inspect
import json
import re
import shlex
from html.parser import HTMLParser
from pathlib import Path

import linkcheck
import preview
import pytest
import search
import sidebar
from project import ROOT, Cell, Notebook, notebooks, settings
from test_tooling import code, md, printed, processed, write

pytestmark = pytest.mark.slow

PACKAGE = settings(ROOT)['lib_name']
SITE = ROOT / '_site'


# The search, in the language that it is written in


@pytest.fixture(scope='module')
def engine():
    "A JavaScript engine that has read the search, and a function that searches a site"
    quickjs = pytest.importorskip(
        'quickjs', reason='the search is JavaScript: pip install quickjs to test it'
    )
    loaded = {}

    def searching(site: Path):
        if site not in loaded:
            context = quickjs.Context()
            context.eval((ROOT / 'tools/website/search.js').read_text(encoding='utf-8'))
            context.eval(
                (site / search.NAME).read_text(encoding='utf-8')
                + f'var prepared = prepare({search.VARIABLE})'
            )
            loaded[site] = context

        def ask(query, limit=10):
            return json.loads(
                loaded[site].eval(f'JSON.stringify(search(prepared, {json.dumps(query)}, {limit}))')
            )

        return ask

    searching.eval = lambda source: json.loads(context_of(quickjs).eval(f'JSON.stringify({source})'))
    return searching


def context_of(quickjs):
    context = quickjs.Context()
    context.eval((ROOT / 'tools/website/search.js').read_text(encoding='utf-8'))
    return context


@pytest.mark.parametrize(
    'text,found',
    [
        ('train_population', ['trainpopulation', 'train', 'population']),
        ('PPOConfig', ['ppoconfig', 'ppo', 'config']),
        ('Özgür Şimşek', ['ozgur', 'simsek']),
        ('The levels of a maze', ['level', 'maze']),
        ('misgeneralisation', ['misgeneralization']),
        ('grey colours', ['gray', 'color']),
        ('basis of chess, 3.09', ['basis', 'chess', '3', '09']),
    ],
)
def test_words(engine, text, found):
    assert engine.eval(f'words({json.dumps(text)})') == found


DEFINITION = '### reach_goal\n\n``` python\ndef reach_goal(steps=500)\n```\n\n*Walk there.*'


@pytest.fixture
def toy(tmp_path):
    folder = processed(
        tmp_path,
        md('## Timeouts\n\nAn episode of 500 steps.'),
        md(DEFINITION),
        md('## Reach the goal\n\nBy walking on and on.'),
        code('zebra_crossing(3)', printed('hidden in an output')),
    )
    preview.build(folder, tmp_path / 'site')
    return tmp_path / 'site'


def test_index_of_a_page(toy):
    found = search.read(toy)
    assert found['pages'] == [
        ['index.html', 'A page', 'Start', 'A sentence'],
        ['env/one.html', 'A page', 'Environment', 'A sentence'],
    ]
    rows = {(page, anchor): rest for page, anchor, *rest in found['sections']}
    assert rows[1, 'timeouts'] == ['Timeouts', 0, 'An episode of 500 steps.', '']
    assert rows[1, 'reach_goal'] == ['reach_goal', 1, 'Walk there.', 'def reach_goal steps']
    assert rows[1, 'reach-the-goal'] == ['Reach the goal', 0, 'By walking on and on.', 'zebra_crossing']


def test_toy_search(engine, toy):
    ask = engine(toy)
    first = ask('timeout')[0]
    assert first == dict(
        url='env/one.html#timeouts',
        page='A page',
        heading='Timeouts',
        kind='Environment',
        snippet='An episode of 500 steps.',
    )
    assert [
        ask(q)[0]['heading'] for q in ('reach_goal', 'reach_goal()', 'reach goal', 'walk', 'zebra', 'episo')
    ] == ['reach_goal', 'reach_goal', 'Reach the goal', 'reach_goal', 'Reach the goal', 'Timeouts']
    assert ask('hidden') == ask('') == ask('the') == ask('xylophone') == [] and len(ask('page', 1)) == 1


# The site that `make docs-preview` has built


@pytest.fixture(scope='module')
def site():
    if not (SITE / search.NAME).exists():
        pytest.skip('no site: `make docs-preview` builds it')
    return SITE


class Headings(HTMLParser):
    "Anchors of a page's headings in its main part"

    def __init__(self, text):
        super().__init__()
        self.found, self.main = [], False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        if tag == 'main':
            self.main = True
        if self.main and re.fullmatch('h[234]', tag) and dict(attrs).get('id'):
            self.found.append(dict(attrs)['id'])


def test_index_has_every_page_and_heading(site):
    found = search.read(site)
    addresses = [o[0] for o in found['pages']]
    assert sorted(addresses) == sorted(p.relative_to(site).as_posix() for p in site.rglob('*.html'))
    for i, address in enumerate(addresses):
        anchors = [anchor for page, anchor, *_ in found['sections'] if page == i]
        assert anchors == ['', *Headings((site / address).read_text(encoding='utf-8')).found], address
    assert (site / search.NAME).stat().st_size < 1_200_000


# What one may look for, and where it should lead
WANTED = dict(
    preference='glossary.html#preference',
    timeout='glossary.html#timeout',
    timeouts='glossary.html#timeout',
    capability='glossary.html#capability',
    rollout='glossary.html#rollout',
    PPOConfig='agents/ppo.html#ppoconfig',
    ppoconfig='agents/ppo.html#ppoconfig',
    evaluate_exact='evaluation/exact.html#evaluate_exact',
    train_population='agents/population.html#train_population',
    load_example='agents/examples.html#load_example',
    WatchOptions='films/watch.html#watchoptions',
    save_gif='films/video.html#save_gif',
    GymnasiumMazes='env/adapters.html#gymnasiummazes',
    misgeneralization='glossary.html#goal-misgeneralisation',
    dedup='glossary.html#dedup',
)
PAGES = {
    'your first population': 'tutorials/first_population.html',
    'ray cluster': 'how_to/use_gpu_or_cluster.html agents/cluster.html',
    'three seeds': 'explanation/three_seeds.html agents/training.html',
    'cite': 'citing.html',
    'watch agents': 'how_to/watch_agents.html',
    'published results': 'how_to/read_published.html',
    'gymnasium': 'env/adapters.html how_to/other_libraries.html',
    'train the agents of the paper': 'how_to/train_agents.html',
    'resume a run': 'how_to/resume_and_reproduce.html',
    'changelog': 'changelog.html',
}


@pytest.mark.parametrize('query', WANTED)
def test_search_leads_to(engine, site, query):
    assert engine(site)(query)[0]['url'] == WANTED[query]


@pytest.mark.parametrize('query', PAGES)
def test_search_finds_page(engine, site, query):
    found = engine(site)(query)
    assert found and found[0]['url'].partition('#')[0] in PAGES[query].split(), [o['url'] for o in found]


def test_every_result_leads_somewhere(engine, site):
    anchors = {}
    for query in [*WANTED, *PAGES, 'maze', 'agent', 'seed', 'level', 'figure']:
        for o in engine(site)(query):
            address, _, anchor = o['url'].partition('#')
            if address not in anchors:
                anchors[address] = linkcheck.Page(site / address).anchors
            assert not anchor or anchor in anchors[address], o['url']


def test_pages_are_light_and_stand_alone(site):
    for path in site.rglob('*.html'):
        text = path.read_text(encoding='utf-8')
        assert len(text.encode()) < 200_000, path
        assert not re.findall(r'<(?:script|img|iframe)[^>]* src="https?:|<link[^>]* href="https?:', text), (
            path
        )
        assert 'name="viewport"' in text and 'role="search"' in text, path


def test_symbols_are_linked(site):
    "A symbol of the package in backticks links to its definition, on the pages that are prose"
    modules = importlib.import_module(f'{PACKAGE}._modidx').d['syms']
    symbols = {o.removeprefix(f'{m}.') for m, syms in modules.items() for o in syms}
    seen = 0
    for nb in PROSE:
        page = site / name(nb)
        page = page.with_name(re.sub(r'^\d+_', '', page.stem) + '.html')
        text = page.read_text(encoding='utf-8').partition('<main')[2].partition('</main>')[0]
        for before, symbol in re.findall(r'(<a [^>]*>)?<code>([\w.]+)(?:\(\))?</code>', text):
            if symbol not in symbols or symbol.startswith('_'):
                continue
            assert before, f'{page.name}: {symbol} is not a link'
            seen += 1
    assert seen > 30


# The code that pages show

TREE = sidebar.contents(ROOT)


def listed(tree):
    return [p for o in tree for p in ([o] if isinstance(o, str) else listed(o[1]))]


PROSE = [nb for nb in notebooks(ROOT) if nb.module is None]  # pages that are not modules


def name(nb):
    return nb.path.relative_to(ROOT / 'nbs').as_posix()


def test_sidebar_has_every_page():
    assert sorted(listed(TREE)) == sorted(name(nb) for nb in notebooks(ROOT))


def blocks(nb):
    "The Python of a page: its cells, and fenced blocks in its text"
    for cell in nb.cells:
        if cell.kind == 'code':
            yield cell.parse()
        else:
            yield from (
                ast.parse(o) for o in re.findall(r'^``` ?python\n(.*?)^```', cell.source, re.M | re.S)
            )


def imported(nb) -> dict:
    "What a page imports from the package, by the name it has there; raises if it is not there"
    found = {}
    for tree in blocks(nb):
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or '').split('.')[0] == PACKAGE:
                module = importlib.import_module(node.module)
                for o in node.names:
                    try:
                        found[o.asname or o.name] = getattr(module, o.name)
                    except AttributeError:
                        found[o.asname or o.name] = importlib.import_module(f'{node.module}.{o.name}')
    return found


def wrong_calls(nb) -> list[str]:
    "Calls of the package's functions and classes with arguments that they do not take"
    known, bad = imported(nb), []
    for tree in blocks(nb):
        for node in ast.walk(tree):
            if not (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Name)
                and callable(known.get(node.func.id))
            ):
                continue
            if any(isinstance(a, ast.Starred) for a in node.args):
                continue
            named = {k.arg: None for k in node.keywords if k.arg}
            call = inspect.signature(known[node.func.id]).bind_partial
            try:
                call(*[None] * len(node.args), **named)
            except TypeError as e:
                bad.append(f'{ast.unparse(node)}: {e}')
    return bad


@pytest.mark.parametrize('nb', PROSE, ids=name)
def test_code_of_pages(nb):
    """Everything that a page imports exists, and is called with arguments that it has, in cells that are not
    run too"""
    assert wrong_calls(nb) == []


def commands(nb) -> list[str]:
    "The commands of this package that a page shows"
    text = '\n'.join(c.source for c in nb.cells if c.kind == 'markdown')
    return [
        o.partition('  #')[0].strip()
        for block in re.findall(r'^``` ?(?:sh|bash)\n(.*?)^```', text, re.M | re.S)
        for o in block.splitlines()
        if o.startswith(f'{PACKAGE} ')
    ]


@pytest.mark.parametrize('nb', [nb for nb in PROSE if commands(nb)], ids=name)
def test_commands_of_pages(nb):
    "Every command that a page shows is one that the command line understands"
    import tyro

    from goalmisgen.cli import commands_for

    for line in commands(nb):
        tyro.extras.subcommand_cli_from_dict(commands_for([]), args=shlex.split(line)[1:], prog=PACKAGE)


def test_wrong_code_is_noticed(tmp_path):
    def page(source):
        return Notebook.read(write(tmp_path / 'page.ipynb', md('# Title\n\n> A sentence'), code(source)))

    assert wrong_calls(page('from goalmisgen.agents.ppo import PPOConfig\nPPOConfig(goal="red line")')) == []
    assert (
        'colour'
        in wrong_calls(
            page('#| eval: false\nfrom goalmisgen.agents.ppo import PPOConfig\nPPOConfig(colour="red")')
        )[0]
    )
    with pytest.raises(ImportError):
        imported(page('from goalmisgen.agents.ppo import Nothing'))
    assert commands(
        Notebook(Path('x'), [Cell('markdown', '```sh\ngoalmisgen train x  # a comment\nls\n```')])
    ) == ['goalmisgen train x']
