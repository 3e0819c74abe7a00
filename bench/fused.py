"""The network in fused kernels on one GPU: is it right, how fast is it beside PyTorch, and which launches are
quickest?

        python bench/fused.py [--parts check time kernels tune] [--frames 1000 2000 3000] [--try
        back1.programs=528,back1.rows=64 ...]
                          [--seconds 120] [--out bench/fused.csv]

check       answers and gradients in bfloat16 against PyTorch in float32 on the same device, beside PyTorch's
own bfloat16; the
                same bits twice and with a frame alone; zeros beyond the last frame. `--float32` does this for
        the kernels in float32
            too, which take long to compile
time        milliseconds of a forward pass and of a whole step, forward and backward, as CUDA graphs;
PyTorch's are the same
                network, channels last, under bfloat16 autocast. Medians of 20 replays. Each `--try` is
        measured too: changes of
            `agents.fused.LAUNCHES`, separated by commas
kernels     microseconds of each kernel on its own tune        changes of launches one after another, for
`--seconds`; a change that makes all counts together 1 % quicker is kept

Frames are half noise, half flat shapes on black, as mazes are. Without such a GPU or without Triton the
program says so and ends.
"""

import argparse
import sys
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from goalmisgen.agents.fused import LAUNCHES, FusedImpala, FusedNetwork, fused_available
from goalmisgen.agents.impala import Policy
from goalmisgen.agents.training import metrics_csv
from goalmisgen.agents.workspace import PlainNetwork, flatten_parameters
from goalmisgen.core import write_atomic

CHANGES = (
    'res1.patch_rows=1,res1.rows=128,res1.programs=396',
    'res2.rows=128,res3.rows=128',
    'res2.programs=528,res3.programs=528',
    'res1.stages=2',
    'first.programs=792,first.pool_rows=64',
    'pool2.rows=128,pool2.pool_rows=64',
    'pool2.programs=396',
    'back1.patch_rows=2,back1.programs=132,back1.max_registers=0',
    'back3.programs=264',
    'unpool2.programs=264,unpool2.pool_rows=64',
    'first_back.warps=4,first_back.pool_rows=64,first_back.programs=528',
    'fold.rows=8',
)


def bfloat16():
    return torch.autocast('cuda', torch.bfloat16, cache_enabled=False)


def say(rows, **what):
    rows.append(what)
    print(
        ' '.join(f'{k}={v:.4g}' if isinstance(v, float) else f'{k}={v}' for k, v in what.items()), flush=True
    )


def changed(text, launches=LAUNCHES):
    "Launches after changes such as 'back1.rows=64,back1.programs=528'"
    launches = dict(launches)
    for change in text.split(','):
        where, value = change.split('=')
        name, field = where.split('.')
        launches[name] = replace(launches[name], **{field: int(value)})
    return launches


def pictures(n, seed=0):
    "Frames uint8 (n, 64, 64, 3): half noise, half flat shapes on black"
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 256, (n, 64, 64, 3), dtype=np.uint8)
    for frame in x[n // 2 :]:
        frame[:] = 0
        for y, x0 in rng.integers(0, 52, (8, 2)):
            frame[y : y + 12, x0 : x0 + 12] = rng.integers(0, 256, 3)
    return torch.from_numpy(x[rng.permutation(n)]).cuda()


def policy():
    "A policy whose biases are not zero and whose logits have some size"
    made, rng = Policy(0), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, p in made.named_parameters():
            if name.endswith('bias') or name.startswith('fc_policy'):
                p.copy_(torch.randn(p.shape, generator=rng) * 0.05)
    return made.cuda()


def recorded(fn):
    "A function as a CUDA graph"
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            fn()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        fn()
    return graph.replay


def milliseconds(fn, times=20):
    "Median time of a call on the device"
    for _ in range(3):
        fn()
    events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(times)]
    for begin, end in events:
        begin.record()
        fn()
        end.record()
    torch.cuda.synchronize()
    return float(np.median([begin.elapsed_time(end) for begin, end in events]))


