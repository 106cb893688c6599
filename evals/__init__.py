"""Scores of generated images: subject fidelity, prompt fidelity, and their calibrated balance."""
