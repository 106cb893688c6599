"""MLflow: runs, images and adapters in; rankings, plots and adapters that are found again out.

It knows nothing of slots or of the search.
"""
