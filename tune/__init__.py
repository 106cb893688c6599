"""The search: Ray slots that train adapters, Optuna that proposes settings, MLflow that records."""
