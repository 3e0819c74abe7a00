"The glossary: every noun that a reader of the pages meets has its place there, and a word has one entry"

import ast
import re

from project import ROOT, Notebook, notebooks, settings

PACKAGE = settings(ROOT)['lib_name']
PAGES = (
    'tutorials',
    'how_to',
    'studies',
    'explanation',
)  # those who read these use the package, and need not have read its notebooks
GLOSSARY = Notebook.read(ROOT / 'nbs/glossary.ipynb')


def definitions() -> dict:
    "Every public class and function of the package: its module and name, and its syntax tree"
    found = {}
    for path in (ROOT / PACKAGE).rglob('*.py'):
        module = '.'.join(path.relative_to(ROOT).with_suffix('').parts)
        for node in ast.parse(path.read_text(encoding='utf-8')).body:
            if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and not node.name.startswith('_'):
                found[module, node.name] = node
    return found


def met_on_pages(found: dict) -> set:
    """What the pages import from the package, and what their functions take and return, as far as annotations
    say"""
    imported = {
        (node.module, name.name)
        for nb in notebooks(ROOT)
        if nb.path.parent.name in PAGES or nb.path.name == 'index.ipynb'
        for cell in nb.code
        for node in ast.walk(cell.parse())
        if isinstance(node, ast.ImportFrom)
        for name in node.names
    }
    met = {name for key, name in ((key, key[1]) for key in imported) if key in found}
    for key in imported & found.keys():
        if isinstance(found[key], ast.FunctionDef):
            notes = [a.annotation for a in ast.walk(found[key].args) if isinstance(a, ast.arg)] + [
                found[key].returns
            ]
            met |= {n.id for note in notes if note for n in ast.walk(note) if isinstance(n, ast.Name)}
    return met


def entries() -> list:
    return [
        line.removeprefix('### ')
        for cell in GLOSSARY.cells
        if cell.kind == 'markdown'
        for line in cell.source.splitlines()
        if line.startswith('### ')
    ]


def test_every_class_that_the_pages_use_is_in_the_glossary():
    found = definitions()
    classes = {name for (_, name), node in found.items() if isinstance(node, ast.ClassDef)} & met_on_pages(
        found
    )
    assert len(classes) > 15, 'the rule finds next to nothing: has it lost sight of the pages?'
    text = '\n'.join(cell.source for cell in GLOSSARY.cells if cell.kind == 'markdown')
    assert not sorted(c for c in classes if f'`{c}`' not in text), (
        'these classes are used on pages, and no entry of the glossary names them'
    )


def test_the_glossary_names_nothing_that_is_gone():
    "A name in backticks that looks like a class is one"
    known = {name for _, name in definitions()}
    text = '\n'.join(cell.source for cell in GLOSSARY.cells if cell.kind == 'markdown')
    assert not {name for name in re.findall(r'`([A-Z][a-z]\w+)`', text) if name not in known}


def test_a_word_has_one_entry():
    words = [word.lower() for word in entries()]
    assert len(words) > 50 and sorted(set(words)) == sorted(words)
