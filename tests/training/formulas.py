"""Updates of optimisers as their papers state them, in float64, one array after another.

Each function is a generator for one parameter: it yields the value after each step, and gets the
gradient and the learning rate of the next one.
"""

import math

import numpy as np


def adam_direction(b1, b2, eps, nesterov=False):
    m = v = t = 0
    g = yield
    while True:
        t += 1
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g**2
        ahead = b1 * m / (1 - b1 ** (t + 1)) + (1 - b1) * g / (1 - b1**t)
        mean = ahead if nesterov else m / (1 - b1**t)
        g = yield mean / (np.sqrt(v / (1 - b2**t)) + eps)


def adamw(p, decay, b1=0.9, b2=0.999, eps=1e-8, nesterov=False):
    direction = adam_direction(b1, b2, eps, nesterov)
    next(direction)
    while True:
        g, lr = yield p
        p = p - lr * (direction.send(g) + decay * p)


def lamb(p, decay, b1=0.9, b2=0.999, eps=1e-6, adapt=True):
    direction = adam_direction(b1, b2, eps)
    next(direction)
    while True:
        g, lr = yield p
        r = direction.send(g) + decay * p
        p = p - lr * (np.linalg.norm(p) / np.linalg.norm(r) if adapt else 1) * r


def lars(p, decay, momentum=0.9, coefficient=0.001):
    """With Nesterov's momentum."""
    v = 0
    while True:
        g, lr = yield p
        g = g + decay * p
        g = g * lr * coefficient * np.linalg.norm(p) / np.linalg.norm(g)
        v = momentum * v + g
        p = p - (g + momentum * v)


def lion(p, decay, b1=0.9, b2=0.99):
    m = 0
    while True:
        g, lr = yield p
        p = p - lr * (np.sign(b1 * m + (1 - b1) * g) + decay * p)
        m = b2 * m + (1 - b2) * g


def rmsprop(p, decay, momentum=0.9, rate=0.9, eps=1e-8, start=0.0):
    """With Nesterov's momentum."""
    s, v = start, 0
    while True:
        g, lr = yield p
        g = g + decay * p
        s = rate * s + (1 - rate) * g**2
        g = lr * g / np.sqrt(s + eps)
        v = momentum * v + g
        p = p - (g + momentum * v)


def adafactor(p, decay, factored=False):
    rows = columns = v = t = 0
    while True:
        g, lr = yield p
        t += 1
        old = 1 - t**-0.8
        if factored:
            rows = old * rows + (1 - old) * (g**2).mean(1, keepdims=True)
            columns = old * columns + (1 - old) * (g**2).mean(0, keepdims=True)
            v = rows * columns / rows.mean()
        else:
            v = old * v + (1 - old) * g**2
        u = g / np.sqrt(v)
        u = u / max(1, rms(u)) * max(1e-3, rms(p))
        p = p - lr * (u + decay * p)


def rms(x):
    return np.sqrt(np.mean(x**2))


def muon(p, decay, beta=0.95):
    m, t = 0, 0
    while True:
        g, lr = yield p
        t += 1
        m = beta * m + (1 - beta) * g
        ahead = beta * m / (1 - beta ** (t + 1)) + (1 - beta) * g / (1 - beta**t)
        rows, columns = math.prod(p.shape[:-1]), p.shape[-1]
        o = orthogonal(ahead.reshape(rows, columns)).reshape(p.shape)
        p = p - lr * (math.sqrt(max(1, columns / rows)) * o + decay * p)


def orthogonal(x):
    """Five steps of Newton and Schulz with the coefficients of Keller Jordan."""
    x = x / np.linalg.norm(x)
    for _ in range(5):
        a = x @ x.T
        x = 3.4445 * x + (-4.775 * a + 2.0315 * a @ a) @ x
    return x


def schedule_free(direction, p, decay, b1=0.9):
    """The gradient is that at y, which is trained; x is evaluated. Weights are squared rates."""
    next(direction)
    y, z, x = p, p, p
    total = highest = 0
    while True:
        g, (lr, next_lr) = yield y, x
        z = z - lr * (direction.send(g) + decay * y)
        highest = max(highest, next_lr)
        total += highest**2
        x = x + highest**2 / total * (z - x)
        y = b1 * x + (1 - b1) * z


def identity():
    g = yield
    while True:
        g = yield g
