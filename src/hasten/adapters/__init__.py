"""Where models come from and go to: the only place that knows diffusers and transformers."""
