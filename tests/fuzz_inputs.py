"""What a file may hold that nobody meant to write: a valid one after mutations, or noise.

Strategies of hypothesis, for `fuzz_readers`.
"""

import re
from collections.abc import Callable

from hypothesis import strategies as st

TOKEN = re.compile(rb'"[^"\n]*"|[^\s,:=;\[\]{}"]+')
"""A string of JSON, or what stands between the separators of any of our text files."""

NUMBERS = (
    *(b"nan", b"NaN", b"inf", b"-inf", b"Infinity", b"-1", b"0", b"-0.0", b"1.5", b"1e400"),
    *(b"1e308", b"-1e308", b"1e-320", b"2147483648", b"-9223372036854775809", b"9" * 30),
    *(b"9" * 5000, b"1" + b"0" * 400, b"0x10", b"1_000", b"1,5", b"+1", b"", "١".encode()),
)
TEXTS = (
    *(b"null", b"true", b"[]", b"{}", b"[[1,2],[3]]", b'{"a":{"b":[1]}}', b'""', b'"x"', b"x"),
    *(b'"\\ud800"', b'"\\u0000"', b"\x00", b"\xff\xfe", b"\xe9", b"\xe2\x80\xa8", b"\r", b"\\"),
    *(b"../../../etc/passwd", b'"../../../etc/passwd"', b"/etc/passwd", b"..", b".", b"%08d"),
    *(b"a" * 300, b"a/" * 3000, b"-", b"=", b"[", b"{", b" " * 5000, b"1 " * 2000),
    *(b"[" * 900, b"[" * 100_000, b'{"a":' * 900, b'{"a":' * 50_000),
    *(b"[" * 900 + b"]" * 900, b'{"a":' * 900 + b"1" + b"}" * 900),
)


def spoilt(valid: bytes) -> st.SearchStrategy[bytes]:
    """A valid file after one to three mutations; one in ten is noise instead."""
    noise = st.one_of(st.binary(max_size=300), st.text(max_size=100).map(str.encode))
    changed = st.lists(_MUTATION, min_size=1, max_size=3).flatmap(
        lambda chosen: _apply(valid, chosen)
    )
    return st.integers(0, 9).flatmap(lambda kind: noise if kind == 0 else changed)


@st.composite
def _apply(draw: st.DrawFn, valid: bytes, chosen: list["Mutation"]) -> bytes:
    for mutation in chosen:
        valid = mutation(draw, valid)
    return valid


Mutation = Callable[[st.DrawFn, bytes], bytes]


def _place(draw: st.DrawFn, data: bytes) -> int:
    """A position, near the begin or the end more often than between."""
    last = max(len(data) - 1, 0)
    place = draw(st.integers(0, last))
    return last - place if draw(st.booleans()) else place


def _span(draw: st.DrawFn, data: bytes) -> tuple[int, int]:
    begin = _place(draw, data)
    return begin, min(len(data), begin + draw(st.integers(1, 64)))


def _flip_bit(draw: st.DrawFn, data: bytes) -> bytes:
    place = _place(draw, data)
    return (
        data[:place]
        + bytes(byte ^ 1 << draw(_BIT) for byte in data[place : place + 1])
        + (data[place + 1 :])
    )


def _truncate(draw: st.DrawFn, data: bytes) -> bytes:
    return data[: _place(draw, data)]


def _delete(draw: st.DrawFn, data: bytes) -> bytes:
    begin, end = _span(draw, data)
    return data[:begin] + data[end:]


def _duplicate(draw: st.DrawFn, data: bytes) -> bytes:
    begin, end = _span(draw, data)
    return data[:end] + data[begin:end] * draw(st.integers(1, 20)) + data[end:]


def _overwrite(draw: st.DrawFn, data: bytes) -> bytes:
    begin, _ = _span(draw, data)
    new = draw(st.binary(max_size=8))
    return data[:begin] + new + data[begin + len(new) :]


def _insert(draw: st.DrawFn, data: bytes) -> bytes:
    place = _place(draw, data)
    return data[:place] + draw(st.sampled_from(TEXTS + NUMBERS)) + data[place:]


def _change_lines(draw: st.DrawFn, data: bytes) -> bytes:
    """Two lines swapped, or one deleted or repeated."""
    lines = data.splitlines(keepends=True) or [b""]
    one, other = (draw(st.integers(0, len(lines) - 1)) for _ in range(2))
    match draw(st.sampled_from(["swap", "delete", "repeat"])):
        case "swap":
            lines[one], lines[other] = lines[other], lines[one]
        case "delete":
            del lines[one]
        case "repeat":
            lines[one:one] = [lines[one]] * draw(st.integers(1, 50))
    return b"".join(lines)


def _change_token(draw: st.DrawFn, data: bytes) -> bytes:
    """A number, name or string replaced by an odd one, or by another of the file."""
    tokens = list(TOKEN.finditer(data, 0, 20_000))
    if not tokens:
        return data
    token = draw(st.sampled_from(tokens))
    others = [other.group() for other in tokens[:50]]
    new = draw(st.sampled_from(NUMBERS) | st.sampled_from(TEXTS) | st.sampled_from(others))
    return data[: token.start()] + new + data[token.end() :]


def _recode(draw: st.DrawFn, data: bytes) -> bytes:
    return data.decode("latin-1").encode(draw(st.sampled_from(["utf-16", "utf-8-sig", "utf-32"])))


_BIT = st.integers(0, 7)
_MUTATION: st.SearchStrategy[Mutation] = st.sampled_from(
    [
        *(_flip_bit, _truncate, _delete, _duplicate, _overwrite, _insert, _change_lines),
        *(_change_token, _change_token, _change_token, _recode),
    ]
)
