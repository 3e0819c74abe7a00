"What two environments answered, compared"

import numpy as np


def same(a, b):
    "Equal types, keys and arrays; arrays of objects item by item"
    assert type(a) is type(b)
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for k in a:
            same(a[k], b[k])
    elif a.dtype == object:
        for x, y in zip(a, b):
            np.testing.assert_array_equal(x, y)
    else:
        np.testing.assert_array_equal(a, b)
