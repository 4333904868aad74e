"""The client of a memory service. The torch data set is in ``client.dataset``, which nothing here imports."""

from client._limits import Retries, Timeout
from client.api import MemoryClient
from client.batch import ReplayBatch
from client.buffer import Buffer
from client.cache import ExemplarCache
from client.errors import PhaseTimeoutError, ProtocolError, ServiceError, ServiceTimeoutError, ServiceUnavailableError
from client.from_image import picture_part, record_from_image, text_part
from client.models import DeleteResult, PushResult, UpdateResult
from memory_format.api.answers import (
    BufferInfo,
    BufferStats,
    ChangedBuffer,
    ClassStats,
    Diff,
    ExemplarDetail,
    ExemplarInfo,
    ServiceInfo,
    SnapshotInfo,
)
from memory_format.api.answers import Side as DiffSide
from memory_format.api.contents import FieldCount, FieldCounts, PartInfo
from memory_format.api.phases import LearnerPhase
from memory_format.api.runs import RunInfo, RunReport

__all__ = [
    "Buffer",
    "BufferInfo",
    "BufferStats",
    "ChangedBuffer",
    "ClassStats",
    "DeleteResult",
    "Diff",
    "DiffSide",
    "ExemplarCache",
    "ExemplarDetail",
    "ExemplarInfo",
    "FieldCount",
    "FieldCounts",
    "LearnerPhase",
    "MemoryClient",
    "PartInfo",
    "PhaseTimeoutError",
    "ProtocolError",
    "PushResult",
    "ReplayBatch",
    "Retries",
    "RunInfo",
    "RunReport",
    "ServiceError",
    "ServiceInfo",
    "ServiceTimeoutError",
    "ServiceUnavailableError",
    "SnapshotInfo",
    "Timeout",
    "UpdateResult",
    "picture_part",
    "record_from_image",
    "text_part",
]
