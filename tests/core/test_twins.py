"""Both codecs agree on every byte: hypothesis writes the scripts that ``fuzz.codec`` checks."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuzz.codec import CODECS, Limit, Open, Script, check
from koko.core.wire import Role
from tests.wire import compressed, wire

pytestmark = pytest.mark.once

roles = st.sampled_from(list(Role))
limits = st.none() | st.sampled_from([0, 1, 10, 126, 1000, 1 << 16])
holds = st.sampled_from([1, 10, 200, 1 << 18])
octets = st.binary(max_size=300) | st.text(max_size=100).map(str.encode)
quick = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@pytest.fixture(autouse=True)
def _twins():
    if len(CODECS) == 1:
        pytest.skip("the native codec was not built here")


@st.composite
def heads(draw, sender: Role) -> str:
    """Draw the bits of a head, most of them as they should be."""
    opcode = draw(st.sampled_from([0, 0, 0, 1, 1, 2, 2, 8, 9, 10, 3]))
    rsv = draw(st.sampled_from(["000"] * 6 + ["100"] * 3 + ["010"]))
    fin = draw(st.sampled_from("1110"))
    mask = int(sender.masks) ^ (draw(st.integers(0, 19)) == 19)
    short = draw(st.sampled_from(["len"] * 8 + ["1111110", "1111111"]))
    return f"{fin} {rsv} {opcode:04b}  {mask} {short}"


@st.composite
def frames(draw, sender: Role) -> bytes:
    head, payload = draw(heads(sender)), draw(octets)
    if " 1000 " in head and draw(st.booleans()):
        payload = draw(st.integers(998, 5001)).to_bytes(2, "big") + payload[:50]
    elif " 100 " in head:
        payload = compressed(payload * draw(st.sampled_from([1, 300])))
    return wire(head, payload, key=draw(st.binary(min_size=4, max_size=4)))


@st.composite
def scripts(draw, stream: st.SearchStrategy[bytes] | None = None) -> Script:
    """Draw bytes cut anywhere, with streams opened and limits changed between."""
    role = draw(roles)
    arriving = st.lists(frames(role.peer), max_size=8).map(b"".join) if stream is None else stream
    left = draw(arriving)
    steps: list[bytes | Limit | Open] = []
    while left:
        cut = draw(st.integers(1, 9) | st.integers(1, len(left)))
        steps.append(left[:cut])
        left = left[cut:]
        if draw(st.integers(0, 4)) == 4:
            steps.append(draw(st.just(Open()) | limits.map(Limit)))
    return Script(role, tuple(steps), draw(st.booleans()), draw(limits), draw(holds))


@quick
@given(scripts())
def test_twins_agree_on_frames_and_on_what_is_nearly_a_frame(script):
    check(script)


@quick
@given(scripts(st.binary(max_size=200)))
def test_twins_agree_on_noise(script):
    check(script)


@quick
@given(roles, st.data(), holds)
def test_cutting_makes_no_difference(role, data, hold):
    left = data.draw(st.lists(frames(role.peer), max_size=6).map(b"".join))
    steps = []
    while left:
        steps.append(left[: data.draw(st.integers(1, 40))])
        left = left[len(steps[-1]) :]
    check(Script(role, tuple(steps), hold=hold))


@quick
@given(octets, st.binary(min_size=4, max_size=4), st.integers(-9, 99))
def test_twins_mask_alike(payload, key, at):
    assert len({codec.mask(payload, key, at) for codec in CODECS}) == 1


@quick
@given(octets | st.text(), st.booleans(), st.booleans())
def test_twins_encode_alike(payload, fin, rsv1):
    pure, native = [codec.Encoder(Role.SERVER).encode(1, payload, fin, rsv1) for codec in CODECS]
    assert pure == native


@quick
@given(octets | st.text())
def test_what_one_twin_masks_the_other_unmasks(payload):
    plain = payload.encode() if isinstance(payload, str) else payload
    for sender, receiver in ((CODECS[0], CODECS[1]), (CODECS[1], CODECS[0])):
        frame = sender.Encoder(Role.CLIENT).encode(2, payload)
        assert receiver.Decoder(Role.SERVER).feed(frame) == [plain]


def test_twins_have_the_same_names():
    pure, native = CODECS
    for name in ("Decoder", "Encoder"):
        ours = {word for word in vars(getattr(pure, name)) if not word.startswith("_")}
        theirs = {word for word in vars(getattr(native, name)) if not word.startswith("_")}
        assert ours | {"bytes_out", "failure", "read_limit"} >= theirs >= ours
