"""Where models come from and go to: the only place that knows diffusers and transformers."""

import logging

# Where ExecuTorch is installed torchao is too, and diffusers imports it: what that cannot load of
# itself on this machine is nobody's concern here.
for _name in ("torchao", "torch.utils._pytree", "diffusers.quantizers.torchao.torchao_quantizer"):
    logging.getLogger(_name).setLevel(logging.ERROR)
