"""Kinds of answers, one module each: how a completion is read and graded.

`other_graders` reproduces other tools' graders.
"""
