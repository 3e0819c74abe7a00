"The site's sidebar, in order of reading: `python tools/sidebar.py` writes nbs/sidebar.yml"
from pathlib import Path

from project import ROOT, notebooks

SECTIONS = dict(env='Environment')  # other folders are called by their names
LAST = 80  # unnumbered folders, such as the studies, come before the notebooks from this number on


def place(path: Path, number: int | None, numbers: dict) -> tuple:
    "Where a page stands: the index first, a folder where its lowest number is, unnumbered pages in their folder by name"
    folder = path.parts[0] if len(path.parts) > 1 else ''
    if not folder: return (-1 if number is None else number, '', 0, path.name)
    return (numbers.get(folder, LAST), folder, LAST if number is None else number, path.name)


def contents(root: Path) -> list[tuple[str, list[str]]]:
    "Sections and their pages; pages of the top folder make sections without a title"
    nbs = [(nb.path.relative_to(root/'nbs'), nb.number) for nb in notebooks(root)]
    numbers = {}
    for path, number in nbs:
        if number is not None and len(path.parts) > 1: numbers[path.parts[0]] = min(number, numbers.get(path.parts[0], number))
    found = []
    for path, _ in sorted(nbs, key=lambda o: place(*o, numbers)):
        folder = path.parts[0] if len(path.parts) > 1 else ''
        title = SECTIONS.get(folder, folder.replace('_', ' ').capitalize())
        if not found or found[-1][0] != title: found.append((title, []))
        found[-1][1].append(path.as_posix())
    return found


def sidebar(root: Path) -> str:
    "The text of sidebar.yml"
    lines = ['website:', '  sidebar:', '    contents:']
    for title, pages in contents(root):
        if title: lines += [f'      - section: {title}', '        contents:']
        lines += [f"{'          ' if title else '      '}- {page}" for page in pages]
    return '\n'.join(lines) + '\n'


def write(root: Path = ROOT):
    (root/'nbs/sidebar.yml').write_text(sidebar(root), encoding='utf-8')


if __name__ == '__main__': write()
