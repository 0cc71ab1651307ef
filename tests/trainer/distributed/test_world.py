"""What a process says of its libraries."""

import warnings

from trainer.distributed.world import _quiet_libraries


def test_no_library_tells_users_of_its_sharded_tensors() -> None:
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        _quiet_libraries()
        text = "Please use DTensor instead and we are deprecating ShardedTensor."
        warnings.warn(text, FutureWarning, stacklevel=1)
        warnings.warn("another", FutureWarning, stacklevel=1)
    assert [str(entry.message) for entry in told] == ["another"]
