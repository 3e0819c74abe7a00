"Figures in an ordinary Jupyter kernel, where matplotlib finds out late where it is"

import os

import pytest

pytestmark = pytest.mark.slow

nbformat, nbclient = pytest.importorskip('nbformat'), pytest.importorskip('nbclient')
pytest.importorskip('ipykernel')

FRAMES = "import numpy as np\nfrom goalmisgen.style import show_frames\nshow_frames(np.zeros((2, 64, 64, 3), np.uint8));"  # noqa: E501
SCATTER = """from goalmisgen.evaluation.tables import load_table
from goalmisgen.analysis.scatter import scatter
from goalmisgen.evaluation.questions import Setting
scatter(load_table('exact-yellow-line-black'), Setting('red line', 'yellow gem'));"""
OWN = "import matplotlib.pyplot as plt\nplt.plot([0, 1]);"
IN_STYLE = "from goalmisgen.style import style\nwith style() as plt: plt.subplots()[1].plot([0, 1]);"


def pictures(*cells):
    "How many pictures each cell leaves, run in one fresh kernel"
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells])
    nb.metadata['kernelspec'] = dict(name='python3', display_name='python3')
    env = {k: v for k, v in os.environ.items() if k != 'MPLBACKEND'}
    nbclient.NotebookClient(nb, timeout=120).execute(env=env)
    return [sum('image/png' in o.get('data', {}) for o in c.outputs) for c in nb.cells]


@pytest.mark.parametrize('cells', [[FRAMES, FRAMES, SCATTER, OWN, IN_STYLE], [OWN, FRAMES, OWN]])
def test_every_figure_of_a_notebook_appears(cells):
    assert pictures(*cells) == [1] * len(cells)