# Parts


class Side:
    "A way to run the network, with the policy's parameters in one piece"

    def __init__(self, kind, frames, autocast, **kwargs):
        self.network = kind(policy(), frames, autocast, **kwargs)
        self.flat, self.grad = flatten_parameters(self.network.policy)

    def step(self, ids, count, slope):
        "Answers and gradient"
        out = self.network(ids, count)
        self.grad.fill_(float('nan'))
        self.network.backward(slope, self.grad)
        return out, self.grad.clone()


def check(args, rows):
    "Is what the kernels compute what it should be?"
    frames, room = pictures(4000), max(args.frames) + 72
    apart = lambda a, b: float((a - b).norm() / b.norm())
    for autocast in (bfloat16, nullcontext) if args.float32 else (bfloat16,):
        fused = Side(FusedNetwork, frames, autocast, capacity=room)
        exact, short = Side(PlainNetwork, frames, nullcontext), Side(PlainNetwork, frames, autocast)
        for n in (1, 37, *args.frames):
            ids, count = torch.randint(0, len(frames), (room,), device='cuda'), torch.tensor(n, device='cuda')
            slope = torch.randn(room, 16, device='cuda') / n
            slope[n:] = 0
            out, grad = fused.step(ids, count, slope)
            again, alone = (
                fused.step(ids, count, slope),
                fused.network(ids[n - 1 : n].repeat(room), torch.ones_like(count)),
            )
            bits = (
                torch.equal(out, again[0])
                and torch.equal(grad, again[1])
                and torch.equal(out[n - 1], alone[0])
            )
            (want, want_grad), (plain, plain_grad) = (
                side.step(ids[:n], count, slope[:n]) for side in (exact, short)
            )
            name = 'bfloat16' if autocast is bfloat16 else 'float32'
            say(
                rows,
                part='check',
                what=name,
                frames=n,
                answers=apart(out[:n], want),
                plain_answers=apart(plain, want),
                gradient=apart(grad, want_grad),
                plain_gradient=apart(plain_grad, want_grad),
                same_bits=int(bits),
            )
            limit = 1.5 * rows[-1]['plain_gradient'] + (0.005 if autocast is bfloat16 else 1e-4)
            if not (bits and rows[-1]['gradient'] < limit and (out[n:] == 0).all()):
                raise SystemExit('the kernels compute something else')


class Clock:
    "Steps of the fused network, recorded once for any number of frames"

    def __init__(self, launches, frames):
        most = len(frames)
        self.fused, self.flat = (
            FusedImpala(most, 'cuda', torch.bfloat16, launches),
            flatten_parameters(policy())[0],
        )
        self.grad = torch.zeros_like(self.flat)
        self.slope = torch.randn(most, 16, generator=torch.Generator().manual_seed(0)).cuda()
        self.count = torch.ones((), dtype=torch.int32, device='cuda')
        self.frames, self.ids = frames, torch.arange(most, device='cuda')
        self.forward, self.step = (
            recorded(self._forward),
            recorded(lambda: (self._forward(), self.fused.backward(self.slope, self.grad))),
        )

    def _forward(self):
        return self.fused.forward(self.flat, self.frames, self.ids, self.count)

    def time(self, counts):
        "Milliseconds forward and of a step, for each number of frames"
        found = []
        for n in counts:
            self.count.fill_(n)
            found.append((milliseconds(self.forward), milliseconds(self.step)))
        return found


def time_it(args, rows):
    "Fused and plain, at some numbers of frames"
    frames = pictures(max(args.frames))
    for change in ('', *args.changes):
        found = Clock(changed(change) if change else None, frames).time(args.frames)
        for n, (forward, step) in zip(args.frames, found):
            say(rows, part='time', what=change or 'fused', frames=n, forward_ms=forward, step_ms=step)
    plain = policy()
    for p in plain.parameters():
        p.grad = torch.zeros_like(p)
    for n in args.frames:
        forward, step = (milliseconds(recorded(fn)) for fn in plain_passes(plain, frames[:n]))
        say(rows, part='time', what='PyTorch', frames=n, forward_ms=forward, step_ms=step)


