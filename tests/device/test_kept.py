"""What a device keeps of its last answer."""

from leff.device.work import Kept
from leff.wire.messages import Update


def test_an_answer_is_kept_until_the_next_job_and_sent_once_under_a_token(tmp_path):
    update = Update(0, 3, (1,), 5, b"some tensors")
    kept = Kept(tmp_path, 3, "a job")
    assert kept.read() is None
    bare, payload = kept.write(update)
    assert payload is not None and payload.read_bytes() == b"some tensors" and bare.payload == b""
    assert kept.read() == (bare, payload) and not kept.was_sent(payload, "token")
    kept.note_sent(payload, "token")
    again = Kept(tmp_path, 3, "a job")  # another process of this device
    assert again.read() == (bare, payload)
    assert again.was_sent(payload, "token") and not again.was_sent(payload, "another")
    assert not again.was_sent(tmp_path / "another file", "token")
    later = Kept(tmp_path, 3, "another job")
    assert later.read() is None
    later.write(update)
    assert not later.was_sent(payload, "token") and kept.read() is None


def test_a_damaged_answer_is_none(tmp_path):
    kept = Kept(tmp_path, 3, "a job")
    _, payload = kept.write(Update(0, 3, (1,), 5, b"some tensors"))
    payload.write_bytes(b"some tensorz")
    assert kept.read() is None
