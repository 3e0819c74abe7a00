"""How untrained networks see three lines: python bench/alignments.py

Writes alignments.csv: for every network that an agent of the shipped tables began with, the `alignment` of a
red, a green and a blue line with the agent's goal, on its background. The page "Which seed decides?" reads
it. It takes two minutes.
"""

from pathlib import Path

import pandas as pd

from goalmisgen.agents.impala import Policy
from goalmisgen.analysis.seeds import alignment

LINES = ('red', 'green', 'blue')
ASKED = {
    ('yellow line', 'black'): [*range(100), 1000, 1001, 1002],
    ('white line', 'black'): range(100),
    ('yellow line', 'textured'): range(30),
}


def main():
    rows = []
    for (goal, background), seeds in ASKED.items():
        for seed in seeds:
            found = {c: alignment(Policy(seed), f'{c} line', goal, background) for c in LINES}
            rows.append(dict(seed=seed, goal=goal, background=background) | found)
    pd.DataFrame(rows).to_csv(Path(__file__).with_suffix('.csv'), index=False)


if __name__ == '__main__':
    main()
