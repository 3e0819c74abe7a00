"""Tables and command lines, mutated at random from fixed seeds: refused in words, or read as what they were.

A few hundred of each; GOALMISGEN_MUTATIONS=10000 for more."""

import os
import random
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from goalmisgen import cli
from goalmisgen.evaluation.exact import evaluate_exact
from goalmisgen.evaluation.questions import Setting
from goalmisgen.evaluation.results import (
    OLD_NAMES,
    columns_of_version,
    read_lengths,
    read_results,
    result_key,
    to_row,
    to_table,
    write_lengths,
    write_results,
)
from goalmisgen.evaluation.sampled import evaluate_sampled
from goalmisgen.parsing import expanded

pytestmark = pytest.mark.slow

MANY = int(os.environ.get('GOALMISGEN_MUTATIONS', 300))
CELLS = [
    '',
    '0',
    '1',
    '-1',
    '0.5',
    'nan',
    'inf',
    'NA',
    'True',
    '1e999',
    '9' * 50,
    '"',
    "'",
    '=1',
    'census',
    'exact',
    'sampled',
    'black',
    'seeds 0-9',
    'unknown',
]


def cells(rng, data):
    "One cell exchanged for another of the file, or for something that people write"
    rows = [r.split(b',') for r in data.split(b'\n')]
    row = rng.choice(rows[:-1])
    other = rng.choice(rows[:-1])
    row[rng.randrange(len(row))] = rng.choice([rng.choice(other), rng.choice(CELLS).encode()])
    return b'\n'.join(b','.join(r) for r in rows)


def lines(rng, data):
    "Rows taken away, repeated, exchanged"
    rows = data.splitlines(keepends=True)
    i, j = rng.randrange(len(rows)), rng.randrange(len(rows))
    kind = rng.randrange(3)
    if kind == 0:
        del rows[i]
    elif kind == 1:
        rows.insert(j, rows[i])
    else:
        rows[i], rows[j] = rows[j], rows[i]
    return b''.join(rows)


def digit(rng, data):
    "One digit changed"
    at = rng.choice([i for i, c in enumerate(data) if chr(c).isdigit()])
    return data[:at] + str(rng.randrange(10)).encode() + data[at + 1 :]


def bytes_(rng, data):
    "A bit flipped, a piece cut out, doubled or put in"
    i = rng.randrange(len(data))
    j = min(len(data), i + rng.randrange(1, 40))
    kind = rng.randrange(4)
    if kind == 0:
        return data[:i] + bytes([data[i] ^ 1 << rng.randrange(8)]) + data[i + 1 :]
    if kind == 1:
        return data[:i] + data[j:]
    if kind == 2:
        return data[:j] + data[i:]
    return data[:i] + rng.randbytes(rng.randrange(1, 5)) + data[i:]


MUTATIONS = [cells, lines, digit, bytes_, lambda rng, data: data[: rng.randrange(len(data))]]


def uniform(frames):
    return torch.full((len(frames), 15), 1 / 15)


@pytest.fixture(scope='module')
def rows():
    asked = [
        f(uniform, Setting(o, 'yellow gem'), range(100000, 100006))
        for o in ('red line', 'green line')
        for f in (evaluate_exact, evaluate_sampled)
    ]
    return {
        to_row(r, 'pop', n, 240, 'PPO', seed=42, trained=('yellow line', 'black', 5, '')): r.lengths
        for n in range(3)
        for r in asked
    }


