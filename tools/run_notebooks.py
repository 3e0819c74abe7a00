"""Run notebooks and store their outputs: `python tools/run_notebooks.py [NOTEBOOK ...]` (all of them when
none is named).

Each notebook runs in a fresh process of one thread, in its own folder, two notebooks at a time, those that
take longest first. Running twice gives the same bytes. Cells marked `#| eval: false`, or with a flag from
`tst_flags` in settings.ini such as `#| slow`, are not run and keep their stored outputs; `--slow` runs the
flagged ones too. The outputs of widgets are not stored, except for their images. A failing cell ends its
notebook, which is then left as it was, and makes the exit status 1.
"""

import argparse
import gc
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from queue import SimpleQueue

from project import ROOT, Cell, paths, settings

ONE_THREAD = dict.fromkeys(
    ['OMP_NUM_THREADS', 'MKL_NUM_THREADS', 'OPENBLAS_NUM_THREADS', 'NUMEXPR_NUM_THREADS'], '1'
)
# processors differ in the last bits of a sum: settle on instructions that all of them have
SAME_SUMS = dict(
    ATEN_CPU_CAPABILITY='avx2',
    ONEDNN_MAX_CPU_ISA='AVX2',
    MKL_CBWR='AVX2',
    OPENBLAS_CORETYPE='Haswell',
    NPY_DISABLE_CPU_FEATURES='AVX512F AVX512CD AVX512_SKX AVX512_CLX AVX512_CNL AVX512_ICL',
)
ENV = {
    **ONE_THREAD,
    **SAME_SUMS,
    'PYTHONHASHSEED': '0',
    'PYTHONWARNINGS': 'ignore::DeprecationWarning',
    'TQDM_DISABLE': '1',
    'IN_TEST': '1',
    'MPLBACKEND': 'module://matplotlib_inline.backend_inline',
    'COLUMNS': '80',
}
WIDGET = 'application/vnd.jupyter.widget-view+json'
SECONDS = 900
# other people's packages that most notebooks load, which takes longer than many a notebook
LOADED = [
    'execnb.nbio',
    'execnb.shell',
    'nbdev.clean',
    'torch',
    'pandas',
    'scipy.stats',
    'matplotlib.pyplot',
    'matplotlib_inline.backend_inline',
]
FEW = 4  # so few notebooks do not wait for that
# twenty seconds and more, by measurement, without their numbers; the others follow in order of reading
LONGEST = [
    'agents/population',
    'agents/shared_frames',
    'agents/ppo',
    'study',
    'analysis/outliers',
    'analysis/scores',
    'env/adapters',
]


def skipped(source: str, flags: set) -> bool:
    "Is this cell left alone, with the outputs that it has?"
    cell = Cell('code', source)
    return (
        cell.directives.get('eval', '').lower() == 'false'
        or bool(flags & cell.directives.keys())
        or 'nbdev_export(' in source
    )


def without_widgets(outputs: list) -> list:
    "Outputs as a page can show them: of a widget only the image, if it has one"
    kept = []
    for out in outputs:
        data = out.get('data', {})
        if WIDGET in data:
            data = {k: v for k, v in data.items() if k.startswith('image/')}
            if not data:
                continue
            out = {**out, 'data': data}
        kept.append(out)
    return kept


def execute(path: Path, flags: set):
    "Run the notebook in this process and return it with fresh outputs, cleaned as `nbdev_clean` does"
    from execnb.nbio import _dict2obj, read_nb
    from execnb.shell import CaptureShell
    from nbdev.clean import clean_nb

    nb = read_nb(path)
    os.chdir(path.parent)
    shell = CaptureShell(path)
    for i, cell in enumerate(nb.cells):
        if cell.cell_type != 'code' or skipped(cell.source, flags):
            continue
        cell.outputs = _dict2obj(without_widgets(shell.run(cell.source)))
        if shell.exc:
            print(f'{path.name}, cell {i}:\n\n{cell.source}\n', file=sys.stderr)
            print(
                ''.join(next(o['traceback'] for o in cell.outputs if o['output_type'] == 'error')),
                file=sys.stderr,
            )
            raise SystemExit(1)
    clean_nb(nb, clean_ids=True)
    return nb


def worker(path: Path, dest: Path, flags: set):
    "Run one notebook; what a fresh process does"
    from execnb.nbio import nb2str

    dest.write_text(nb2str(execute(path, flags)), encoding='utf-8')


def fresh(path: Path, flags=frozenset(), seconds=SECONDS) -> tuple[str | None, str]:
    """The notebook's text after running it in a new process, and what it printed to stderr; the text is None
    if it failed"""
    with tempfile.TemporaryDirectory() as tmp:
        dest = Path(tmp) / path.name
        command = [
            sys.executable,
            __file__,
            '--worker',
            str(dest),
            '--flags',
            ' '.join(sorted(flags)),
            str(path),
        ]
        env = {
            **os.environ,
            **ENV,
            'PYTHONPATH': os.pathsep.join([str(home(path)), os.environ.get('PYTHONPATH', '')]),
        }
        try:
            run = subprocess.run(command, env=env, capture_output=True, encoding='utf-8', timeout=seconds)
        except subprocess.TimeoutExpired:
            return None, f'{path.name} was stopped after {seconds} seconds'
        return (dest.read_text(encoding='utf-8') if run.returncode == 0 else None), run.stderr


