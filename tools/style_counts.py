"""Count how the code is written, over all exported cells: `python tools/style_counts.py`

Figures to look at beside those of other projects; the limits are in tools/check.py. Docstrings are judged by
the words in them, which is rough: one that names its source in other words counts as one without.
"""

import ast
import re
from statistics import median

from check import length, modules, public, unbroken
from project import ROOT, notebooks

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
TYPES = r'\b(?:u?int|float)\d+|\b(?:array|tensor|DataFrame|frame|list|dict|bool)s?\b'
SAYS = {
    'shape or type': rf'\bshapes?\b|\bdtype|{TYPES}|\((?:N|\w+, ?)+\)',
    'errors': r'\b[Rr]aises?\b|Error\b|\brefuse[sd]?\b',
    'source': r'\bpapers?\b|et al|https?:|arXiv|\b(?:19|20)\d\d\b',
}


def share(found, of) -> str:
    return f'{100 * found / of:.1f} %' if of else '-'


def of_lines(cells) -> dict[str, str]:
    lengths = sorted(map(length, cells))
    lines = [o for c in cells for o in c.body.splitlines() if o.strip()]
    figures = [f'{median(lengths):g}', lengths[int(0.95 * len(lengths))], lengths[-1]]
    over = [share(sum(len(o) > n for o in lines), len(lines)) for n in (100, 120, 140)]
    return {
        'exported cells': str(len(cells)),
        'their lines: median, 95th percentile, longest': ', '.join(map(str, figures)),
        'code lines over 100 / 120 / 140 characters': ' / '.join(over),
    }


def of_names(nodes) -> dict[str, str]:
    assigned = [o for o in nodes if isinstance(o, ast.Assign)]
    tuples = [o for o in assigned if isinstance(o.value, ast.Tuple)]
    packed = [len(o.value.elts) for o in tuples if any(isinstance(t, ast.Tuple) for t in o.targets)]
    bound = [o.id for o in nodes if isinstance(o, ast.Name) and isinstance(o.ctx, ast.Store)]
    bound += [o.arg for o in nodes if isinstance(o, ast.arg)]
    bound = [o for o in bound if o not in ('_', 'self', 'cls')]
    return {
        'assignments that pack several values': share(len(packed), len(assigned)),
        'how many of them pack three or more': str(sum(n > 2 for n in packed)),
        'one-letter names, of all that are bound': share(sum(len(o) == 1 for o in bound), len(bound)),
    }


def of_rhythm(nbs) -> dict[str, str]:
    nbs = [nb for nb in nbs if nb.module]
    written = sum(c.kind == 'markdown' for nb in nbs for c in nb.cells)
    runs = [run for nb in nbs for run in unbroken(nb)]
    return {
        'markdown cells per exported cell': f'{written / max(sum(map(len, runs)), 1):.2f}',
        'runs of three or more exported cells without text': str(sum(len(run) > 2 for run in runs)),
    }


def parameters(function) -> list[ast.arg]:
    every = [o for o in ast.iter_child_nodes(function.args) if isinstance(o, ast.arg)]
    return [o for o in every if o.arg not in ('self', 'cls')]


def shown(tree) -> list:
    "The public functions, methods and classes of a module"
    found = [o for o in tree.body if isinstance(o, (*FUNCTIONS, ast.ClassDef)) and o.name in public(tree)]
    inside = [o for node in found if isinstance(node, ast.ClassDef) for o in node.body]
    return found + [o for o in inside if isinstance(o, FUNCTIONS) and not o.name.startswith('_')]


def of_parameters(trees) -> dict[str, str]:
    functions = [parameters(o) for tree, _ in trees for o in ast.walk(tree) if isinstance(o, FUNCTIONS)]
    every, told = [o for found in functions for o in found], []
    for tree, lines in trees:
        for o in [o for f in shown(tree) if isinstance(f, FUNCTIONS) for o in parameters(f)]:
            rest = lines[o.end_lineno - 1][o.end_col_offset :]
            told.append(bool(o.annotation or re.match(r'[^,#]*,?\s*#', rest)))
    return {
        'parameters annotated': share(sum(bool(o.annotation) for o in every), len(every)),
        'public ones annotated or commented': share(sum(told), len(told)),
        'functions with more than 6 parameters': str(sum(len(o) > 6 for o in functions)),
    }


def of_docstrings(trees) -> dict[str, str]:
    docs = [ast.get_docstring(o) or '' for tree, _ in trees for o in shown(tree)]
    figures = [share(sum(bool(re.search(p, o)) for o in docs), len(docs)) for p in ('.', *SAYS.values())]
    return {f"docstrings of public symbols: any / {' / '.join(SAYS)}": ' / '.join(figures)}


def of_caches(nodes) -> dict[str, str]:
    marks = [ast.unparse(d) for o in nodes if isinstance(o, FUNCTIONS) for d in o.decorator_list]
    found = [o for o in marks if re.match(r'(functools\.)?(lru_)?cache\b', o)]
    return {'functions behind a cache of their module': str(len(found))}


def counts(root) -> dict[str, str]:
    nbs, files = notebooks(root), modules(root)
    cells = [c for nb in nbs for c in nb.cells if c.exported]
    nodes = [o for c in cells for o in ast.walk(c.parse())]
    trees = [(ast.parse(o), o.splitlines()) for name, o in files.items() if not name.endswith('_modidx.py')]
    written = of_lines(cells) | of_names(nodes) | of_rhythm(nbs)
    return written | of_parameters(trees) | of_docstrings(trees) | of_caches(nodes)


if __name__ == '__main__':
    for name, figure in counts(ROOT).items():
        print(f'{name:<75} {figure}')
