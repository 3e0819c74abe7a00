"""Write the index that the preview's search reads: `python tools/search.py _site`; Quarto's site has a search
of its own

The index is a script that sets one variable, so that it also loads where pages are opened from a disk,
without a server. It lists pages as [address, title, kind, description] and their sections as [page, anchor,
heading, is it a definition?, text, names in code]. The ranking is in tools/website/search.js.
"""

import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

NAME, VARIABLE = 'search-index.js', 'siteIndex'
HEADINGS, SKIPPED, VOID = (
    {'h2', 'h3', 'h4'},
    {'script', 'style', 'math', 'svg', 'select'},
    {'br', 'img', 'hr', 'input', 'col', 'meta', 'link', 'wbr'},
)


class Sections(HTMLParser):
    "The sections of a page: [anchor, heading, code, text]; the first is what stands before any heading"

    def __init__(self, text: str):
        super().__init__()
        self.found, self.stack, self.inside = [['', '', '', '']], [], False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if tag == 'main':
            self.inside = True
        if not self.inside or tag in VOID:
            return
        classes = (attrs.get('class') or '').split()
        source = tag == 'a' and 'float' in (attrs.get('style') or '')  # the link to a definition's code
        quiet = (
            tag in SKIPPED
            or tag == 'h1'
            or source
            or bool({'cell-output', 'neighbours', 'lede'} & set(classes))
        )
        self.stack.append((tag, quiet or bool(self.stack and self.stack[-1][1])))
        if tag in HEADINGS and attrs.get('id'):
            self.found.append([attrs['id'], '', '', ''])

    def handle_endtag(self, tag):
        if tag == 'main':
            self.inside, self.stack = False, []
        if not self.inside:
            return
        while self.stack and self.stack.pop()[0] != tag:
            pass
        self.found[-1][3] += ' ' * (tag not in ('a', 'code', 'em', 'strong', 'span'))

    def handle_data(self, data):
        if not self.stack or self.stack[-1][1]:
            return
        tags = {tag for tag, _ in self.stack}
        place = 1 if HEADINGS & tags else 2 if 'pre' in tags else 3
        self.found[-1][place] += data


def tidy(text: str) -> str:
    return ' '.join(text.split())


def section(anchor: str, heading: str, code: str, text: str) -> list:
    "A section as the index has it; of code, the different names"
    heading = tidy(heading)
    defined = (
        bool(re.match(rf'\s*(class|def|async def) {re.escape(heading.split(".")[-1])}\b', code))
        if heading
        else False
    )
    known = set(re.findall(r'\w+', text))
    names = dict.fromkeys(o for o in re.findall(r'[A-Za-z_][\w-]{2,}', code) if o not in known)
    return [anchor, heading, int(defined), tidy(text), ' '.join(names)]


def index(site: Path, pages: list[tuple[str, str, str, str]]) -> dict:
    "The index of built pages, given as address, title, kind and description"
    sections = []
    for i, (address, *_) in enumerate(pages):
        found = Sections((site / address).read_text(encoding='utf-8')).found
        sections += [[i, *section(*o)] for o in found]
    return dict(pages=[list(o) for o in pages], sections=sections)


def write(site: Path, pages: list[tuple[str, str, str, str]]):
    "Write the index beside the pages"
    data = json.dumps(index(site, pages), ensure_ascii=False, separators=(',', ':'))
    (site / NAME).write_text(f'var {VARIABLE} = {data};\n', encoding='utf-8')


def read(site: Path) -> dict:
    "The index of a built site"
    return json.loads(
        (site / NAME)
        .read_text(encoding='utf-8')
        .removeprefix(f'var {VARIABLE} = ')
        .rstrip()
        .removesuffix(';')
    )


if __name__ == '__main__':
    found = read(Path(sys.argv[1]))
    print(f"{len(found['pages'])} pages, {len(found['sections'])} sections")
