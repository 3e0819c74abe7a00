"""The site's sidebar, by purpose and then in order of reading: `python tools/sidebar.py` writes
nbs/sidebar.yml

Learning, doing and understanding come first, each a folder of unnumbered pages; the numbered notebooks, which
are the package, are the reference.
"""

from pathlib import Path

from project import ROOT, notebooks

# Folders of pages with a purpose: title, and the pages in order; pages that are not named follow by name
PARTS = dict(
    tutorials=('Tutorials', 'first_population first_agent'),
    how_to=(
        'How-to guides',
        'train_agents use_gpu_or_cluster resume_and_reproduce evaluate_agents read_published watch_agents '
        'make_figures '
        'mark_a_place look_inside draw_vector_fields explore_results add_worlds other_worlds learn_rewards '
        'other_libraries quantilize',
    ),
    studies=(
        'Studies',
        'quick_start preference_and_capability backgrounds three_channels which_seed regression outliers '
        'one_in_five_hundred '
        'level_census corner_worlds large_models one_vector goal_vectors reward_models specification_gaming',
    ),
    explanation=(
        'Explanation',
        'exact_evaluation statistics generalisation trainers three_seeds reproducibility',
    ),
)
LOOK_UP = ['glossary.ipynb', '46_gallery.ipynb']  # The reference opens with these
# Other folders are called by their names
SECTIONS = dict(env='Environment', interp='Looking inside', native='Compiled code')
FIRST, LAST = (
    'Foundations',
    'Programs',
)  # Numbered notebooks of the top folder, before and after those in folders


def titled(folder: str) -> str:
    return SECTIONS.get(folder, folder.replace('_', ' ').capitalize())


def unnumbered(paths: list[Path]) -> list[tuple[str, list[str]]]:
    "Sections of the folders without numbers: those with a purpose in their order, then others by name"
    found, folders = [], sorted({p.parts[0] for p in paths})
    for folder in [*(o for o in PARTS if o in folders), *(o for o in folders if o not in PARTS)]:
        title, named = PARTS.get(folder, (titled(folder), ''))
        order = {name: i for i, name in enumerate(named.split())}
        inside = [p for p in paths if p.parts[0] == folder]
        found.append(
            (
                title,
                [
                    p.as_posix()
                    for p in sorted(inside, key=lambda p: (order.get(p.stem, len(order)), p.as_posix()))
                ],
            )
        )
    return found


def reference(numbered: list[tuple[int, Path]]) -> list[tuple[str, list[str]]]:
    "Sections of the numbered notebooks, by the lowest number in each"
    found = []
    for _, path in sorted(numbered):
        folder = path.parts[0] if len(path.parts) > 1 else ''
        title = titled(folder) if folder else LAST if any(t not in (FIRST, LAST) for t, _ in found) else FIRST
        section = next((pages for t, pages in found if t == title), None)
        if section is None:
            found.append((title, section := []))
        section.append(path.as_posix())
    return found


def contents(root: Path) -> list:
    "The pages as a tree: paths of notebooks, and pairs of a title and what is below it"
    nbs = [(nb.number, nb.path.relative_to(root / 'nbs')) for nb in notebooks(root)]
    names = {path.as_posix() for _, path in nbs}
    look_up = [o for o in LOOK_UP if o in names]
    rest = [(n, p) for n, p in nbs if p.as_posix() not in (*look_up, 'index.ipynb')]
    about = sorted(p.as_posix() for n, p in rest if n is None and len(p.parts) == 1)
    tree = ['index.ipynb'] if 'index.ipynb' in names else []
    tree += unnumbered([p for n, p in rest if n is None and len(p.parts) > 1])
    ref = look_up + reference([o for o in rest if o[0] is not None])
    return tree + ([('Reference', ref)] if ref else []) + ([('About', about)] if about else [])


def lines(tree: list, indent: int) -> list[str]:
    found, space = [], ' ' * indent
    for o in tree:
        if isinstance(o, str):
            found.append(f'{space}- {o}')
        else:
            found += [f'{space}- section: {o[0]}', f'{space}  contents:', *lines(o[1], indent + 4)]
    return found


def sidebar(root: Path) -> str:
    "The text of sidebar.yml"
    return '\n'.join(['website:', '  sidebar:', '    contents:', *lines(contents(root), 6)]) + '\n'


def write(root: Path = ROOT):
    (root / 'nbs/sidebar.yml').write_text(sidebar(root), encoding='utf-8')


if __name__ == '__main__':
    write()
