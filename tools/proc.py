"""Process the notebooks for the site into _proc and write what Quarto reads; needs no quarto: `python
tools/proc.py`"""

import os
import re
import sys
import warnings
from pathlib import Path

import sidebar
from project import ROOT


def without_private_links(folder: Path):
    "Private names have no place on a page to link to, but nbdev links them when the prose mentions them"
    for path in folder.rglob('*.ipynb'):
        old = path.read_text(encoding='utf-8')
        new = re.sub(r'\[(`_\w+(?:\(\))?`)\]\([^)\s]+#_\w+\)', r'\1', old)
        if new != old:
            path.write_text(new, encoding='utf-8')


def main():
    from nbdev.quarto import refresh_quarto_yml
    from nbdev.serve import proc_nbs

    os.chdir(ROOT)
    refresh_quarto_yml()
    sidebar.write(ROOT)
    try:
        without_private_links(proc_nbs(force=True, n_workers=2))
    except Exception as e:  # of the chain of tracebacks say where it stopped, and why
        why = str(e.__cause__).split('\n\nThe above exception')[0].strip().splitlines()[-1]
        sys.exit(f'{e}\n\n{why}')


if __name__ == '__main__':  # notebooks are processed in new processes, which import this file
    warnings.simplefilter('ignore')
    main()
