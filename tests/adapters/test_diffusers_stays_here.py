"""Nothing outside adapters knows a class, layer or setting of diffusers, in code or in text; and
importing changes nothing that other programs share."""

from __future__ import annotations

import functools
import re
import subprocess
import sys
from pathlib import Path

import diffusers
import pytest

SOURCE = Path(__file__).parents[2] / "src" / "hasten"
CLASSES = re.compile(r".+(Scheduler|Pipeline|Transformer\w*Model|UNet\w+)|UNet\w+|Autoencoder\w+")
LAYERS = """
    time_emb_proj time_embedding time_proj time_embed_act class_embedding add_embedding
    down_blocks up_blocks mid_block transformer_blocks resnets conv_in conv_out conv_norm_out
    conv_shortcut skip_time_act pos_embed proj_in proj_out proj_out_1 proj_out_2 to_q to_k to_v
    set_processor residual_connection
"""
INPUTS = "encoder_hidden_states hidden_states class_labels added_cond_kwargs timestep_cond"
SETTINGS = """
    block_out_channels attention_head_dim norm_num_groups num_class_embeds num_embeds_ada_norm
    class_embed_type beta_schedule trained_betas prediction_type v_prediction flow_prediction
    num_train_timesteps timestep_type scheduler_config model_index
"""
LIBRARIES = ("diffusers", "transformers", "peft", "accelerate", "torch_pruning", "onnxscript")


@functools.cache
def words() -> re.Pattern[str]:
    classes = [name for name in dir(diffusers) if CLASSES.fullmatch(name)]
    names = [*classes, *LAYERS.split(), *INPUTS.split(), *SETTINGS.split()]
    return re.compile(rf"(?<!\w)({'|'.join(sorted(names, key=len, reverse=True))})(?!\w)")


def known_in(text: str) -> set[str]:
    """The names of diffusers in ``text``; hasten's own scheduler is none."""
    return set(words().findall(text.replace("ProgramScheduler", "")))


def test_the_names_are_those_that_diffusers_has():
    text = "a UNet2DModel, 'DiTTransformer2DModel', StableDiffusionPipeline; x.time_emb_proj.weight"
    assert known_in(text) == {
        *("UNet2DModel", "DiTTransformer2DModel", "StableDiffusionPipeline", "time_emb_proj"),
    }
    assert len(known_in(" ".join(dir(diffusers)))) > 300
    assert known_in((SOURCE / "adapters" / "families.py").read_text()) > {"UNet2DModel", "conv_in"}
    assert known_in("my_time_proj, ProgramScheduler, time_projection") == set()


def test_no_file_outside_adapters_names_anything_of_diffusers():
    wrong = {}
    for path in sorted(SOURCE.rglob("*.py")):
        place = path.relative_to(SOURCE)
        if place.parts[0] == "adapters":
            continue
        names = known_in(path.read_text(encoding="utf-8"))
        if names:
            wrong[str(place)] = sorted(names)
    assert wrong == {}


SHARED = """
import importlib, importlib.util, logging, os, pkgutil, sys, warnings
import numpy, torch, torch.onnx, torch.ao.quantization.fx._decomposed
for name in LIBRARIES:
    if importlib.util.find_spec(name):
        importlib.import_module(name)
import hasten  # and whatever its modules import from elsewhere, see below


def state():
    flags = [
        torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled(),
        torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32,
        torch.backends.cuda.matmul.allow_tf32, torch.are_deterministic_algorithms_enabled(),
        torch.get_float32_matmul_precision(), torch.initial_seed(), torch.cat, torch.full_like,
        torch.backends.mkldnn.enabled, numpy.geterr(),
    ]
    # Loggers that an import creates inherit their level, so only those with one of their own.
    known = {name: logging.getLogger(name) for name in list(logging.root.manager.loggerDict)}
    levels = {name: one.level for name, one in known.items() if one.level}
    root = logging.root.level, len(logging.root.handlers), logging.root.manager.disable
    return dict(os.environ), list(warnings.filters), flags, levels, root


names = [part.name for part in pkgutil.walk_packages(hasten.__path__, "hasten.")]
names = [name for name in names if name.partition("hasten.")[2].startswith(ONLY)]
names = [name for name in names if not name.endswith(("__main__", "runners.run"))]
before = state()
for name in names:
    importlib.import_module(name)
after = state()
for one, other in zip(before, after):
    if one != other:
        sys.exit(f"{one} became {other}")
print(len(names))
"""


@pytest.mark.slow
def test_importing_any_module_changes_nothing_that_is_shared():
    """Neither the environment nor warnings, logging, torch or numpy."""
    code = f"LIBRARIES, ONLY = {LIBRARIES!r}, ''\n{SHARED}"
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout.split()[-1]) > 100


def test_diffusers_is_quiet_within_a_call_and_as_it_was_after_it():
    import logging

    from hasten.adapters.quiet import TORCHAO, quiet

    loggers = [logging.getLogger(name) for name in TORCHAO]
    before = [logger.level for logger in loggers]
    shared = diffusers.utils.logging
    verbosity, bars = shared.get_verbosity(), shared.is_progress_bar_enabled()
    with quiet():
        assert shared.get_verbosity() == shared.ERROR
        assert not shared.is_progress_bar_enabled()
    assert (shared.get_verbosity(), shared.is_progress_bar_enabled()) == (verbosity, bars)
    assert [logger.level for logger in loggers] == before