# Many notebooks: forks of a process that has loaded what they need


def serve():
    """Load what most notebooks load, and then run every notebook that stdin names, one at a time, in a fork of this process:
    each line is a list of arguments for `run_fork`, answered by a line with its exit status, or null if it took too long"""  # noqa: E501
    for name in LOADED:
        import_module(name)
    gc.freeze()  # what is loaded is not looked through again in every fork
    for line in sys.stdin:
        *request, seconds = json.loads(line)
        pid = os.fork()
        if not pid:
            return run_fork(*request)
        print(json.dumps(status(pid, seconds)), flush=True)


def run_fork(path: str, dest: str, errors: str, flags: list):
    "Run a notebook in this process, as if it were a new one"
    for fd, name, mode in [
        (0, os.devnull, os.O_RDONLY),
        (1, os.devnull, os.O_WRONLY),
        (2, errors, os.O_WRONLY | os.O_CREAT),
    ]:
        os.dup2(os.open(name, mode), fd)
    folder = str(home(Path(path)))
    sys.path.insert(1, folder)
    os.environ['PYTHONPATH'] = os.pathsep.join([folder, os.environ.get('PYTHONPATH', '')])
    worker(Path(path), Path(dest), set(flags))


def status(pid: int, seconds: float) -> int | None:
    "The exit status of a child, None if it had to be killed after so many seconds"
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, code = os.waitpid(pid, os.WNOHANG)
        if done:
            return code
        time.sleep(0.02)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


class Server:
    "A process that forks for every notebook"

    def __init__(self):
        self.process = subprocess.Popen(
            [sys.executable, __file__, '--serve'],
            env={**os.environ, **ENV},
            encoding='utf-8',
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def fresh(self, path: Path, flags=frozenset(), seconds=SECONDS) -> tuple[str | None, str]:
        "As the function of this name"
        with tempfile.TemporaryDirectory() as tmp:
            dest, errors = Path(tmp) / path.name, Path(tmp) / 'stderr'
            self.process.stdin.write(
                json.dumps([str(path), str(dest), str(errors), sorted(flags), seconds]) + '\n'
            )
            self.process.stdin.flush()
            code = json.loads(self.process.stdout.readline())
            if code is None:
                return None, f'{path.name} was stopped after {seconds} seconds'
            return (None if code else dest.read_text(encoding='utf-8')), errors.read_text(encoding='utf-8')

    def close(self):
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


def home(path: Path) -> Path:
    "The folder of settings.ini above a notebook"
    return next((o for o in path.parents if (o / 'settings.ini').exists()), path.parent)


def run_all(files: list[Path], flags=frozenset(), workers=2):
    "Yield `(path, text, stderr)` for each notebook, in order"
    servers, forks = (
        SimpleQueue(),
        len(files) > FEW and sys.platform == 'linux',
    )  # elsewhere a fork may not do what torch does

    def run(path):
        if not forks:
            return fresh(path, flags)
        server = servers.get()
        try:
            return server.fresh(path, flags)
        finally:
            servers.put(server)

    for _ in range(workers if forks else 0):
        servers.put(Server())
    try:
        with ThreadPoolExecutor(workers) as pool:
            running = {p: pool.submit(run, p) for p in sorted(files, key=rank)}
            for p in files:
                yield p, *running[p].result()
    finally:
        while not servers.empty():
            servers.get().close()


def rank(path: Path) -> int:
    "Where a notebook stands among those that take longest, which begin first"
    folder, name = path.parent.name, re.sub(r'^\d+_', '', path.stem)
    name = name if folder == 'nbs' else f'{folder}/{name}'
    return LONGEST.index(name) if name in LONGEST else len(LONGEST)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('notebooks', nargs='*', type=Path)
    parser.add_argument('--slow', action='store_true', help='run the cells that are marked as slow too')
    parser.add_argument('--flags', default=settings(ROOT).get('tst_flags', ''), help=argparse.SUPPRESS)
    parser.add_argument('--worker', type=Path, help=argparse.SUPPRESS)
    parser.add_argument('--serve', action='store_true', help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        return serve()
    flags = set() if args.slow else set(args.flags.split())
    if args.worker:
        return worker(args.notebooks[0], args.worker, flags)

    failed = False
    for path, new, stderr in run_all([p.resolve() for p in args.notebooks] or paths(ROOT), flags):
        name = path.relative_to(ROOT) if path.is_relative_to(ROOT) else path
        if new is None:
            failed = True
            print(f'FAILED     {name}\n{stderr}')
        elif new != path.read_text(encoding='utf-8'):
            path.write_text(new, encoding='utf-8')
            print(f'updated    {name}')
        else:
            print(f'unchanged  {name}')
    sys.exit(failed)


if __name__ == '__main__':
    main()
