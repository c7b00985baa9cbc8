"""CZSL methods on CLIP, one folder each: what they train, what they minimise, how they score.

Importing this package loads no torch: `method_options` tells what a method can be told.
"""