@pytest.mark.parametrize('mutate', MUTATIONS)
def test_a_mutated_table_is_refused_or_the_same(rows, tmp_path, mutate):
    path, rng, read = tmp_path / 't.csv', random.Random(0), 0
    write_results(path, rows)
    data, right = path.read_bytes(), read_results(path)
    for _ in range(MANY // len(MUTATIONS)):
        mutated = mutate(rng, data)
        path.write_bytes(mutated)
        try:
            found = read_results(path)
        except ValueError as e:
            assert str(path) in str(e), e
            continue
        assert found == right, mutated
        read += mutated != data
    assert read < MANY // 20


@pytest.mark.parametrize('mutate', MUTATIONS)
def test_mutated_lengths_are_refused_or_the_same(rows, tmp_path, mutate):
    path, rng = tmp_path / 't.csv', random.Random(1)
    write_lengths(path, dict(list(rows.items())[:3]))
    where, right = tmp_path / 't.lengths.csv.gz', read_lengths(path)
    import gzip

    packed, data = where.read_bytes(), gzip.decompress(where.read_bytes())
    for i in range(MANY // len(MUTATIONS)):
        where.write_bytes(
            gzip.compress(mutate(rng, data), 1)
            if i % 2 or mutate in (cells, lines, digit)
            else mutate(rng, packed)
        )
        try:
            found = read_lengths(path)
        except ValueError:
            continue
        assert found.keys() == right.keys() and all((found[k] == right[k]).all() for k in right)


@pytest.mark.parametrize('version', [1, 2])
def test_mutated_tables_of_old_are_refused_in_words_or_agree_with_themselves(rows, tmp_path, version):
    "They have no checksums: what is read may differ, but no row contradicts itself, and no error is another"
    path, rng = tmp_path / 't.csv', random.Random(2)
    old = to_table(rows).rename(columns=OLD_NAMES)[list(columns_of_version(version))].assign(schema=version)
    old.to_csv(path, index=False)
    data = path.read_bytes()
    for i in range(MANY):
        path.write_bytes(MUTATIONS[i % len(MUTATIONS)](rng, data))
        try:
            found = read_results(path)
        except ValueError:
            continue
        assert len({result_key(r) for r in found}) == len(found)
        for r in found:
            assert (
                abs(r.p1 + r.p2 + r.timeout - 1) < 1e-5
                and 1 <= r.mean_length <= 500.01
                and (r.method == 'exact') == (r.episodes == 0)
            )
            assert (
                np.isnan(r.preference)
                if r.p1 + r.p2 == 0
                else abs(r.preference - r.p1 / (r.p1 + r.p2)) < 1e-5
            )


# Command lines

OPTIONS = dict(
    study=dict(agents=int, home=Path, workers=int),
    train=dict(agents=int, first=int, workers=int, device=str, track=str, weights_seed=int)
    | {'config.updates': int, 'config.lr': float, 'config.size': int},
    evaluate=dict(
        background=str,
        method=str,
        levels=str,
        tolerance=float,
        episodes=int,
        seed=int,
        out=Path,
        population=str,
        workers=int,
    ),
    watch=dict(obj1=str, background=str, level=int, levels=int, size=int, frames=int, scale=int, out=Path),
    play=dict(level=int, background=str, mode=str),
)
OPTIONS['train-ppo'] = {k: v for k, v in OPTIONS['train'].items() if not k.startswith('config')} | {
    'config.rollout': int,
    'config.clip': float,
}
VALUES = [
    '0',
    '1',
    '5',
    '7',
    '-1',
    '2',
    '1.5',
    '1e3',
    '4294967296',
    '9' * 30,
    'nan',
    'inf',
    '',
    ' ',
    'black',
    'grey',
    'exact',
    'greedy',
    'red line',
    'a b',
    '--',
    '-x',
    'None',
    'none',
    'True',
    '~',
    'x.gif',
    't.csv',
    '\u0661',
    '0x10',
    '[1]',
    '{}',
    '$HOME',
    'naïve',
    'cuda:99',
    'census',
    'x' * 300,
    "'",
    '"',
    '\udcff',
]
JUNK = [
    '--nothing',
    '--agents',
    '-',
    '--help-me',
    '--config',
    '--out=',
    'extra',
    '---',
    '--no-probs',
    '--greedy',
    '@file',
    '--levels=',
    '-h2',
]


def line(rng):
    "A command line, what options it has, and whether something in it has no place"
    command = rng.choice(list(OPTIONS))
    options, words, said = OPTIONS[command], [], {}
    for name in rng.sample(list(options), rng.randrange(1, 4)):
        value = rng.choice(VALUES)
        flag = '--' + name.replace('_', '-')
        words += [f'{flag}={value}'] if rng.random() < 0.5 else [flag, value]
        said[name] = value
    place = {'study': ['quick'], 'play': ['maze_duel']}.get(command, ['agents'])
    junk = rng.choice(JUNK) if rng.random() < 0.2 else None
    return [command, *place, *words, *([junk] if junk else [])], said, junk


def meant(kind, text):
    "The value that a text stands for; ValueError if it is none"
    if kind is str:
        return text
    if kind is Path:
        return expanded(Path(text))
    return None if text == 'None' else kind(text)


@pytest.fixture
def idle(monkeypatch, tmp_path):
    "Commands that do nothing but say what they were"
    seen = []
    monkeypatch.chdir(tmp_path)
    parse = cli.parse_command

    def keep(commands, args):
        seen.append(parse(commands, args))
        return seen[-1]

    empty = pd.DataFrame(
        columns=['step', 'obj1', 'obj2', 'background', 'agent', 'preference', 'mean_length', 'timeout']
    )
    monkeypatch.setattr(cli, 'parse_command', keep)
    monkeypatch.setattr(cli, 'watch', lambda *a, **kw: Path('film'))
    monkeypatch.setattr(cli, '_summary', lambda table: '')
    monkeypatch.setattr('goalmisgen.study.run_study', lambda *a, **kw: Path('page'))
    monkeypatch.setattr(
        'goalmisgen.agents.population.train_population',
        lambda *a, **kw: SimpleNamespace(finished=(), folder='', failed={}),
    )
    monkeypatch.setattr(
        'goalmisgen.evaluation.population.evaluate_population',
        lambda *a, **kw: SimpleNamespace(table=empty, failed={}),
    )
    monkeypatch.setattr('goalmisgen.play.Player', lambda *a, **kw: None)
    monkeypatch.setattr('goalmisgen.play.play_terminal', lambda player: None)
    return seen


def test_a_mutated_command_line_is_refused_or_done_as_typed(idle, capsys):
    rng, done = random.Random(3), 0
    for _ in range(MANY * 2 // 3):
        words, said, junk = line(rng)
        idle.clear()
        try:
            cli.main(words)
            status = 0
        except SystemExit as e:
            status = e.code or 0
        out, err = capsys.readouterr()
        if status:
            assert (
                status == 2
                and err.startswith('goalmisgen: ')
                and not re.search('Traceback|<class|tyro|literal for', err)
            ), (words, err)
            continue
        if out.startswith('usage') or not idle:
            continue  # help was asked for
        done += 1
        lists = [v for v in vars(idle[0]).values() if isinstance(v, tuple)]  # questions, and agents to watch
        place = [str(v) for some in lists for v in some]
        assert junk in (None, '--no-probs', '--greedy', '--out=', '--levels=', *place), (words, idle)
        for name, text in said.items():
            if f'--{name}=' == junk:
                continue
            value, kind = idle[0], OPTIONS[words[0]][name]
            for part in name.split('.'):
                value = getattr(value, part)
            want = meant(kind, text)
            assert value == want or (value != value and want != want) or (text, value) == ('None', None), (
                words,
                name,
                value,
            )
    assert done > MANY // 20
