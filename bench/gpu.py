"""The paper's population on one GPU: is it right, how fast is it, and as many whole agents as the time
allows.

        python bench/gpu.py [--device cuda] [--seconds 540] [--parts check speed exact population] [--out
        bench/gpu]

Parts, each writing to `gpu.csv` what it found as soon as it is there:

check       the first gradient on the device against the plain loop's on the CPU in float32; an agent alone
and among
            others, byte for byte
speed       seconds of a round and agents per hour, for several numbers of agents side by side, with an
untrained policy
                and with the trained one that ships; beside them the loop of `agents.ppo` on the device, and a
        gradient step
                that looks at every frame, as a CUDA graph. `frames_per_s` counts distinct frames, forward and
        backward;
            `steps_per_s` counts environment steps, and so what deduplication saves
exact       exact-advantage agents for half a minute: how many an hour? population  whole agents until the
time is up, each asked its questions exactly on the device (`table.csv`). Whoever is not
                finished keeps its checkpoint, and goes on in the next run. With `--packs`, files of at most
        16 MB with agents

On `--device cpu` with `--tiny` the same code is a test of itself.
"""

import argparse
import sys
import tempfile
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import torch

from goalmisgen.agents.exact_ppo import ExactPPOConfig
from goalmisgen.agents.examples import load_example
from goalmisgen.agents.fused import fused_available
from goalmisgen.agents.impala import Policy
from goalmisgen.agents.parallel import train_parallel
from goalmisgen.agents.parallel_ppo import ParallelPPO
from goalmisgen.agents.population import agent_dir, agents_of
from goalmisgen.agents.ppo import PPO, PPOConfig, ppo_loss
from goalmisgen.agents.training import Seeds, metrics_csv
from goalmisgen.agents.workspace import GraphedCall, network_class
from goalmisgen.core import read_json, write_atomic
from goalmisgen.evaluation.device import DeviceSetting
from goalmisgen.evaluation.results import to_row, write_results

QUESTIONS = (
    'red line vs yellow gem',
    'green line vs yellow gem',
    'blue line vs yellow gem',
    'green line vs red line',
    'yellow line vs yellow gem',
    'yellow line vs black gem',
)
PACK_BYTES = 15_500_000
TINY = dict(
    size=3, num_levels=1000, num_envs=8, rollout=16, minibatches=2, env_steps=8 * 16 * 2, precision='float32'
)
TINY_EXACT = dict(size=3, updates=4, updates_per_solve=2, batch_size=16)


def is_cuda(args):
    return torch.device(args.device).type == 'cuda'


def synchronize(args):
    if is_cuda(args):
        torch.cuda.synchronize()


def note(args, rows, **what):
    "Keep a row, say it and write the table"
    rows.append(what)
    print(
        ' '.join(f'{k}={v:.4g}' if isinstance(v, float) else f'{k}={v}' for k, v in what.items()), flush=True
    )
    keys = list(dict.fromkeys(k for r in rows for k in r))
    short = lambda v: '' if v is None else round(v, 6) if isinstance(v, float) else v
    write_atomic(args.out / 'gpu.csv', metrics_csv([{k: short(r.get(k)) for k in keys} for r in rows]))


# ---------------------------------------------------------------- check


def first_gradient(parallel):
    "A function that gives the first gradient that this trainer computes, once it has learned"
    bench, taken = parallel.workspaces[0], []
    backward = bench.network.backward

    def spy(slope, grad):
        backward(slope, grad)
        if not taken:
            taken.append(grad.clone())

    bench.network.backward = spy
    bench.run = lambda what, *given: getattr(bench, what)(*given)  # unrecorded
    return lambda: taken[0].cpu()


