"""SALT's two stages as one experiment, and its comparison with V-JEPA (``tools/salt.py``).

:mod:`.stages` makes runs of configs and checks that they fit, :mod:`.plan` chains them and matches
FLOPs, :mod:`.run` carries them out, :mod:`.report` writes.
"""
