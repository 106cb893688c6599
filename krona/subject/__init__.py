"""The subject: a folder of photos in; pixels, captions, class and prompts out.

It knows nothing of any model.
"""
