"""Inner loops of the coder, the quantiser and the planner, compiled from loops.c.

Arrays are contiguous and of the dtype stated, and several threads may call at once. A function
raises TypeError or BufferError for other arrays, ValueError for shapes that do not fit.
"""

from numpy import float64, int32, int64, uint8, uint16, uint32, uint64
from numpy.typing import NDArray

def decode_numbers(
    state: NDArray[int64],
    words: NDArray[uint16],
    symbols: NDArray[uint8],
    slots: NDArray[uint32],
    table: int,
    shift: int,
    values: NDArray[int64],
) -> bool:
    """Decode side integers into ``values`` and return whether all are below MOST_SIDE.

    state (3,): the two states of the coder, the next one first, and the number of words taken.
    symbols (tables, 4096): symbol of each slot.
    slots (tables, 30): frequency (low half) and first slot (high half) of each symbol.
    """

def decode_block(
    state: NDArray[int64],
    words: NDArray[uint16],
    symbols: NDArray[uint8],
    slots: NDArray[uint32],
    shape: int,
    integers: NDArray[int32],
    spreads: NDArray[int64],
) -> bool:
    """Decode columns of integers (k, N), in steps, and their spread classes (k,).

    shape: expected shape of the first column. Returns False for what no writer writes. The other
    arguments are those of :func:`decode_numbers`.
    """

def emit_numbers(
    steps: NDArray[uint16],
    meter: NDArray[int64],
    frequencies: NDArray[int32],
    prices: NDArray[int32],
    table: int,
    shift: int,
    values: NDArray[int64],
) -> None:
    """Append side integers as steps, MOST_STEPS at most for each.

    meter (2,): steps so far, and the price of all, in 1/256 bit; updated.
    """

def emit_block(
    steps: NDArray[uint16],
    meter: NDArray[int64],
    frequencies: NDArray[int32],
    prices: NDArray[int32],
    levels: NDArray[int32],
    classes: NDArray[int64],
    before: NDArray[int64],
) -> None:
    """Append columns of levels (k, N) of the classes (k,), counted as in a stream.

    before (2,): class and shape of the last column, updated; class -1 for a block's first column.
    ``steps`` must have MOST_STEPS (N + 2) k free places. The rest is as in :func:`emit_numbers`.
    """

def encode(
    steps: NDArray[uint16],
    frequencies: NDArray[int32],
    starts: NDArray[int32],
    states: NDArray[uint64],
    out: NDArray[uint16],
) -> int:
    """Encode steps from the last one to the first, and return the number of words.

    states (2,): of the coder, updated; the last number uses the second one.
    out: as long as ``steps``; filled from the front with words that a reader takes from the end.
    """

def quantise(
    x: NDArray[float64],
    spreads: NDArray[int64],
    lam: NDArray[float64],
    bits: NDArray[float64],
    levels: NDArray[int32],
    integers: NDArray[int32],
    choices: NDArray[int32],
    paths: NDArray[uint8],
) -> None:
    """Compute the levels of columns with the least ``sum (x - integer)^2 + lam * bits``.

    x (k, N): in steps. spreads (k,): classes. lam (k,): squared steps per bit; at the optimum about
    0.27 (2 ln 2 times the mean squared error of the trellis). bits (classes, 2, K + 1): expected
    cost of |level| = 0..K in each quantiser, signs included; levels beyond K go on with the last
    difference. levels, integers (k, N): outputs. choices (N, 4), paths (N, 8): scratch.
    Deterministic; O(64 N k).
    """

def reconstruct(levels: NDArray[int32], out: NDArray[int32]) -> None:
    """Compute the integers, in steps, of a column of levels, both (N,)."""

def add_products(columns: NDArray[float64], right: NDArray[float64], out: NDArray[float64]) -> None:
    """Add ``columns^T right`` to ``out^T``: columns (q, N), right (q, k), out (k, N)."""

def price_mode(
    energy: NDArray[float64],
    edges: NDArray[int64],
    left_head: NDArray[int64],
    left_shares: NDArray[float64],
    left_classes: NDArray[int64],
    right_head: NDArray[int64],
    right_shares: NDArray[float64],
    right_classes: NDArray[int64],
    rates: NDArray[float64],
    noises: NDArray[float64],
    weighed: NDArray[float64],
    priced: NDArray[float64],
    orders: NDArray[int64],
    classes: NDArray[int64],
    counts: NDArray[int64],
    sums: NDArray[float64],
) -> None:
    """Compute the best classes of all parts of all tasks in one mode, and the kept parts.

    A side comes as the head (way, length, q, wider) and the shares of a SideCost, and the classes
    of the curve that it is refined along.

    energy (P,): of the parts; those of task t are at edges[t] to edges[t + 1]. rates, noises: by
    class. weighed: lost, projected and output of a measure, the price of a bit, bits of a part
    beside its sides, bits of a record. priced (3, P), orders (2, P): scratch. Outputs: classes
    (2, P) of both sides, in the order in which a task's parts are written; counts (T,), how many
    parts pay; sums (2, T), cost and bits, zeros before.
    """
