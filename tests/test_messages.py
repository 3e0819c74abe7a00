"What an error shows of the value that it refuses"

import numpy as np
import pandas as pd
import pytest
import torch
from goalmisgen.core import require
from goalmisgen.env.chain import move_probs
from goalmisgen.env.levels import check_seeds, make_levels
from goalmisgen.env.maze import MazeEnv

LONG = [
    list(range(10**5)),
    tuple(range(10**5)),
    set(range(10**5)),
    dict.fromkeys(range(10**5)),
    'x' * 10**6,
    b'x' * 10**6,
    10**4000,
    np.arange(10**6),
    np.zeros((300, 300)),
    torch.zeros(50, 50),
    pd.DataFrame(dict(a=range(10**4))),
    [[0] * 1000] * 1000,
    [np.zeros(10**5)] * 99,
]


@pytest.mark.parametrize('value', LONG, ids=lambda v: type(v).__name__)
def test_long_values_are_shortened(value):
    with pytest.raises(ValueError) as e:
        require(False, 'seeds', value, 'a number')
    assert (
        len(str(e.value)) < 1000 and str(e.value).endswith('; allowed: a number') and '\n' not in str(e.value)
    )


@pytest.mark.parametrize(
    'value',
    [
        0,
        -1.5,
        'red',
        None,
        True,
        (5, 'red line'),
        [1, 2],
        dict(size=5, rewards=(10.0,)),
        range(10**9),
        np.arange(3),
    ],
    ids=str,
)
def test_short_values_are_shown_whole(value):
    with pytest.raises(ValueError) as e:
        require(False, 'size', value, 'a number')
    assert str(e.value) == f'size: got {value!r}; allowed: a number'


@pytest.mark.parametrize(
    'call',
    [
        lambda: check_seeds(np.full(10**5, 0.5)),
        lambda: check_seeds([[1] * 1000] * 100),
        lambda: make_levels(np.full((100, 5, 5), np.arange(100)[:, None, None])),
        lambda: make_levels(np.zeros((500, 5, 5), int), start=np.full((500, 2), 7)),
        lambda: move_probs(torch.zeros(1000, 15)),
        lambda: MazeEnv(2, num_levels=1).step(torch.zeros(10**5)),
        lambda: MazeEnv(2, num_levels=1).step([0] * 10**5),
    ],
)
def test_no_function_shows_a_whole_array(call):
    with pytest.raises(ValueError) as e:
        call()
    assert len(str(e.value)) < 1000
