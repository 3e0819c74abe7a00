"The player in a real terminal: keys in, pictures out, and the terminal left as it was"

import os
import pty
import select
import subprocess
import sys
import termios
import time

import pytest


@pytest.mark.slow
def test_play_in_a_terminal():
    parent, child = pty.openpty()
    before = termios.tcgetattr(child)
    p = subprocess.Popen(
        [sys.executable, '-m', 'goalmisgen.cli', 'play', 'maze_duel', '--level', '100002'],
        stdin=child,
        stdout=child,
        stderr=child,
    )
    seen = b''

    def until(text, seconds=90):
        nonlocal seen
        end = time.time() + seconds
        while text.encode() not in seen and time.time() < end:
            if select.select([parent], [], [], 0.5)[0]:
                seen += os.read(parent, 65536)
        assert text.encode() in seen, seen[-2000:].decode(errors='replace')

    try:
        until('maze_duel 100002: step 0 of 500')
        os.write(parent, b'\x1b[C')
        until('step 1 of 500')
        os.write(parent, b'c')
        until('| red |')
        os.write(parent, b'n')
        until('maze_duel 100003: step 0 of 500')
        os.write(parent, b'q')
        assert p.wait(30) == 0
        assert termios.tcgetattr(child) == before
    finally:
        p.kill()
        os.close(parent), os.close(child)
    seen = seen.decode()
    assert seen.count('▀') == 4 * 64 * 32 and '\x1b[38;2;255;0;0' in seen, 'a red line should be seen in red'


@pytest.mark.slow
def test_play_without_a_terminal():
    p = subprocess.run(
        [sys.executable, '-m', 'goalmisgen.cli', 'play'],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert p.returncode == 2 and 'interactive terminal' in p.stderr and 'Traceback' not in p.stderr


@pytest.mark.slow
def test_several_keys_in_one_read():
    "Held down, in two parts, and mixed with what no key is"
    parent, child = pty.openpty()
    p = subprocess.Popen(
        [sys.executable, '-m', 'goalmisgen.cli', 'play', 'maze_duel', '--level', '0'],
        stdin=child,
        stdout=child,
        stderr=child,
    )
    seen = b''
    try:
        for send, text in (
            (b'', 'maze_duel 0: step 0 of 500'),
            (b'    ', 'step 4 of 500'),
            (b'\x1b[1;2C\xc3\xbcz \x1b', 'step 5 of 500'),
            (b'[Z ', 'step 6 of 500'),
            (b'ppp ', 'maze_duel 0: step 1 of 500'),
            (b'nn\x1bOC', 'maze_duel 2: step 1 of 500'),
        ):
            seen = b''
            if send:
                os.write(parent, send)
            end = time.time() + 90
            while text.encode() not in seen and time.time() < end:
                if select.select([parent], [], [], 0.5)[0]:
                    seen += os.read(parent, 65536)
            assert text.encode() in seen, seen[-300:]
        os.write(parent, b'  q  ')
        assert p.wait(30) == 0
    finally:
        p.kill()
        os.close(parent), os.close(child)


def test_the_first_and_the_last_level():
    from goalmisgen.play import LAST_LEVEL, Player

    for level, key, other in ((0, 'previous', 1), (LAST_LEVEL, 'next', LAST_LEVEL - 1)):
        player = Player('maze_duel', level)
        player.press('stay')
        player.press(key)
        assert (player.level_seed, player.steps) == (level, 0)
        player.press('next' if key == 'previous' else 'previous')
        assert player.level_seed == other
