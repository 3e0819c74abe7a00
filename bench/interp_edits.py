"""What an edit costs: `python bench/interp_edits.py` writes interp_edits.csv beside itself

Two comparisons, in CPU-seconds of one thread, both sides in turn in one process, medians. An edit by going
on from a cached stage against the whole network, for 256 frames of a trained agent and 64 of a network of
four times the channels. And the exact preference of a trained agent on the 1,000 published levels, plain and
with an edit behind the second block. The edit is so small that the agent asks about the same frames: what is
timed is the edit, not what a wandering mouse costs.
"""

import argparse
import csv
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from goalmisgen.agents.examples import load_example
from goalmisgen.agents.impala import Policy
from goalmisgen.evaluation.exact import evaluate_exact
from goalmisgen.evaluation.policies import PolicyCache
from goalmisgen.evaluation.questions import RenderCache, Setting, evaluation_levels
from goalmisgen.interp.activations import run_with_cache, run_with_hooks
from goalmisgen.interp.edited_agents import EditedPolicy
from goalmisgen.interp.edits import AddVector, as_edits

SETTING = Setting('red line', 'yellow gem')
LAYER = 'embedder.block2.res1'


def seconds(function) -> float:
    before = time.process_time()
    function()
    return time.process_time() - before


def alternate(sides: dict, repeat: int) -> dict:
    "The median seconds of each side, after one round that does not count"
    rounds = [{name: seconds(function) for name, function in sides.items()} for _ in range(repeat + 1)]
    return {name: statistics.median(r[name] for r in rounds[1:]) for name in sides}


def suffix(policy, frames, repeat):
    "One edit of a layer, from the frames and from the layer"
    channels = policy.embedder.block2.conv.out_channels
    edit = as_edits(AddVector(LAYER, np.ones(channels))).hooks_for(policy)
    with torch.no_grad():
        _, cache = run_with_cache(policy, frames, LAYER, stop_at=LAYER)
        sides = dict(
            start=lambda: run_with_hooks(policy, frames, edit),
            suffix=lambda: run_with_hooks(policy, cache.prefix(LAYER), edit),
        )
        return alternate(sides, repeat)


def preference(repeat):
    "The exact preference on the published levels, with and without an edit"
    policy = load_example('exact-3')
    edited = EditedPolicy(policy, AddVector('block3.res1', np.ones(32), 1e-6))
    renders = RenderCache()
    for agent in (policy, edited):
        evaluate_exact(PolicyCache(agent, renders), SETTING, range(100_000, 100_010))
    return alternate(
        dict(
            plain=lambda: evaluate_exact(PolicyCache(policy, renders), SETTING),
            edited=lambda: evaluate_exact(PolicyCache(edited, renders), SETTING),
        ),
        repeat,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--repeat', type=int, default=3)
    parser.add_argument('--out', type=Path, default=Path(__file__).with_suffix('.csv'))
    options = parser.parse_args()
    torch.set_num_threads(1)
    levels = evaluation_levels('published').levels[:256]
    frames = SETTING.renderer().first_frames(levels)
    found = {
        'edit of block2.res1, 256 frames': suffix(load_example('exact-3'), frames, options.repeat),
        'the same, four times the channels': suffix(Policy(0, scale=4).eval(), frames[:64], options.repeat),
        'exact preference, 1,000 levels': preference(options.repeat),
    }
    with open(options.out, 'w', newline='') as file:
        table = csv.writer(file, lineterminator='\n')
        table.writerow(['task', 'side', 'cpu_seconds', 'ratio'])
        for task, sides in found.items():
            first = next(iter(sides.values()))
            for side, spent in sides.items():
                table.writerow([task, side, f'{spent:.3f}', f'{spent / first:.2f}'])
    print(options.out.read_text())


if __name__ == '__main__':
    main()
