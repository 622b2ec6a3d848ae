"""Measures any server of the OpenAI API from outside, over HTTP.

Knows nothing of engines, models or our own server: what it learns of them comes in replies.
"""
