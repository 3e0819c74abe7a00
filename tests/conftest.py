"One thread a process: the networks are small, and threads that wait for each other cost more than they bring"

import os

os.environ.setdefault('OMP_NUM_THREADS', '1')
