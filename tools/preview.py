"""Render the processed notebooks with pandoc, where quarto is not at hand: `python tools/preview.py _proc
_site`

The pages hold the same text under the same addresses and anchors as Quarto's, in a plainer dress. What the
preview does not know (a cell option, a div, a reference) stops it.
"""

import html
import json
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pypandoc
import search
import yaml
from pandoc_markdown import Unknown, markdown
from project import ROOT, text

STYLE = ROOT / 'tools/website'
FILES = {'.png', '.gif', '.jpg', '.jpeg', '.svg', '.webp', '.mp4', '.csv', '.css'}


@dataclass
class Page:
    source: str  # path of the notebook in the processed folder
    nb: dict
    title: str
    description: str
    path: Path  # of the page in the site
    place: tuple  # titles of the sections that it is in, outermost first

    @property
    def kind(self) -> str:
        "What the page is for, as the search calls it"
        return 'Glossary' if self.path.stem == 'glossary' else self.place[0] if self.place else 'Start'

    @property
    def up(self) -> str:
        "From the page to the site's top folder"
        return '../' * (len(self.path.parts) - 1) or './'


def load(folder: Path, source: str, place: tuple) -> Page:
    nb = json.loads((folder / source).read_text(encoding='utf-8'))
    meta = yaml.safe_load(text(nb['cells'][0]['source']).strip().strip('-'))
    if 'title' not in meta or 'description' not in meta:
        raise SystemExit(f'{source}: needs a title and a description')
    return Page(
        source, nb, meta['title'], meta['description'], Path(source).parent / meta['output-file'], place
    )


def below(folder: Path, items: list, place: tuple) -> list[Page]:
    found = []
    for item in items:
        if isinstance(item, str):
            found.append(load(folder, item, place))
        else:
            found += below(folder, item['contents'], (*place, item['section']))
    return found


def pages(folder: Path) -> list[Page]:
    "The pages of the sidebar, in order"
    return below(
        folder, yaml.safe_load((folder / 'sidebar.yml').read_text())['website']['sidebar']['contents'], ()
    )


def link(page: Page, target: Page, label: str = '', **attrs) -> str:
    attrs = ''.join(f' {k.strip("_")}="{v}"' for k, v in attrs.items() if v)
    return f'<a href="{page.up}{target.path.as_posix()}"{attrs}>{label}{html.escape(target.title)}</a>'


def sidebar(page: Page, site: list[Page]) -> str:
    """The list of pages; sections fold, and those that the page is in are open; on the first page, all outer
    ones"""
    lines, open_ = [], ()
    for o in site:
        same = next(
            (i for i, (a, b) in enumerate(zip(open_, o.place)) if a != b), min(len(open_), len(o.place))
        )
        lines += ['</details>'] * (len(open_) - same)
        for i in range(same, len(o.place)):
            here = page.place[: i + 1] == o.place[: i + 1] or not page.place and i == 0
            lines.append(f"<details{' open' * here}><summary>{html.escape(o.place[i])}</summary>")
        open_ = o.place
        lines.append(link(page, o, class_='here' if o is page else ''))
    return '\n'.join(lines + ['</details>'] * len(open_))


def neighbours(page: Page, site: list[Page]) -> str:
    i = site.index(page)
    before = link(page, site[i - 1], '← ', rel='prev') if i else '<span></span>'
    after = link(page, site[i + 1], rel='next').replace('</a>', ' →</a>') if i + 1 < len(site) else ''
    return before + after


def render(page: Page, site: list[Page], dest: Path, config: dict):
    "Write one page and its images"
    target = dest / page.path
    target.parent.mkdir(parents=True, exist_ok=True)
    files = target.with_name(target.stem + '_files')
    count = 0

    def save(data: bytes, suffix: str) -> str:
        nonlocal count
        count += 1
        files.mkdir(exist_ok=True)
        (files / f'figure-{count}.{suffix}').write_bytes(data)
        return f'{files.name}/figure-{count}.{suffix}'

    try:
        body = markdown(page.nb, save).replace(config['site-url'] + '/', page.up)
        variables = dict(
            nav=sidebar(page, site),
            neighbours=neighbours(page, site),
            root=page.up,
            site=config['title'],
            repo=config['repo-url'],
        )
        pypandoc.convert_text(
            body,
            'html5',
            format='markdown',
            outputfile=str(target),
            extra_args=[
                '--standalone',
                '--toc',
                '--toc-depth=3',
                '--mathml',
                '--syntax-highlighting=kate',
                '--wrap=preserve',
                f"--template={STYLE / 'page.html'}",
                f"--lua-filter={STYLE / 'quarto.lua'}",
                *(f'--variable={k}={v}' for k, v in variables.items()),
            ],
        )
    except (Unknown, RuntimeError) as e:
        raise SystemExit(f'{page.source}: {e}') from None


def build(folder: Path, dest: Path) -> list[Page]:
    "Render a folder of processed notebooks into a site"
    site, config = pages(folder), yaml.safe_load((folder / 'nbdev.yml').read_text())['website']
    shutil.rmtree(dest, ignore_errors=True)
    for path in folder.rglob('*'):
        if path.suffix in FILES:
            copy = dest / path.relative_to(folder)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, copy)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda page: render(page, site, dest, config), site))
    for name in ['site.css', 'search.js']:
        shutil.copy(STYLE / name, dest / name)
    search.write(dest, [(o.path.as_posix(), o.title, o.kind, o.description) for o in site])
    return site


if __name__ == '__main__':
    print(len(build(Path(sys.argv[1]), Path(sys.argv[2]))), 'pages')
