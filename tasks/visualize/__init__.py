"""The method made visible: ``python -m tasks.visualize --out DIR``.

exchange (images with exchanged statistics), trained (networks and test images), features (CrossNorm
inside a network), shift (statistics of layers, SelfNorm's gates) <- figures <- __main__.
"""
