"""Files: tensors and bytes in; whole files, checksums and cached tensors out.

It knows nothing of what the tensors mean.
"""
