import torch

from leff.models.scratch import Scratch


def test_memory_is_used_again_and_grows():
    scratch, like = Scratch(), torch.empty(0)
    one = scratch.take(like, (4, 6), torch.float32)
    assert one.shape == (4, 6) and one.dtype == torch.float32
    assert scratch.take(like, (2, 3), torch.float32).data_ptr() == one.data_ptr()
    other = scratch.take(like, (2, 3), torch.bfloat16)
    assert other.dtype == torch.bfloat16 and other.data_ptr() != one.data_ptr()
    assert scratch.take(like, (5, 6), torch.float32).shape == (5, 6)