def plain_passes(plain, frames):
    "PyTorch's forward pass and step"
    slope = torch.randn(len(frames), 16, device='cuda')

    def answers():
        with bfloat16():
            logits, value = plain(frames)
        return torch.cat([logits, value[:, None]], 1)

    def forward():
        with torch.no_grad():
            answers()

    def step():
        for p in plain.parameters():
            p.grad.zero_()
        answers().backward(slope)

    return forward, step


def kernels(args, rows):
    "Each kernel on its own: five launches as a graph"
    clock, start, calls = Clock(None, pictures(max(args.frames))), FusedImpala._start, []

    def note(self, *a, **k):
        calls.append((a, k))
        start(self, *a, **k)

    FusedImpala._start = note
    clock._forward()
    clock.fused.backward(clock.slope, clock.grad)
    FusedImpala._start = start
    for a, k in calls:
        five = recorded(lambda a=a, k=k: [start(clock.fused, *a, **k) for _ in range(5)])
        for n in args.frames:
            clock.count.fill_(n)
            say(
                rows,
                part='kernels',
                what=f'{a[0].__name__} ({a[1]})',
                frames=n,
                us=milliseconds(five, 10) / 5 * 1000,
            )


def tune(args, rows):
    "Keep what is quicker and gives the same gradient"
    frames, begun, launches = pictures(max(args.frames)), time.monotonic(), dict(LAUNCHES)

    def measure(launches):
        clock = Clock(launches, frames)
        steps = [step for _, step in clock.time(args.frames)]
        return steps, clock.grad.clone()

    best, want = measure(launches)
    for change in args.changes or CHANGES:
        if time.monotonic() - begun > args.seconds:
            break
        try:
            steps, grad = measure(changed(change, launches))
        except Exception as e:  # too large for the card, or not possible
            print(change, 'fails:', str(e)[:200], flush=True)
            continue
        apart = float((grad - want).norm() / want.norm())
        kept = apart < 0.05 and sum(steps) < 0.99 * sum(best)
        if kept:
            best, launches = steps, changed(change, launches)
        say(
            rows,
            part='tune',
            what=change,
            kept=int(kept),
            gradient=apart,
            **{f'step_{n}_ms': s for n, s in zip(args.frames, steps)},
        )
    print(
        '\n'.join(f'{k}={v}' for k, v in launches.items() if v != LAUNCHES[k]) or 'the defaults are best',
        flush=True,
    )


PARTS = dict(check=check, time=time_it, kernels=kernels, tune=tune)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--parts', nargs='+', default=['check', 'time'], choices=list(PARTS))
    parser.add_argument(
        '--frames',
        nargs='+',
        type=int,
        default=[1000, 2000, 3000],
        help='numbers of frames that are measured',
    )
    parser.add_argument(
        '--try',
        dest='changes',
        nargs='+',
        default=[],
        help='changes of launches, such as back1.rows=64,back1.programs=528',
    )
    parser.add_argument('--float32', action='store_true', help='check the kernels in float32 too')
    parser.add_argument('--seconds', type=float, default=120, help='when tuning stops')
    parser.add_argument('--out', type=Path, default=Path('bench/fused.csv'))
    args, rows = parser.parse_args(argv), []
    if not fused_available('cuda'):
        return 'this needs an NVIDIA GPU of compute capability 8.0 or more, and Triton 3.6 or later'
    print(torch.cuda.get_device_name(), torch.__version__, flush=True)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    for part in args.parts:
        PARTS[part](args, rows)
    keys = list(dict.fromkeys(k for r in rows for k in r))
    write_atomic(args.out, metrics_csv([{k: r.get(k, '') for k in keys} for r in rows]))


if __name__ == '__main__':
    sys.exit(main())
