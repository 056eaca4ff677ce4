"""Writes rows in order along a curve, which a map should keep whole.

    python tools/curves.py line|ring|trajectory OUT.npy

`line`: 10,000 points on a straight line in 3 dimensions. `ring`: 6,000 on a circle in a plane of 50 dimensions, with noise.
`trajectory`: 8,000 along 39 straight pieces of a random walk in 50 dimensions, with noise.
"""

import sys

import numpy as np


def line(n: int = 10_000) -> np.ndarray:
    """Points on a straight line, float32 (n, 3)."""
    rows = np.zeros((n, 3), np.float32)
    rows[:, 0] = np.arange(n)
    return rows


def ring(n: int = 6_000) -> np.ndarray:
    """Points on a circle with noise, float32 (n, 50)."""
    random = np.random.default_rng(0)
    turn = np.sort(random.random(n)) * 2 * np.pi
    plane = np.linalg.qr(random.normal(size=(50, 2)))[0]
    rows = np.stack([np.cos(turn), np.sin(turn)], 1) @ plane.T + 0.01 / 7 * random.normal(size=(n, 50))
    return rows.astype(np.float32)


def trajectory(n: int = 8_000) -> np.ndarray:
    """Points along a random walk with noise, float32 (n, 50)."""
    random = np.random.default_rng(0)
    corners = np.cumsum(random.normal(size=(40, 50)), axis=0)
    corners /= np.abs(corners).max()
    time, knots = np.linspace(0, 1, n), np.linspace(0, 1, 40)
    rows = np.stack([np.interp(time, knots, corners[:, j]) for j in range(50)], 1)
    return (rows + 0.005 * random.normal(size=(n, 50))).astype(np.float32)


CURVES = {"line": line, "ring": ring, "trajectory": trajectory}

if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in CURVES:
        sys.exit(__doc__)
    np.save(sys.argv[2], CURVES[sys.argv[1]]())
