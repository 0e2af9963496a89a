"""What makes an evaluation cheaper: one file a lever; importing it is what registers it."""

from hasten.levers.attention_backend import AttentionBackend
from hasten.levers.decoder import Decoder
from hasten.levers.feature_cache import Attention, Blocks, Deep, Encoder, FirstBlock
from hasten.levers.merge import Merge
from hasten.levers.prompt_cache import PromptCache
from hasten.levers.quantize import Quantize
from hasten.levers.regions import Regions
from hasten.levers.small import Small
from hasten.levers.student import Student
from hasten.levers.text_encoder import TextEncoder
from hasten.levers.tiny_decoder import TinyDecoder
from hasten.levers.torchao import TorchAO

__all__ = [
    "Attention",
    "AttentionBackend",
    "Blocks",
    "Decoder",
    "Deep",
    "Encoder",
    "FirstBlock",
    "Merge",
    "PromptCache",
    "Quantize",
    "Regions",
    "Small",
    "Student",
    "TextEncoder",
    "TinyDecoder",
    "TorchAO",
]
