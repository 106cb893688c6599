"""What diffusion does with a base: photos and prompts in; latents, text, losses and samples out.

It knows nothing of optimizers, and of adapters only that samples may be drawn through them.
"""
