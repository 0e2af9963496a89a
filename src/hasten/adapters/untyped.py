"""What diffusers and transformers leave without types: the kinds of things whose parts and settings
are read by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Pipeline = Any
"""A pipeline of diffusers."""
Net = Any
"""A network of diffusers, or a part of one: which parts it has depends on its config."""
Answer = Any
"""Of a network or a pipeline of diffusers: a tensor, a tuple, or an object of a class of its own.
"""
Autoencoder = Any
"""An autoencoder of diffusers."""
Tokenizer = Any
"""A tokenizer of transformers."""
PipelineCall = Mapping[str, Any]
"""Arguments of a pipeline's own call, by name; each pipeline takes others."""
