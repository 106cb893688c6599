"""What a sweep and its trials are told: options in, settings that are validated and stored out.

It imports nothing heavy and knows nothing of Ray, Optuna, or MLflow.
"""
