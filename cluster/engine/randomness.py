"""The random draw of each output token, computed on the host from (seed, position) alone.

There is no generator object and no state: the draw of a position does not depend on the batch, the slot, the replica or
the device, so a turn that moves to another replica goes on with the very draws it would have had. The function must
never change: a recorded answer is only repeatable while it stays as it is.
"""

from __future__ import annotations

_MASK = 0xFFFF_FFFF_FFFF_FFFF
_GAMMA = 0x9E37_79B9_7F4A_7C15  # 2^64 / golden ratio, the step of splitmix64
_UNIT = 2.0**-53


def _mix(state: int) -> int:
    """The output function of splitmix64 (Steele, Lea and Flood, 2014): 64 bits in, 64 bits out, bijective."""
    state = ((state ^ (state >> 30)) * 0xBF58_476D_1CE4_E5B9) & _MASK
    state = ((state ^ (state >> 27)) * 0x94D0_49BB_1331_11EB) & _MASK
    return state ^ (state >> 31)


def uniform(seed: int, position: int) -> float:
    """The draw for output index ``position`` of a generation with ``seed``: a multiple of 2^-53 in [0, 1).

    The seed is scrambled before the position enters, so that seeds that differ by little share no draws at shifted
    positions. Seeds are taken modulo 2^64; negative ones are allowed.
    """
    stream = _mix((seed + _GAMMA) & _MASK)
    return (_mix((stream + (position + 1) * _GAMMA) & _MASK) >> 11) * _UNIT
