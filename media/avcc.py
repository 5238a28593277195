"""H.264 parameter sets: two streams become one where each keeps its own (ISO/IEC 14496-15, 5.3.3.1).

The header of an H.264 track in MP4, MOV or Matroska may list several sets of parameters, and every slice names its
own. So frames of two encoders can follow each other in one track, none of them changed, if their sets have different
numbers.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

__all__ = ["Avcc", "length_prefixed", "split_start_codes"]

_SLICES = (1, 5)
_SPS, _PPS = 7, 8
_MOST = 31  # sets of a kind in a header
_NUMBERS = 32  # numbers that a sequence parameter set may have (H.264, 7.4.2.1.1)


@dataclass(frozen=True)
class Avcc:
    """An `AVCDecoderConfigurationRecord`.

    Attributes:
        profile, compatibility, level: as its first set says them.
        length_size: bytes of the length before every unit.
        sps, pps: sequence and picture parameter sets.
        rest: what follows them: chroma format and depths, from profile High on.
    """

    profile: int
    compatibility: int
    level: int
    length_size: int
    sps: tuple[bytes, ...]
    pps: tuple[bytes, ...]
    rest: bytes = b""

    @classmethod
    def parse(cls, data: bytes) -> Avcc | None:
        """Read one; None if `data` is something else, such as units behind start codes."""
        if len(data) < 7 or data[0] != 1:
            return None
        try:
            sps, at = _sets(data, 6, data[5] & 31)
            pps, at = _sets(data, at + 1, data[at])
        except IndexError:
            return None
        return cls(data[1], data[2], data[3], (data[4] & 3) + 1, sps, pps, data[at:])

    def to_bytes(self) -> bytes:
        """As the header of a track has it."""
        head = bytes([1, self.profile, self.compatibility, self.level, 0xFC | (self.length_size - 1)])
        listed = [bytes([0xE0 | len(self.sps)]), *map(_sized, self.sps), bytes([len(self.pps)]), *map(_sized, self.pps)]
        return head + b"".join(listed) + self.rest

    def free_number(self) -> int | None:
        """A number that no parameter set has yet, of either kind; None if all are taken."""
        taken = {_golomb(_payload(unit)[3:]) for unit in self.sps} | {_golomb(_payload(unit)) for unit in self.pps}
        return next((number for number in range(_NUMBERS) if number not in taken), None)

    def with_sets(self, units: list[bytes]) -> Avcc:
        """The same with further parameter sets, and a level that both kinds of frames keep to.

        Raises:
            ValueError: they are of another profile, or too many.
        """
        sps = tuple(unit for unit in units if unit[0] & 31 == _SPS)
        pps = tuple(unit for unit in units if unit[0] & 31 == _PPS)
        if len(self.sps) + len(sps) > _MOST or any(unit[1] != self.profile for unit in sps):
            raise ValueError("its header has no room for more parameters of its profile")
        both = self.compatibility
        for unit in sps:
            both &= unit[2]
        level = max(self.level, *(unit[3] for unit in sps))
        return replace(self, compatibility=both, level=level, sps=self.sps + sps, pps=self.pps + pps)


def split_start_codes(data: bytes) -> list[bytes]:
    """The units of a stream with start codes (H.264, Annex B)."""
    return [unit for unit in re.split(b"\0\0\0\1|\0\0\1", data) if unit]


def length_prefixed(data: bytes, length_size: int) -> bytes:
    """The slices of a packet with start codes, each behind its length; parameter sets and messages are left out."""
    slices = [unit for unit in split_start_codes(data) if unit[0] & 31 in _SLICES]
    return b"".join(len(unit).to_bytes(length_size, "big") + unit for unit in slices)


def _sets(data: bytes, at: int, count: int) -> tuple[tuple[bytes, ...], int]:
    """`count` units behind 16-bit lengths, and where they end."""
    found = []
    for _ in range(count):
        size = data[at] << 8 | data[at + 1]
        unit = data[at + 2 : at + 2 + size]
        if len(unit) < max(size, 4 if unit[:1] and unit[0] & 31 == _SPS else 2):
            raise IndexError
        found.append(unit)
        at += 2 + size
    return tuple(found), at


def _sized(unit: bytes) -> bytes:
    return len(unit).to_bytes(2, "big") + unit


def _payload(unit: bytes) -> bytes:
    """A unit without its first byte and without the bytes that keep start codes out of it."""
    return unit[1:].replace(b"\0\0\3", b"\0\0")


def _golomb(data: bytes) -> int:
    """The unsigned Exp-Golomb number at the start of `data` (H.264, 9.1)."""
    bits = "".join(f"{byte:08b}" for byte in data[:9])
    zeros = len(bits) - len(bits.lstrip("0"))
    return int(bits[zeros : 2 * zeros + 1] or "1", 2) - 1
