"""Rounding of what ranks send each other: embeddings, and the gradients that come back."""

from torchrec.distributed.fbgemm_qcomm_codec import CommType, QCommsConfig, get_qcomm_codecs
from torchrec.distributed.types import CommOp, QuantizedCommCodecs

from trainer.sharding.settings import Communication

_TYPES = {"float16": CommType.FP16, "bfloat16": CommType.BF16}
_OPS = (CommOp.POOLED_EMBEDDINGS_ALL_TO_ALL, CommOp.POOLED_EMBEDDINGS_REDUCE_SCATTER)


def codecs(communication: Communication, global_batch_size: int) -> dict[str, QuantizedCommCodecs] | None:
    """Of each exchange; None: nothing is rounded.

    Gradients of a mean over the batch are below float16's smallest numbers; they travel in units of one sample's.
    """
    if communication == "float32":
        return None

    kind = _TYPES[communication]
    scale = float(1 << (global_batch_size.bit_length() - 1)) if communication == "float16" else None
    config = QCommsConfig(forward_precision=kind, backward_precision=kind, backward_loss_scale=scale)
    return {op.name: get_qcomm_codecs(config) for op in _OPS}
