"""Many pictures in shards: resumable, in several processes, with a manifest."""

from hasten.generating.bulk import generate
from hasten.generating.result import Generated, UnfinishedError

__all__ = ["Generated", "UnfinishedError", "generate"]
