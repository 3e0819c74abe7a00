"Write README.md from nbs/index.ipynb: `python tools/readme.py`. Computed images go to nbs/images/readme-*."

import json
import re
from pathlib import Path

import pypandoc
from pandoc_markdown import markdown
from project import ROOT

HIDDEN = re.compile(r'^#\|\s*(hide|export|exporti|default_exp)\b', re.M)


def relative(target: str) -> bool:
    return not re.match(r'[a-z]+:|#|/', target)


def from_root(body: str) -> str:
    "Relative addresses, which the notebook means from its own folder, as seen from the project's"

    def fix(match):
        return f'{match[1]}nbs/{match[2]}' if relative(match[2]) else match[0]

    return re.sub(r'(<img [^>]*src=")([^"]+)', fix, re.sub(r'(\]\()([^)\s]+)', fix, body))


def render(root: Path) -> dict[str, bytes]:
    "The files that the index makes: README.md and its images, by their paths"
    nb = json.loads((root / 'nbs/index.ipynb').read_text(encoding='utf-8'))
    nb['cells'] = [
        c
        for c in nb['cells']
        if c['cell_type'] == 'markdown'
        or c['cell_type'] == 'code'
        and not HIDDEN.search(''.join(c['source']))
    ]
    files = {}

    def save(data: bytes, suffix: str) -> str:
        path = f'nbs/images/readme-{len(files) + 1}.{suffix}'
        files[path] = data
        return path.removeprefix('nbs/')

    body = markdown(nb, save)
    args = ['--wrap=none', f"--lua-filter={ROOT / 'tools/website/readme.lua'}"]
    body = pypandoc.convert_text(body, 'gfm', format='markdown', extra_args=args)
    note = '<!-- Written from nbs/index.ipynb by `make readme`: edit the notebook, not this file. -->\n\n'
    return {'README.md': (note + from_root(body)).encode(), **files}


def links(root: Path) -> list[str]:
    "The files that the README points to"
    body = (root / 'README.md').read_text(encoding='utf-8')
    found = re.findall(r'\]\(([^)\s]+)|<img [^>]*src="([^"]+)', body)
    return [target.partition('#')[0] for pair in found for target in pair if target and relative(target)]


def main():
    for name, data in render(ROOT).items():
        (ROOT / name).parent.mkdir(parents=True, exist_ok=True)
        (ROOT / name).write_bytes(data)


if __name__ == '__main__':
    main()
