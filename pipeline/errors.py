"""The errors that the computing side raises; `reason` codes are stable and recorded in `failures`.

PipelineError
├── DecodeError
│   ├── EmptyImage              empty
│   ├── UnsupportedFormat       unsupported_format
│   ├── CorruptImage            corrupt
│   ├── TooManyBytes            too_large
│   ├── TooManyPixels           too_many_pixels
│   ├── DecoderCrashed          decoder_crashed
│   ├── DecodeTimeout           decode_timeout
│   └── DecodeOutOfMemory       decode_memory
├── DecoderUnavailable          decoder_unavailable (a retry can help)
├── ModelError
│   ├── ModelUnavailable        model_unavailable
│   ├── UnsupportedModel        unsupported_model
│   └── TextNotSupported        text_not_supported
├── InvalidQuery                invalid_query
├── IdTaken                     id_taken
├── SidecarError                broken_sidecar
├── GateFailed                  gate_failed
├── ReindexIncomplete           reindex_incomplete
└── EvaluationError             broken_ground_truth
"""

from storage.errors import VisualSearchError


class PipelineError(VisualSearchError):
    """Raised by the pipeline: the root of what can go wrong while computing."""

    reason = "pipeline_error"


class DecodeError(PipelineError):
    """Raised by the decoder: these bytes are refused as a picture. A retry cannot help."""

    reason = "undecodable"


class EmptyImage(DecodeError):
    """Raised by the decoder: there are no bytes, or the picture has no pixels."""

    reason = "empty"


class UnsupportedFormat(DecodeError):
    """Raised by the decoder: not one of the allowed image formats."""

    reason = "unsupported_format"


class CorruptImage(DecodeError):
    """Raised by the decoder: the header is an allowed format, the rest is damaged or cut off."""

    reason = "corrupt"


class TooManyBytes(DecodeError):
    """Raised by the decoder before opening: the encoded picture is larger than the cap on bytes."""

    reason = "too_large"


class TooManyPixels(DecodeError):
    """Raised by the decoder before decoding: the picture claims more pixels than the cap or than memory holds."""

    reason = "too_many_pixels"


class DecoderCrashed(DecodeError):
    """Raised when decoding in a child process: the picture killed two of them. A retry cannot help."""

    reason = "decoder_crashed"


class DecodeTimeout(DecodeError):
    """Raised when decoding in a child process: the picture took longer than `decode_child_seconds`."""

    reason = "decode_timeout"


class DecodeOutOfMemory(DecodeError):
    """Raised when decoding in a child process: the picture takes more memory than `decode_child_bytes`."""

    reason = "decode_memory"


class DecoderUnavailable(PipelineError):
    """Raised when decoding in child processes: none could be started. A retry can help."""

    reason = "decoder_unavailable"
    retryable = True


class ModelError(PipelineError):
    """Raised by embedders: the root of what can go wrong with a model."""

    reason = "model_error"


class ModelUnavailable(ModelError):
    """Raised when loading a model: neither found locally nor to be had from the hub. The message lists the choices."""

    reason = "model_unavailable"


class UnsupportedModel(ModelError):
    """Raised when loading a model: not of the CLIP family, no safetensors weights, or it wants remote code."""

    reason = "unsupported_model"


class TextNotSupported(ModelError):
    """Raised by embedders without a text tower (`baseline`). Search by image, or choose a CLIP model."""

    reason = "text_not_supported"


class InvalidQuery(PipelineError):
    """Raised by search and reranking: the question itself is wrong (k, offset, options). A retry cannot help."""

    reason = "invalid_query"


class IdTaken(PipelineError):
    """Raised while indexing a source: the image id belongs to another file. Use --id-prefix or another collection."""

    reason = "id_taken"


class SidecarError(PipelineError):
    """Raised when reading attributes from a file: a line cannot be used. A retry cannot help."""

    reason = "broken_sidecar"


class GateFailed(PipelineError):
    """Raised by reindexing: the new generation measures worse than allowed. The active one stays."""

    reason = "gate_failed"


class ReindexIncomplete(PipelineError):
    """Raised by reindexing: some images have no vector of the new model. The active generation stays."""

    reason = "reindex_incomplete"


class EvaluationError(PipelineError):
    """Raised by evaluation: the ground truth is broken, empty, or names unknown images. A retry cannot help."""

    reason = "broken_ground_truth"