def plain_gradient(config):
    """The batch of a first round of the plain loop on the CPU in float32, and the gradient of its first
    minibatch"""
    learner = PPO(replace(config, precision='float32'), Seeds(1))
    batch = learner.batch(learner.play(learner.env))
    order = torch.randperm(len(batch), generator=learner.rng)
    learner.gradient(batch[order[: len(batch) // config.minibatches]])
    return batch, torch.cat([p.grad.reshape(-1) for p in learner.policy.parameters()])


def check(args, config, rows):
    "Is what the device computes what it should be?"
    small = replace(config, num_envs=64, rollout=64, minibatches=2, epochs=1, env_steps=64 * 64 * 100)
    batch, want = plain_gradient(small)
    for name in args.networks:
        # compiling the fused kernels for float32 takes a minute
        for precision in ('float32', 'auto') if name == 'plain' else ('auto',):
            at = dict(slots=2, streams=1, network=network_class(name, args.device))
            parallel = ParallelPPO(replace(small, precision=precision), args.device, **at)
            parallel.enter(0, PPO(small, Seeds(1)))
            found = first_gradient(parallel)
            parallel.learn()
            same = float((parallel.batch.actions[0].cpu() == batch.actions).float().mean())
            far = float((found() - want).norm() / want.norm())
            note(
                args,
                rows,
                part='check',
                what=f'{name}: first gradient in {precision}',
                distance=far,
                same_actions=same,
            )
            if not far < 0.4:
                raise SystemExit('the device computes something else')
    name = args.networks[-1]
    alone, beside = (weights_of_agent_5(args, config, name, company) for company in (False, True))
    differ = float((alone != beside).sum())
    note(
        args,
        rows,
        part='check',
        what=f'{name}: parameters that differ alone and among others',
        distance=differ,
    )


def weights_of_agent_5(args, config, name, company, slots=3):
    "Weights after two rounds, alone or in the last of the slots beside others"
    parallel = ParallelPPO(config, args.device, slots, 2, network_class(name, args.device))
    for k in range(slots - 1) if company else ():
        parallel.enter(k, PPO(config, Seeds(100 + k)))
    slot = slots - 1 if company else 0
    parallel.enter(slot, PPO(config, Seeds(5)))
    for _ in range(2):
        parallel.learn()
    return parallel.flat[slot].cpu()


# ---------------------------------------------------------------- speed


def learner_of(config, seed, trained):
    learner = PPO(config, Seeds(seed))
    if trained:
        learner.policy.load_state_dict(load_example('ppo-0').state_dict())
    return learner


def seconds_per_round(args, config, parallel, trained):
    "Seconds of a round, after one to warm up; distinct share of a minibatch"
    for slot in range(parallel.slots):
        parallel.enter(slot, learner_of(config, 1000 + slot, trained))
    for _ in range(2 if trained else 1):
        parallel.learn()  # a trained policy's environments get out of step
    synchronize(args)
    begun = time.perf_counter()
    for _ in range(args.rounds):
        found = parallel.learn()
    synchronize(args)
    return (time.perf_counter() - begun) / args.rounds, sum(m['distinct'] for m in found) / len(found)


def speed(args, config, rows):
    "Agents per hour, side by side"
    steps = config.num_envs * config.rollout
    for name in args.networks:
        for slots, streams in args.shapes:
            shape, seconds = dict(slots=slots, streams=streams), []
            parallel = ParallelPPO(config, args.device, slots, streams, network_class(name, args.device))
            for trained in (False, True):
                took, distinct = seconds_per_round(args, config, parallel, trained)
                seconds.append(took / slots)
                memory = torch.cuda.max_memory_allocated() / 2**30 if is_cuda(args) else 0.0
                note(
                    args,
                    rows,
                    part='speed',
                    what=name,
                    **shape,
                    trained=trained,
                    seconds=took / slots,
                    distinct=distinct,
                    frames_per_s=distinct * steps * config.epochs * slots / took,
                    steps_per_s=steps * slots / took,
                    agents_per_hour=3600 * slots / (took * config.iterations),
                    gib=memory,
                )
            mean = 3600 / (config.iterations * sum(seconds) / 2)
            note(
                args,
                rows,
                part='speed',
                what=f'{name}, mean of early and late',
                **shape,
                agents_per_hour=mean,
            )
            del parallel
    baselines(args, config, rows)


def baselines(args, config, rows):
    "One agent in the loop of `agents.ppo` on the device, and a gradient step that looks at every frame"
    learner = PPO(config, Seeds(0), args.device)
    learner.learn()
    synchronize(args)
    begun = time.perf_counter()
    learner.learn()
    synchronize(args)
    took = time.perf_counter() - begun
    each = 3600 / (took * config.iterations)
    note(
        args,
        rows,
        part='speed',
        what='agents.ppo, one process',
        trained=False,
        seconds=took,
        agents_per_hour=each,
    )
    took = every_frame(args, config, learner) * config.epochs * config.minibatches
    each = 3600 / (took * config.iterations)
    note(
        args,
        rows,
        part='speed',
        what='gradient steps on every frame, CUDA graph',
        seconds=took,
        agents_per_hour=each,
    )


def every_frame(args, config, learner):
    "Seconds of a gradient step on a whole minibatch, each step's frame looked at; rollouts left out"
    batch = learner.batch(learner.play(learner.env))
    batch = batch[torch.arange(len(batch) // config.minibatches, device=args.device)]
    frames, params = learner.env.draw(batch.ids), list(learner.policy.parameters())
    for p in params:
        p.grad = torch.zeros_like(p)

    def step():
        with learner.autocast():
            logits, value = learner.policy(frames)
        loss, _ = ppo_loss(logits, value, batch, config)
        loss.mean().backward()

    run = GraphedCall(step, [p.grad for p in params], torch.cuda.Stream() if is_cuda(args) else None)
    run()
    synchronize(args)
    begun = time.perf_counter()
    for _ in range(3):
        run()
    synchronize(args)
    return (time.perf_counter() - begun) / 3


# ---------------------------------------------------------------- exact, population


def exact(args, config, rows):
    "Exact-advantage agents for `--exact-seconds`, none kept"
    config = ExactPPOConfig(goal=args.goal, **(TINY_EXACT if args.tiny else {}))
    for name in args.networks:
        exact_agents(args, config, rows, name)


def exact_agents(args, config, rows, name):
    begun, done = time.perf_counter(), []
    late = lambda: time.perf_counter() - begun > args.exact_seconds
    slots, streams = args.exact_shape
    with tempfile.TemporaryDirectory() as folder:
        report = train_parallel(
            config,
            range(args.agents),
            folder,
            args.device,
            slots,
            streams,
            progress=False,
            network=name,
            save_every=1e9,
            stop=late,
            finished=lambda learner: done.append(time.perf_counter()),
        )
        said = [read_json(agent_dir(folder, n) / 'manifest.json')['training_levels'] for n in report.finished]
    lengths = sorted(s['episode_length'] for s in said)
    median = lengths[len(lengths) // 2] if lengths else float('nan')
    later = len(done) - slots  # graphs are recorded before the first are done
    each = 3600 * later / (done[-1] - done[0]) if later > 0 else 0.0
    note(
        args,
        rows,
        part='exact',
        what=f'{name}: {len(done)} agents, median {median:.2f} steps',
        slots=slots,
        streams=streams,
        seconds=time.perf_counter() - begun,
        agents_per_hour=each,
    )


def population(args, config, rows):
    "Whole agents until the time is up"
    settings = [DeviceSetting(q, args.levels, args.device) for q in args.questions]
    asked, policy = [], Policy(0).to(args.device).eval()

    def finished(learner):
        policy.load_state_dict(learner.policy.state_dict())
        who = args.name, learner.seeds.agent, learner.env_steps, learner.algorithm
        asked.extend(to_row(s.evaluate(policy), *who) for s in settings)
        if asked:
            write_results(args.out / 'table.csv', asked)

    begun = time.perf_counter()
    name, (slots, streams) = quickest(args, rows)
    seeds = range(args.first, args.first + args.agents)
    late = lambda: time.perf_counter() - args.begun > args.seconds
    report = train_parallel(
        config,
        seeds,
        args.home / args.name,
        args.device,
        slots,
        streams,
        network=name,
        save_every=1e9,
        stop=late,
        finished=finished,
    )
    took, n = time.perf_counter() - begun, len(report.finished)
    note(
        args,
        rows,
        part='population',
        what=f'{name}: {n} whole agents',
        slots=slots,
        streams=streams,
        seconds=took,
        agents_per_hour=3600 * n / took,
    )
    if report.failed:
        print('failed:', report.failed)


def quickest(args, rows):
    "Network and shape for the population: as asked for, or the quickest that was measured"
    name = args.use or args.networks[-1]
    if args.population_shape != 'auto':
        return name, shape(args.population_shape)
    measured = [r for r in rows if r['what'] == f'{name}, mean of early and late']
    if not measured:
        return name, (8, 2)
    best = max(measured, key=lambda r: r['agents_per_hour'])
    return name, (best['slots'], best['streams'])


def pack(args):
    "Finished agents from number `--pack-first` on, in zip files of at most 16 MB; returns how many"
    chosen, packs = list(agents_of(args.home / args.name).values())[args.pack_first :], [[]]
    for folder in chosen:
        files = [folder / f for f in ('manifest.json', 'metrics.csv', 'model.safetensors')]
        if sum(f.stat().st_size for f in packs[-1] + files) > PACK_BYTES:
            packs.append([])
        packs[-1] += files
    args.packs.mkdir(parents=True, exist_ok=True)
    for i, files in enumerate(packs[: args.pack_files]):
        with zipfile.ZipFile(
            args.packs / f'agents-{args.pack_first}-{i}.zip', 'w', zipfile.ZIP_DEFLATED, compresslevel=1
        ) as z:
            for f in files:
                z.write(f, f'{f.parent.name}/{f.name}')
    return sum(len(files) // 3 for files in packs[: args.pack_files])


# ---------------------------------------------------------------- the program

PARTS = dict(check=check, speed=speed, exact=exact, population=population)


def shape(text):
    return tuple(map(int, text.split('x')))


def arguments(argv):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add('--device', default='cuda')
    add('--seconds', type=float, default=540, help='when the population stops, from the start of the program')
    add('--parts', nargs='*', default=list(PARTS), choices=list(PARTS))
    add('--networks', nargs='+', choices=['plain', 'fused'], help='default: all that the device can run')
    add('--use', choices=['plain', 'fused'], help='which of them trains the population; default the last')
    add(
        '--shapes',
        nargs='+',
        default=['1x1', '8x1', '8x2', '16x3'],
        help='agents x streams whose speed is measured',
    )
    add('--population-shape', default='auto', help='agents x streams; default the quickest of those measured')
    add('--exact-shape', default='32x4')
    add('--exact-seconds', type=float, default=30)
    add('--rounds', type=int, default=1)
    add('--agents', type=int, default=1000, help='most agents of the population')
    add('--first', type=int, default=0, help='number of the first')
    add('--name', default='ppo-yellow-line-black')
    add('--goal', default='yellow line')
    add(
        '--questions',
        nargs='*',
        default=list(QUESTIONS),
        help='asked of each agent on the device; about .2 s each',
    )
    add('--out', type=Path, default=Path('bench/gpu'))
    add('--home', type=Path, help='where the agents go; default OUT/population')
    add('--packs', type=Path, help='where packs of agents go; none are made without')
    add('--pack-first', type=int, default=0)
    add('--pack-files', type=int, default=4)
    add('--tiny', action='store_true', help='a world of 3 by 3 and few steps: a test of this program')
    args = parser.parse_args(argv)
    args.home = args.home or args.out / 'population'
    args.networks = args.networks or ['plain'] + ['fused'] * fused_available(args.device)
    args.shapes, args.exact_shape = [shape(s) for s in args.shapes], shape(args.exact_shape)
    return args


def main(argv=None):
    args, rows = arguments(argv), []
    args.begun = time.perf_counter()
    config, args.levels = PPOConfig(goal=args.goal), 'published'
    if args.tiny:
        config, args.levels = replace(config, **TINY), range(100000, 100004)
    args.out.mkdir(parents=True, exist_ok=True)
    if is_cuda(args):
        print(torch.cuda.get_device_name(), torch.__version__, flush=True)
    for part in args.parts:
        PARTS[part](args, config, rows)
    if args.packs:
        print('packed', pack(args), 'agents')


if __name__ == '__main__':
    sys.exit(main())
