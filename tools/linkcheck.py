"""Check the links, anchors and images of a built site: `python tools/linkcheck.py _site`; exit status 1 when
one is broken"""

import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote


class Page(HTMLParser):
    "The anchors of a page and what it refers to"

    def __init__(self, path: Path):
        super().__init__()
        self.anchors, self.links = set(), []
        self.feed(path.read_text(encoding='utf-8'))

    def handle_starttag(self, tag, attrs):
        for name, value in attrs:
            if name == 'id':
                self.anchors.add(value)
            elif value and name == ('href' if tag in ('a', 'link') else 'src'):
                self.links.append(value)


def broken(root: Path) -> list[str]:
    "Complaints about links within the site that lead nowhere; links to elsewhere are not followed"
    pages = {path.resolve(): Page(path) for path in sorted(root.rglob('*.html'))}
    bad = [] if pages else [f'{root}: no pages']
    for path, page in pages.items():
        for link in page.links:
            if re.match('[a-z]+:', link):
                continue
            address, _, anchor = unquote(link).partition('#')
            target = (path.parent / address).resolve() if address else path
            if not target.is_file():
                bad.append(f'{path.relative_to(root.resolve())}: {link} leads nowhere')
            elif anchor and target in pages and anchor not in pages[target].anchors:
                bad.append(f'{path.relative_to(root.resolve())}: {link}: no such anchor')
    return bad


if __name__ == '__main__':
    found = broken(Path(sys.argv[1]))
    print('\n'.join(found) or 'all links lead somewhere')
    sys.exit(bool(found))
