"""Run a plan's steps in a diffusers pipeline: python examples/use_a_plan_in_a_pipeline.py.

The pipeline is tiny and untrained, so that nothing is downloaded; put your own in its place.
"""

import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

import hasten


def tiny_pipeline():
    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=16,
        block_out_channels=(32, 32),
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
    )
    return DDPMPipeline(unet, DDPMScheduler())


def main(plan="solver=unipc(order=3),grid=uniform,steps=8"):
    pipe = tiny_pipeline()
    program = hasten.trace(plan, pipe.scheduler)
    pipe.scheduler = hasten.ProgramScheduler(program, prediction="epsilon")
    pictures = pipe(batch_size=2, num_inference_steps=program.evaluations).images
    print(f"{len(pictures)} pictures in {program.evaluations} network evaluations each")
    return pictures


if __name__ == "__main__":
    main()
