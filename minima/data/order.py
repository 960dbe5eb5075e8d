"""The order of the training data: a pure function, so that no state has to be kept, saved or agreed on.

Each epoch visits the examples in a pseudo-random permutation that is computed for the asked positions only: the
swap-or-not shuffle (Hoang, Morris, Rogaway, CRYPTO 2012), which works for any number of examples.
"""

import hashlib

import numpy as np

from minima.errors import UsageError

_ROUNDS = 96


def steps_per_epoch(global_batch_size: int, num_examples: int) -> int:
    """Number of global batches in an epoch; the last one is smaller where they do not divide the examples.

    Raises:
        UsageError: there is not even one whole.
    """
    if num_examples < global_batch_size:
        raise UsageError(
            f"--global_batch_size: {global_batch_size} sequences, the training records hold {num_examples}; "
            f"valid: 1 to {num_examples}, or build more data"
        )
    return -(-num_examples // global_batch_size)


def batch(seed: int, epoch: int, n: int, global_batch_size: int, num_examples: int) -> np.ndarray:
    """Indices of the examples in global batch `n` (from 0) of an epoch (from 0).

    Within an epoch each example comes exactly once. The result does not depend on the number of processes: each takes
    its slice of it.

    Returns:
        int64 [global_batch_size], in the last batch of an epoch as many as are left.

    Raises:
        UsageError: fewer examples than `global_batch_size`.
    """
    assert 0 <= n < steps_per_epoch(global_batch_size, num_examples)
    end = min((n + 1) * global_batch_size, num_examples)
    positions = np.arange(n * global_batch_size, end, dtype=np.uint64)
    return permute(positions, num_examples, f"{seed}/{epoch}".encode()).astype(np.int64)


def permute(positions: np.ndarray, size: int, key: bytes) -> np.ndarray:
    """Images of uint64 `positions` under the permutation of 0 … size − 1 that `key` chooses; same shape."""
    keys = np.frombuffer(hashlib.shake_128(key).digest(16 * _ROUNDS), dtype="<u8").reshape(_ROUNDS, 2)
    domain = np.uint64(size)
    for turn, salt in zip(keys[:, 0] % domain, keys[:, 1], strict=True):
        partner = (turn + domain - positions) % domain
        swap = _mix(np.maximum(positions, partner) ^ salt) >> np.uint64(63)
        positions = np.where(swap.astype(bool), partner, positions)
    return positions


def _mix(x: np.ndarray) -> np.ndarray:
    """The finaliser of splitmix64 (Steele, Lea, Flood 2014)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
