"Turn a notebook's cells into the markdown that pandoc, which is also Quarto's reader, makes pages from"

import base64
import json
import re
from collections.abc import Callable

import yaml
from project import text

# What pages may use; Quarto knows more, but a preview that guesses would differ from the site
OPTIONS = {
    'echo',
    'output',
    'eval',
    'include',
    'warning',
    'code-fold',
    'code-summary',
    'fig-cap',
    'fig-alt',
    'label',
    'classes',
    'language',
}
IMAGES = {
    'image/svg+xml': 'svg',
    'image/png': 'png',
    'image/gif': 'gif',
    'image/jpeg': 'jpg',
    'image/webp': 'webp',
}
FENCE = '`' * 4
Save = Callable[[bytes, str], str]  # stores an image of some kind and returns its address


class Unknown(Exception):
    "Something that the preview cannot show as Quarto would"


def options(source: str) -> tuple[dict, str]:
    "A code cell's `#| name: value` options, and its code without them"
    found, lines = {}, source.splitlines()
    while lines and lines[0].startswith('#|'):
        match = re.fullmatch(r'#\|\s*([\w-]+)\s*:\s*(.*)', lines.pop(0).rstrip())
        if match:
            found[match[1]] = yaml.safe_load(match[2])
    unknown = found.keys() - OPTIONS
    if unknown:
        raise Unknown(f"cell option {', '.join(sorted(unknown))}")
    return found, '\n'.join(lines).strip('\n')


def plain(lines) -> str:
    return f'::: cell-output\n{FENCE}\n{text(lines).rstrip()}\n{FENCE}\n:::'


def image(kind: str, out: dict, opts: dict, save: Save) -> str:
    "An image, stored as a file, with the size that the notebook gives it and the cell's caption and label"
    data = text(out['data'][kind])
    url = save(data.encode() if 'svg' in kind else base64.b64decode(data), IMAGES[kind])
    size = out.get('metadata', {}).get(kind, {})
    attrs = {'#': opts.get('label'), 'width=': size.get('width'), 'fig-alt=': opts.get('fig-alt')}
    attrs = ' '.join(k + (json.dumps(v) if k == 'fig-alt=' else str(v)) for k, v in attrs.items() if v)
    return f"![{opts.get('fig-cap', '')}]({url})" + f'{{{attrs}}}' * bool(attrs)


def output(out: dict, opts: dict, save: Save) -> str:
    "One output of a cell in the richest form that a page can hold"
    kind = out['output_type']
    if kind == 'error':
        raise Unknown(f"stored error {out['ename']}: {out['evalue']}")
    if kind == 'stream':
        return plain(out['text'])
    data = out['data']
    for rich in IMAGES:
        if rich in data:
            return image(rich, out, opts, save)
    if 'text/markdown' in data:
        return text(data['text/markdown'])
    if 'text/html' in data:
        return f"::: cell-output\n{FENCE}{{=html}}\n{text(data['text/html'])}\n{FENCE}\n:::"
    if 'text/latex' in data:
        return text(data['text/latex'])
    if 'text/plain' in data:
        return plain(data['text/plain'])
    raise Unknown(f"output of {', '.join(data)}")


def code(source: str, opts: dict) -> str:
    block = f'{FENCE}python\n{source}\n{FENCE}'
    fold = opts.get('code-fold')
    if fold in (None, False):
        return block
    return f"<details{' open' if fold == 'show' else ''}><summary>{opts.get('code-summary', 'Code')}</summary>\n\n{block}\n\n</details>"  # noqa: E501


def code_cell(cell: dict, save: Save) -> str:
    "A code cell: what it shows of its code, then its outputs"
    opts, source = options(text(cell['source']))
    if opts.get('include') is False:
        return ''
    parts = [code(source, opts)] if source and opts.get('echo', True) is not False else []
    if opts.get('output') is not False:
        parts += [output(o, opts, save) for o in cell.get('outputs', [])]
    body = '\n\n'.join(parts)
    return f"::: {{.{opts['classes']}}}\n{body}\n:::" if opts.get('classes') and body else body


def markdown(nb: dict, save: Save) -> str:
    "All cells of a notebook, as one text; raw cells hold the page's title and description"
    parts = []
    for i, cell in enumerate(nb['cells']):
        try:
            parts.append(code_cell(cell, save) if cell['cell_type'] == 'code' else text(cell['source']))
        except Unknown as e:
            raise Unknown(f'cell {i}: {e}') from None
    return '\n\n'.join(o for o in parts if o.strip())
