"""Execution on a cluster: resources in; slots that train what the broker hands them, reports out.

It knows nothing of what the search makes of a report.
"""
