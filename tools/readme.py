"Write README.md from nbs/index.ipynb: `python tools/readme.py`. Computed images go to nbs/images/readme-*."
import json
import re
from pathlib import Path

import pypandoc
from pandoc_markdown import markdown
from project import ROOT, settings

HIDDEN = re.compile(r'^#\|\s*(hide|export|exporti|default_exp)\b', re.M)


def relative(target: str) -> bool:
    return not re.match(r'[a-z]+:|#|/', target)


def site_links(body: str, root: Path) -> str:
    "Links to notebooks become links to their pages; other relative addresses are taken from the project's folder"
    site = settings(root)
    home = (site.get('doc_host', '') + site.get('doc_baseurl', '')) % site

    def fix(match):
        target = match[2]
        if not relative(target): return match[0]
        page, _, anchor = target.partition('#')
        if not page.endswith('.ipynb'): return f'{match[1]}nbs/{target}'
        folder, _, name = page.rpartition('/')
        name = re.sub(r'^\d+_', '', name).replace('.ipynb', '.html')
        return f"{match[1]}{home}/{folder + '/' if folder else ''}{name}{'#' + anchor if anchor else ''}"

    body = re.sub(r'(\]\()([^)\s]+)', fix, body)
    return re.sub(r'(<img [^>]*src=")([^"]+)', fix, body)


def render(root: Path) -> dict[str, bytes]:
    "The files that the index makes: README.md and its images, by their paths"
    nb = json.loads((root/'nbs/index.ipynb').read_text(encoding='utf-8'))
    nb['cells'] = [c for c in nb['cells'] if c['cell_type'] == 'markdown' or c['cell_type'] == 'code' and not HIDDEN.search(''.join(c['source']))]
    files = {}

    def save(data: bytes, suffix: str) -> str:
        path = f'nbs/images/readme-{len(files) + 1}.{suffix}'
        files[path] = data
        return path.removeprefix('nbs/')

    body = markdown(nb, save)
    args = ['--wrap=none', f"--lua-filter={ROOT/'tools/website/readme.lua'}"]
    body = pypandoc.convert_text(body, 'gfm', format='markdown', extra_args=args)
    note = '<!-- Written from nbs/index.ipynb by `make readme`: edit the notebook, not this file. -->\n\n'
    return {'README.md': (note + site_links(body, root)).encode(), **files}


def links(root: Path) -> list[str]:
    "The files that the README points to"
    body = (root/'README.md').read_text(encoding='utf-8')
    found = re.findall(r'\]\(([^)\s]+)|<img [^>]*src="([^"]+)', body)
    return [target.partition('#')[0] for pair in found for target in pair if target and relative(target)]


def main():
    for name, data in render(ROOT).items():
        (ROOT/name).parent.mkdir(parents=True, exist_ok=True)
        (ROOT/name).write_bytes(data)


if __name__ == '__main__': main()
