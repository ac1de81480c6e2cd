"""32 bits of payload <-> 192 channel bits that survive errors: a checksum, then a convolutional code.

The checksum tells a payload that was read from one that was only guessed; the code spreads each bit over 28 channel
bits, and reading it with soft decisions (Viterbi 1967) is the most likely payload, not a vote bit by bit.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int, UInt8

PAYLOAD_BITS = 32
CHECK_BITS = 16
MESSAGE_BITS = PAYLOAD_BITS + CHECK_BITS
# Rate 1/4, constraint length 7, free distance 20 (Larsen, "Short convolutional codes with maximal free distance",
# IEEE Trans. Information Theory 1973): the best of its length.
GENERATORS = (0o135, 0o135, 0o147, 0o163)
MEMORY = 6
CHANNEL_BITS = MESSAGE_BITS * len(GENERATORS)
CRC_POLYNOMIAL, CRC_START = 0x1021, 0xFFFF  # CRC-16/CCITT


def encode(payload: int) -> UInt8[np.ndarray, " channel_bit"]:
    """The channel bits of a payload in [0, 2³²). The code bites its own tail: it starts in the state it ends in."""
    assert 0 <= payload < 2**PAYLOAD_BITS
    message = _bits(payload << CHECK_BITS | checksum(payload))
    windows = np.stack([np.roll(message, delay) for delay in range(MEMORY + 1)], 1)
    return (windows @ _TAPS % 2).astype(np.uint8).ravel()


def decode(soft: Float[np.ndarray, " channel_bit"]) -> int | None:
    """The payload whose channel bits agree best with `soft` (> 0: a one; its size: how sure), None if unchecked.

    None where the checksum of the best message is wrong, which happens to noise 65,535 times in 65,536.
    """
    message = int("".join(map(str, most_likely(soft).tolist())), 2)
    payload, check = message >> CHECK_BITS, message & (2**CHECK_BITS - 1)
    return payload if check == checksum(payload) else None


def most_likely(soft: Float[np.ndarray, " channel_bit"]) -> Int[np.ndarray, " message_bit"]:
    """The message of maximal Σ soft · (2 · channel bit − 1): Viterbi's search, three times around the circle.

    The first round finds the state to start from, the last one the state to end in; the middle one is the answer.
    """
    rounds = 3
    gains = np.tile(soft.reshape(MESSAGE_BITS, -1), (rounds, 1)) @ _OUTPUTS.T  # step, branch
    score, came_from = np.zeros(_STATES), np.empty((len(gains), _STATES), np.int64)
    for step, gain in enumerate(gains):
        reached = score[_BEFORE] + gain[_BRANCH]  # state, which of its two predecessors
        best = reached.argmax(1)
        came_from[step] = _BEFORE[np.arange(_STATES), best]
        score = reached.max(1)
    state, message = int(score.argmax()), np.empty(len(gains), np.int64)
    for step in reversed(range(len(gains))):
        message[step] = state >> (MEMORY - 1)  # the newest bit of a state is the one that led to it
        state = came_from[step, state]
    return message[MESSAGE_BITS : 2 * MESSAGE_BITS]


def checksum(payload: int) -> int:
    """CRC-16 of the four bytes of a payload."""
    remainder = CRC_START
    for bit in _bits(payload, PAYLOAD_BITS).tolist():
        carry = remainder >> 15 ^ bit
        remainder = (remainder << 1 & 0xFFFF) ^ (CRC_POLYNOMIAL if carry else 0)
    return remainder


def _bits(value: int, count: int = MESSAGE_BITS) -> Int[np.ndarray, " bit"]:
    """The most significant bit first."""
    return np.array([value >> shift & 1 for shift in reversed(range(count))], np.int64)


# A state holds the last MEMORY bits, the newest on top; a branch is a state with one more bit on top.
_STATES = 2**MEMORY
_TAPS = np.stack([_bits(generator, MEMORY + 1) for generator in GENERATORS], 1)  # delay, output
_OUTPUTS = np.stack([_bits(branch, MEMORY + 1) @ _TAPS % 2 * 2 - 1 for branch in range(2 * _STATES)])
_BEFORE = np.stack([np.arange(_STATES) << 1 & (_STATES - 1), np.arange(_STATES) << 1 & (_STATES - 1) | 1], 1)
_BRANCH = (np.arange(_STATES) >> (MEMORY - 1) << MEMORY)[:, None] | _BEFORE
