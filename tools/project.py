"""What the tools need to know about the project: its settings, and its notebooks with their numbers, modules
and cells"""

import ast
import json
import re
from configparser import ConfigParser
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
EXPORTS = {'export', 'exports', 'exporti'}


def settings(root: Path) -> dict:
    "The project's settings.ini"
    ini = ConfigParser(delimiters=['='])
    ini.read(root / 'settings.ini', encoding='utf-8')
    return dict(ini['DEFAULT'])


def text(lines) -> str:
    "Notebooks store text as a string or as a list of lines"
    return lines if isinstance(lines, str) else ''.join(lines)


@dataclass
class Cell:
    "One cell: `#| name: value` lines become `directives`, the rest of the text is `body`"

    kind: str
    source: str
    outputs: list = field(default_factory=list)

    @cached_property
    def directives(self) -> dict:
        if self.kind != 'code':
            return {}
        found = re.findall(r'^[ \t]*#\|[ \t]*([\w-]+)[ \t]*:?[ \t]*(.*?)[ \t]*$', self.source, re.M)
        return dict(found)

    @property
    def body(self) -> str:
        return (
            re.sub(r'^[ \t]*#\|.*\n?', '', self.source, flags=re.M).strip('\n')
            if self.kind == 'code'
            else self.source
        )

    @property
    def exported(self) -> bool:
        return bool(EXPORTS & self.directives.keys())

    def parse(self) -> ast.Module:
        "The syntax tree of a code cell; lines of magic are left out"
        return ast.parse(
            ''
            if self.body.startswith('%%')
            else re.sub(r'^([ \t]*)[%!].*$', r'\1pass', self.body, flags=re.M)
        )


@dataclass
class Notebook:
    path: Path
    cells: list[Cell]

    @classmethod
    def read(cls, path: Path) -> 'Notebook':
        cells = json.loads(path.read_text(encoding='utf-8'))['cells']
        return cls(path, [Cell(c['cell_type'], text(c['source']), c.get('outputs', [])) for c in cells])

    @property
    def code(self) -> list[Cell]:
        return [c for c in self.cells if c.kind == 'code']

    @property
    def number(self) -> int | None:
        "12 for `12_maze.ipynb`, None for `index.ipynb`"
        found = re.match(r'(\d+)_', self.path.name)
        return int(found[1]) if found else None

    @property
    def module(self) -> str | None:
        "What follows `#| default_exp`"
        return next((c.directives['default_exp'] for c in self.code if 'default_exp' in c.directives), None)


def paths(root: Path) -> list[Path]:
    "All notebooks of a project in order of reading; processed and hidden folders are left out"
    found = (root / 'nbs').rglob('*.ipynb')
    return sorted(p for p in found if not any(o[0] in '._' for o in p.relative_to(root).parts))


def notebooks(root: Path) -> list[Notebook]:
    return [Notebook.read(p) for p in paths(root)]
